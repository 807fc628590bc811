"""The losses of the stages, and the golden pictures with what was asked for, as pictures."""

import json
import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from PIL import Image

from training.files import read_lines

NOT_LOSSES = {"step", "total", "seconds"}


def plot_losses(logs: list[Path], out: Path) -> None:
    """One panel per log, one line per loss, over the steps. Raises ValueError for a log without losses."""
    figure, panels = plt.subplots(1, len(logs), figsize=(6 * len(logs), 4), squeeze=False, layout="constrained")
    for panel, path in zip(panels[0], logs, strict=True):
        lines = [line for line in read_lines(path) if "step" in line]
        if not lines:
            raise ValueError(f"{path} holds no losses; give the log.jsonl of a stage's folder")
        for name in sorted(set(lines[-1]) - NOT_LOSSES):
            panel.plot([line["step"] for line in lines], [line[name] for line in lines], label=name.replace("_", "-"))
        panel.set(xlabel="step", ylabel="weighted loss", yscale="log", title=path.parent.name)
        panel.legend()
        panel.grid(alpha=0.3)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
    plt.close(figure)


def draw_gallery(goldens: Path, out: Path, columns: int = 5) -> None:
    """Every approved picture, an edit beside its input, under its prompt. Raises OSError for a case without one."""
    folders = sorted(path.parent for path in goldens.glob("*/expected.png"))
    if not folders:
        raise FileNotFoundError(f"{goldens} holds no golden; docs/golden-images.md says how one is approved")
    rows = -(-len(folders) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(3 * columns, 2.2 * rows), squeeze=False, layout="constrained")
    for panel in panels.flat:
        panel.axis("off")
    for panel, folder in zip(panels.flat, folders, strict=False):
        prompt = json.loads((folder / "case.json").read_text(encoding="utf-8"))["request"]["prompt"]
        panel.set_title(textwrap.fill(prompt, 38), fontsize=9)
        panel.imshow(_beside(folder))
    figure.savefig(out, dpi=100)
    plt.close(figure)


def _beside(folder: Path) -> Image.Image:
    with Image.open(folder / "expected.png") as picture:
        made = picture.convert("RGB")
    if not (folder / "input.png").exists():
        return made
    with Image.open(folder / "input.png") as picture:
        given = picture.convert("RGB").resize(made.size)
    both = Image.new("RGB", (2 * made.width + 8, made.height), "white")
    both.paste(given, (0, 0))
    both.paste(made, (made.width + 8, 0))
    return both
