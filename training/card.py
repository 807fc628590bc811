"""The model card: only what logs and scores say."""

import json
from pathlib import Path
from typing import Any

from training.evaluate import describe_share
from training.files import read_lines, write_bytes
from training.paired import pairs_of, table

TARGETS = {
    ("text-to-image", "colour"): 0.95,
    ("text-to-image", "shape"): 0.90,
    ("text-to-image", "relation"): 0.85,
    ("edit", "all right"): 0.90,
}


def write_card(scores: Path, logs: list[Path], out: Path, note: str = "", paired: Path | None = None) -> None:
    """Write the card as Markdown, with what only a person knows of the training as a note.

    paired: what `compare` wrote of other precisions.

    Raises OSError or ValueError if a file is missing or holds something else.
    """
    result = json.loads(scores.read_text(encoding="utf-8"))
    options = result["options"]
    lines = [
        "# Model card: the small BAGEL of the golden pictures",
        "",
        "A BAGEL of real structure and small size, trained on a drawn world (docs/training.md). It is made to show",
        "whether kernels are right and is good for nothing else: it knows nine colours, seven shapes and a few places.",
        "Every figure here was written by `python -m training card` from the logs and the scores; `docs/training.md`",
        "says what they mean and what the model does badly.",
        "",
        "## Training",
        "",
        *_training(logs),
        *(["", note] if note else []),
        "",
        "## Measured quality",
        "",
        f"On {_samples(result['scores'])} held-out samples per task (texts whose sha256 was never trained on), "
        f"{options['steps']} steps, shift 3, {options['size']} x {options['size']} pixels, reference implementation",
        f"in float32 on {options['device']}, torch {result['torch']}. Guided: text scale {options['text_scale']}, and",
        f"image scale {options['image_scale']} for edits. The autoencoder's rows are pictures that went through it",
        "and back: what the transformer could reach at best.",
        "Shares with 95 % Wilson intervals; a thing that is missing is wrong in colour and in shape.",
        "",
        "| task | what is right | share | asked for |",
        "|---|---|---|---|",
        *_rows(result["scores"]),
        "",
        "```",
        f"python -m training evaluate --checkpoint CHECKPOINT --out scores.json --count {options['count']} "
        f"--steps {options['steps']} --size {options['size']}",
        "```",
        "",
        *([] if paired is None else _precisions(paired)),
        "## Files",
        "",
        *[f"- `{name}` sha256 `{digest}`" for name, digest in result["checkpoint"].items()],
        "",
    ]
    write_bytes(out, "\n".join(lines).encode())


def _precisions(paired: Path) -> list[str]:
    """Raises OSError or ValueError."""
    found = json.loads(paired.read_text(encoding="utf-8"))
    pairs = {name: {task: pairs_of(one) for task, one in tasks.items()} for name, tasks in found["pairs"].items()}
    return [
        "## In other precisions",
        "",
        "The same held-out samples and seeds; docs/quantisation.md says what the kinds are. Lost and won: samples that",
        f"are all right with {found['first']} only, and with the other only.",
        "",
        *table(found["first"], found["scores"], pairs),
        "",
        "```",
        "python -m training evaluate --checkpoint CHECKPOINT --task text-to-image --task edit --dtype bfloat16 "
        "--out A.json",
        "python -m training evaluate ... --out B.json --quantise fp8",
        "python -m training compare A.json B.json ... --out paired.json",
        "```",
        "",
    ]


def _training(logs: list[Path]) -> list[str]:
    lines = [
        "| stage | parameters | steps | seconds | GPU | torch | seed | last losses (weighted) |",
        "|---|" + "---|" * 7,
    ]
    for path in logs:
        entries = read_lines(path)
        runs = [entry for entry in entries if "run" in entry]
        steps = [entry for entry in entries if "step" in entry]
        if not runs or not steps:
            raise ValueError(f"{path} is not the log of a stage that has trained; give the log.jsonl of its folder")
        lines.append(_training_row(entries, runs[-1], steps[-1]))
    return lines


def _training_row(entries: list[dict[str, Any]], run: dict[str, Any], last: dict[str, Any]) -> str:
    losses = ", ".join(f"{n} {v}" for n, v in last.items() if n not in ("step", "total", "seconds"))
    cells = [run["stage"], run["parameters"], last["step"], _seconds(entries), run["gpu"], run["torch"]]
    return "| " + " | ".join(str(cell) for cell in [*cells, run["run"]["seed"], losses]) + " |"


def _seconds(entries: list[dict[str, Any]]) -> float:
    """Wall clock of all calls: each begins with its run's entry."""
    total, reached = 0.0, 0.0
    for entry in entries:
        if "run" in entry:
            total, reached = total + reached, 0.0
        reached = max(reached, entry.get("seconds", 0.0))
    return round(total + reached, 1)


def _samples(scores: dict[str, dict[str, Any]]) -> str:
    """How many were made of each task: fewer than asked for if the run was out of time."""
    made = sorted({shares["all right"]["total"] for shares in scores.values()})
    return str(made[0]) if len(made) == 1 else f"{made[0]} to {made[-1]}"


def _rows(scores: dict[str, dict[str, Any]]) -> list[str]:
    return [
        f"| {task} | {name} | {describe_share(share)} | {_target(task, name)} |"
        for task, shares in scores.items()
        for name, share in shares.items()
    ]


def _target(task: str, name: str) -> str:
    wanted = TARGETS.get((task, name))
    return "" if wanted is None else f">= {100 * wanted:.0f} %"
