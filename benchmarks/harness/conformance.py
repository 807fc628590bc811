"""Replay stored runs of the original BAGEL and compare every stored field with its limit."""

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bagel.pipeline import BagelPipeline, GeneratedText
from bagel.sampler import schedule
from bagel.transforms import MAX_PIXELS, Resize, to_rgb
from benchmarks.harness.oracle import INPUTS, Case, read_object
from benchmarks.harness.records import Conformance, Difference
from benchmarks.harness.replayed import NoResultError, Replayed
from reference_impl.contract import MoTOps


@dataclass(frozen=True)
class Limit:
    """What a difference may be: largest, and RMS; None is not judged."""

    worst: float | None = None
    rms: float | None = None


NOT_JUDGED = Limit()
EXACT = Limit(0.0)
STATE = Limit(1e-5)
VELOCITY = Limit(3e-5, 6e-6)
TIME = Limit(1e-6)
FLOAT32 = {
    "timesteps": TIME,
    "argmax_ids": EXACT,
    "generated_ids": EXACT,
    "first_forward.llm2vae.out": VELOCITY,
    **dict.fromkeys(("v_t", "v_cond", "v_cfg_text", "v_cfg_img", "final_latents", "final_latent_spatial"), VELOCITY),
}
"""Limits in float32, from the oracle's README, section 4: several times what threads, kernels and float64 change.
Fields that are not named have the limit STATE."""

PNG_STEP, PNG_SHARE = 1.0, 0.001
"""float32: bytes of the picture may be one apart, on at most this share."""

RELATIVE_L2 = {"t2i": 0.02, "edit": 0.04}
PSNR = {"t2i": 45.0, "edit": 42.0}
"""Half precision: final latents by relative L2, the picture by PSNR in dB; nothing else is judged."""


def replay(
    folder: Path, case_names: Sequence[str] | None, ops: MoTOps, device: torch.device, dtype: torch.dtype
) -> Iterator[Conformance]:
    """One record per stored case, as soon as it is done; all cases for None or an empty list.

    In half precision token ids may rightly differ, so thinking and understanding are skipped: `ok` is False and
    `skipped` says why. What the implementation raises is the `error` of its case, and the others go on. Raises OSError
    or ValueError for a folder that cannot be read or a name that is not in it, NotImplementedError for a dtype that the
    implementation does not have.
    """
    names = list(case_names or case_list(folder))
    if unknown := sorted(set(names) - set(case_list(folder))):
        raise ValueError(f"{folder} has no case {', '.join(unknown)}; it has {', '.join(case_list(folder))}")
    pipeline = BagelPipeline.from_checkpoint(folder / "checkpoint", ops, device, dtype)
    for name in names:
        start = time.perf_counter()
        differences: list[Difference] = []
        not_compared: list[str] = []
        skipped = error = ""
        if name in TABLES:
            differences = _table(folder / "cases", name)
        else:
            case = Case.read(folder / "cases" / name)
            skipped = _why_skipped(case, dtype)
            try:
                if not skipped:
                    differences, not_compared = compare(case, Replayed.of(case, pipeline), dtype)
            except NoResultError as broken:
                error = str(broken)
        yield Conformance(
            case=name,
            impl=ops.name,
            device=device.type,
            dtype=str(dtype).removeprefix("torch."),
            ok=not skipped and not error and all(difference.ok for difference in differences),
            seconds=time.perf_counter() - start,
            differences=differences,
            not_compared=not_compared,
            skipped=skipped,
            error=error,
        )


def case_list(folder: Path) -> list[str]:
    """The cases of a folder, in the order of their names; the two tables last. Raises FileNotFoundError."""
    cases = folder / "cases"
    names = sorted(path.parent.name for path in cases.glob("*/case.json"))
    if not names:
        raise FileNotFoundError(f"{folder} holds no cases/*/case.json; give a folder with checkpoint/ and cases/")
    return names + [name for name in TABLES if (cases / f"{name}.json").is_file()]


def compare(case: Case, run: Replayed, dtype: torch.dtype) -> tuple[list[Difference], list[str]]:
    """Every stored field and fact against the run; and the names of those that were not compared."""
    differences, not_compared = [], []
    for name, stored in case.tensors.items():
        ours = None if name in INPUTS else run.value(name)
        if ours is None:
            not_compared.append(f"{name} (given)" if name in INPUTS else name)
        else:
            differences.append(difference(name, ours, stored, _limit(name, stored, case, dtype)))
    differences += [
        Difference(name, float(ours != stored), math.nan, 0.0, None, ours == stored)
        for name, ours, stored in _facts(case, run)
    ]
    return differences + _picture(case, run, dtype), not_compared


def difference(name: str, ours: Tensor, stored: Tensor, limit: Limit) -> Difference:
    """The largest and the RMS difference; infinite if the shapes differ or a value is not finite."""
    if ours.shape != stored.shape:
        error = torch.tensor([math.inf])
    else:
        error = (ours.double() - stored.double()).abs().nan_to_num(nan=math.inf)
    worst = float(error.max()) if error.numel() else 0.0
    rms = float(error.square().mean().sqrt()) if error.numel() else 0.0
    ok = (limit.worst is None or worst <= limit.worst) and (limit.rms is None or rms <= limit.rms)
    return Difference(name, worst, rms, limit.worst, limit.rms, ok)


def _limit(name: str, stored: Tensor, case: Case, dtype: torch.dtype) -> Limit:
    base = name.split(".every")[0].split(".step")[0]
    if dtype == torch.float32:
        return FLOAT32.get(base, STATE)
    if base != "final_latents":
        return NOT_JUDGED
    return Limit(None, RELATIVE_L2[case.task] * float(stored.double().square().mean().sqrt()))


def _why_skipped(case: Case, dtype: torch.dtype) -> str:
    if dtype == torch.float32 or not (case.think or case.task == "understand"):
        return ""
    return "greedy token ids may rightly differ from float32 in half precision"


def _facts(case: Case, run: Replayed) -> Iterator[tuple[str, Any, Any]]:
    """(name, ours, stored) of what case.json says and must be equal."""
    facts, tokenizer = case.facts, run.pipeline.model.tokenizer
    stored: dict[str, Any] = {
        "prompt_token_ids": facts.get("prompt_token_ids"),
        "think_generated_ids": facts.get("think_generated_ids"),
        "think_text": facts.get("think_text"),
        "text": facts.get("text"),
        "output_image_size_wh": facts.get("output_image_size_wh"),
        "cfg_scales_per_step": facts.get("cfg_scales_per_step"),
        "latent_query.key_values_lens": facts.get("latent_query", {}).get("key_values_lens"),
        "cfg_text_branch.kv_len": facts.get("cfg_text_branch", {}).get("kv_len"),
        "cfg_img_branch.kv_len": facts.get("cfg_img_branch", {}).get("kv_len"),
    }
    ours: dict[str, Any] = {"prompt_token_ids": tokenizer.encode(facts["prompt"])}
    if isinstance(run.result, GeneratedText):
        ours["text"] = run.result.text
    else:
        ours["output_image_size_wh"] = list(run.result.image.size)
        ours["cfg_scales_per_step"] = [list(case.guidance().scales_at(t)) for t in run.series("denoise", "t")]
        ours["latent_query.key_values_lens"] = [run.context_rows("main")]
        ours["cfg_text_branch.kv_len"] = run.context_rows("no_text")
        ours["cfg_img_branch.kv_len"] = run.context_rows("no_image")
    if case.think:
        ours |= {"think_text": run.image.text, "think_generated_ids": run.written_ids()}
    for name, value in stored.items():
        if value is not None:
            yield name, ours.get(name), value


def _picture(case: Case, run: Replayed, dtype: torch.dtype) -> list[Difference]:
    if case.png is None:
        return []
    stored = torch.from_numpy(np.array(to_rgb(Image.open(case.png))))
    ours = torch.from_numpy(np.array(run.image.image))
    if dtype != torch.float32:
        return [difference(case.png.name, ours, stored, Limit(None, 255 * 10 ** (-PSNR[case.task] / 20)))]
    step = difference(case.png.name, ours, stored, Limit(PNG_STEP))
    share = float((ours != stored).double().mean()) if ours.shape == stored.shape else 1.0
    name = f"{case.png.name}: share of bytes that differ"
    return [step, Difference(name, share, math.nan, PNG_SHARE, None, share <= PNG_SHARE)]


def _table(cases: Path, name: str) -> list[Difference]:
    try:
        return TABLES[name](read_object(cases / f"{name}.json"), cases)
    except KeyError as error:
        raise ValueError(f"{cases}/{name}.json lacks the field {error}; copy the folder again") from error


def _transforms(table: dict[str, Any], cases: Path) -> list[Difference]:
    """The resize table: sizes, and sha256 of the resized pixels of a pattern that is computed from (x, y)."""
    vae, vit = (_rule(table[f"default_{name}_transform"]) for name in ("vae", "vit"))
    differences = []
    for entry in table["pattern_table"]:
        width, height = entry["input_wh"]
        first = vae(_pattern(width, height))
        twice, seen = vae(first), vit(first)
        ours = {
            "vae_resize_wh": list(first.size),
            "vae_resize_twice_wh": list(twice.size),
            "vit_from_vae_wh": list(seen.size),
            "vit_directly_from_input_wh": list(vit.size(width, height)),
            "vae_sha256": _sha256(first),
            "vae_twice_sha256": _sha256(twice),
            "vit_sha256": _sha256(seen),
        }
        differences.append(_agreement(f"{width}x{height}", ours, entry))
    entry = table["edit_input"]
    image = to_rgb(Image.open(cases / "inputs" / "edit_input.png"))
    first = _rule(entry["small_vae_transform"])(image)
    seen = _rule(entry["small_vit_transform"])(first)
    ours = {
        "size_wh": list(image.size),
        "rgb_sha256": _sha256(image),
        "vae_wh": list(first.size),
        "vae_sha256": _sha256(first),
        "vit_wh": list(seen.size),
        "vit_sha256": _sha256(seen),
    }
    return [*differences, _agreement("edit_input.png", ours, entry)]


def _agreement(label: str, ours: dict[str, Any], stored: dict[str, Any]) -> Difference:
    """How many of these facts differ; they are named."""
    wrong = [name for name, value in ours.items() if name in stored and stored[name] != value]
    return Difference(
        f"{label}: {', '.join(wrong)}" if wrong else label, float(len(wrong)), math.nan, 0.0, None, not wrong
    )


def _schedules(table: dict[str, Any], cases: Path) -> list[Difference]:
    differences = []
    for entry in table["schedules"]:
        times = schedule(entry["num_timesteps"], entry["timestep_shift"])
        label = f"{entry['num_timesteps']} steps, shift {entry['timestep_shift']:g}"
        for name, ours in (("t", times[:-1]), ("dt", times[:-1] - times[1:])):
            differences.append(difference(f"{label}: {name}", ours, torch.tensor(entry[name]), TIME))
    return differences


def _rule(entry: dict[str, int]) -> Resize:
    max_pixels = entry.get("max_pixels", MAX_PIXELS)
    return Resize(entry["max_image_size"], entry["min_image_size"], entry["image_stride"], max_pixels)


def _pattern(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    channels = [(7 * x + 13 * y) % 256, (x * x + 3 * y) % 256, ((5 * x) ^ (11 * y)) & 255]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def _sha256(image: Image.Image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


TABLES: dict[str, Callable[[dict[str, Any], Path], list[Difference]]] = {
    "transforms": _transforms,
    "schedules": _schedules,
}
"""The cases that are tables beside the stored runs: `cases/transforms.json` and `cases/schedules.json`."""
