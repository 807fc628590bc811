"""A golden: what is asked of the model, the approved picture, its limits, and who approved it why.

A case is a folder `golden_images/<name>/` with case.json (this file's dataclasses), expected.png, and input.png for
image-to-image. What one stack has of its own lies in stacks/<stack>.json, and .png for its golden.
docs/golden-images.md explains each field.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from bagel.pipeline import BagelPipeline, Guidance, ImageRequest
from bagel.transforms import Resize
from benchmarks.harness import images, records
from benchmarks.harness.golden_approval import Approval, LimitsRecord, Overlay, edited, overlay_json
from benchmarks.harness.golden_folders import CASE as CASE
from benchmarks.harness.golden_folders import GOLDENS as GOLDENS
from benchmarks.harness.golden_folders import INPUT as INPUT
from benchmarks.harness.golden_folders import asks, case_folders, facts_of, refused_in_one_line, request_sha256
from benchmarks.harness.golden_limits import Kind, Limits
from benchmarks.harness.images import RGB
from benchmarks.harness.stack import BASE, Stack

EXPECTED, STACKS = "expected.png", "stacks"


@dataclass(frozen=True)
class Request:
    """What is asked of the model. Changing any of it makes the golden stale.

    checkpoint     BAGEL folder, relative to the repository
    dtype          precision in which the golden is made
    height, width  pixels, for text-to-image; for image-to-image the resized input decides
    vae_resize, vit_resize  rules that bring the input to size; the checkpoint's unless given
    """

    task: typing.Literal["t2i", "img2img"]
    checkpoint: str
    prompt: str
    seed: int
    steps: int
    timestep_shift: float
    guidance: Guidance
    dtype: typing.Literal["float32", "float16", "bfloat16"] = "float32"
    height: int | None = None
    width: int | None = None
    vae_resize: Resize | None = None
    vit_resize: Resize | None = None


@dataclass(frozen=True)
class GoldenCase:
    """One case. `exercises` says what it is for; `interpreter`: short enough for fused kernels in the interpreter.

    request_sha256  of the request as case.json has it
    limits_record   who set the limits, and what they rest on; None for limits that were set by hand
    overlays        stack -> what it has instead
    stack           the stack that the case is judged on (`on`), empty for none: then only the base counts
    """

    folder: Path
    exercises: str
    interpreter: bool
    request: Request
    request_sha256: str
    limits: dict[Kind, dict[str, Limits]]
    approval: Approval | None
    limits_record: LimitsRecord | None = None
    overlays: dict[str, Overlay] = field(default_factory=dict)
    stack: str = ""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def checkpoint(self) -> Path:
        """The checkpoint's folder."""
        return self.folder.parents[1] / self.request.checkpoint

    def on(self, stack: Stack) -> GoldenCase:
        """The case as it is judged on a stack: with the stack's golden and limits, where there are any."""
        overlay = self.overlays.get(stack.name)
        if overlay is None:
            return dataclasses.replace(self, stack=stack.name)
        limits = {kind: base | overlay.limits.get(kind, {}) for kind, base in self.limits.items()}
        return dataclasses.replace(self, limits=limits, approval=overlay.golden or self.approval, stack=stack.name)

    def basis(self, kind: Kind, dtype: str) -> str:
        """Whose limits these are: the name of the stack, or "base"."""
        overlay = self.overlays.get(self.stack)
        return self.stack if overlay and dtype in overlay.limits.get(kind, {}) else BASE

    def limits_of(self, kind: Kind, dtype: str) -> dict[str, float] | None:
        """Metric -> limit of those that are judged; None if the case sets none for this dtype."""
        limits = self.limits[kind].get(dtype)
        return limits.given if limits else None

    def record_of(self, kind: Kind, dtype: str) -> LimitsRecord | None:
        """Who set these limits; None for limits that were set by hand."""
        overlay = self.overlays.get(self.stack)
        return overlay.record if overlay and self.basis(kind, dtype) != BASE else self.limits_record

    def void(self, kind: Kind, dtype: str) -> str:
        """Why these limits no longer belong to the case, or nothing."""
        record = self.record_of(kind, dtype)
        if record is None:
            return ""
        held = {
            "case.json's request": (self.request_sha256, record.request_sha256),
            f"checkpoint {self.request.checkpoint}": (checkpoint_sha256(self.checkpoint), record.checkpoint_sha256),
            "the metrics' definition": (str(images.DEFINITION), str(record.definition)),
        }
        changed = _changed(held)
        return f"since its limits were measured {changed}; type: motbench golden calibrate" if changed else ""

    def image_request(self) -> ImageRequest:
        """What the pipeline is asked. Raises OSError or ValueError."""
        ask, source = self.request, self.input()
        return ImageRequest(
            prompt=ask.prompt,
            image=None if source is None else Image.fromarray(source),
            height=ask.height,
            width=ask.width,
            steps=ask.steps,
            seed=ask.seed,
            timestep_shift=ask.timestep_shift,
            guidance=ask.guidance,
        )

    def fitted(self, pipeline: BagelPipeline) -> BagelPipeline:
        """The same model with the case's rules for input sizes, where it has any."""
        ask = self.request
        return dataclasses.replace(
            pipeline,
            vae_resize=ask.vae_resize or pipeline.vae_resize,
            vit_resize=ask.vit_resize or pipeline.vit_resize,
        )

    def input(self) -> RGB | None:
        """The picture to edit. Raises OSError or ValueError."""
        return images.read_png(self.folder / INPUT) if self.request.task == "img2img" else None

    @property
    def expected_path(self) -> Path:
        """Where the golden lies: the stack's own, or the case's."""
        overlay = self.overlays.get(self.stack)
        own = overlay is not None and overlay.golden is not None
        return self.folder / STACKS / f"{self.stack}.png" if own else self.folder / EXPECTED

    def expected(self) -> RGB | None:
        """The approved picture; None if there is none yet, or no more.

        Raises ValueError for a file that is no PNG, has another size than the case, or is not the approved one.
        """
        path = self.expected_path
        if not path.exists():
            return None
        picture = images.read_png(path)
        height, width = self.request.height, self.request.width
        if height and width and picture.shape[:2] != (height, width):
            raise ValueError(
                f"{path} is {picture.shape[1]} x {picture.shape[0]} but the case asks for {width} x {height}; "
                "restore it from git"
            )
        if self.approval is None or images.fingerprint(picture) != self.approval.rgb:
            approved = "nothing" if self.approval is None else self.approval.rgb
            raise ValueError(
                f"{path} is {images.fingerprint(picture)} but {approved} was approved; restore it from git, or use "
                "`motbench golden accept`"
            )
        return picture

    def stale(self) -> str:
        """Why the golden no longer belongs to the case, or nothing."""
        if self.approval is None:
            return ""
        source = self.input()
        held = {
            "case.json's request": (self.request_sha256, self.approval.request_sha256),
            INPUT: ("" if source is None else images.fingerprint(source), self.approval.input_rgb),
            f"checkpoint {self.request.checkpoint}": (
                checkpoint_sha256(self.checkpoint),
                self.approval.checkpoint_sha256,
            ),
            "the metrics' definition": (str(images.DEFINITION), str(self.approval.definition)),
        }
        changed = _changed(held)
        return f"since the golden was approved {changed}; restore it, or accept a new golden" if changed else ""


def _changed(held: typing.Mapping[str, tuple[str, str]]) -> str:
    """What is no longer as it was, name -> (now, then), in words."""
    return "; ".join(f"{name} is {now[:20]} but was {then[:20]}" for name, (now, then) in held.items() if now != then)


def read_cases(goldens: Path, names: typing.Sequence[str] | None = None) -> list[GoldenCase]:
    """The cases of a folder of goldens that make a picture, by name; all of them for None or nothing.

    Raises OSError or ValueError for a case that cannot be read, an unknown name, one that is named and asks for text
    (golden_answers), and a folder without cases.
    """
    folders = case_folders(goldens, names)
    if names and (texts := [folder.name for folder in folders if asks(folder)]):
        raise ValueError(f"golden case {', '.join(texts)} asks a question and makes no picture; name another case")
    return [read_case(folder) for folder in folders if not asks(folder)]


FIELDS = {"format", "exercises", "interpreter", "request", "limits", "limits_record", "provenance"}


def read_case(folder: Path) -> GoldenCase:
    """One case. Raises OSError, or ValueError naming the file and what is wrong in it."""
    with refused_in_one_line(folder / CASE):
        facts = facts_of(folder / CASE, FIELDS)
        case = GoldenCase(
            folder=folder,
            exercises=str(facts["exercises"]),
            interpreter=records.from_dict(bool, facts["interpreter"]),
            request=records.from_dict(Request, facts["request"]),
            request_sha256=request_sha256(facts),
            limits=records.from_dict(dict[str, dict[str, Limits]], facts["limits"]),
            approval=records.from_dict(Approval | None, facts["provenance"]),
            limits_record=records.from_dict(LimitsRecord | None, facts.get("limits_record")),
            overlays=_overlays(folder),
        )
        _check(case)
    return case


def _check(case: GoldenCase) -> None:
    """What the types do not say."""
    if set(case.limits) != set(typing.get_args(Kind)):
        raise ValueError(f"limits are given for {sorted(case.limits)} but must be for parity and drift")
    if wrong := edited(case.limits, case.limits_record):
        raise ValueError(wrong)
    for dtype, limits in case.limits["drift"].items():
        if latent := [name for name in limits.given if name.startswith("latent_")]:
            raise ValueError(f"drift in {dtype} has limits for {', '.join(latent)}, but a golden holds no latents")
    sized = case.request.height is not None and case.request.width is not None
    if sized != (case.request.task == "t2i"):
        raise ValueError(
            f"task is {case.request.task} with height {case.request.height} and width {case.request.width}; "
            "text-to-image has both, image-to-image neither"
        )


def _overlays(folder: Path) -> dict[str, Overlay]:
    """Stack -> overlay, of the files in stacks/. Raises ValueError for one that is none, or was edited."""
    found = {}
    for path in sorted((folder / STACKS).glob("*.json")):
        overlay = records.read_json(path, Overlay)
        if overlay.stack.name != path.stem:
            raise ValueError(f"{path} is of {overlay.stack.name}; name it so")
        if wrong := edited(overlay.limits, overlay.record):
            raise ValueError(f"{path.name}: {wrong}")
        found[path.stem] = overlay
    return found


def write_approval(case: GoldenCase, approval: Approval) -> None:
    """Put the approval into case.json and leave the rest as it is; all of it or nothing."""
    write_fields(case, provenance=approval)


def write_fields(case: GoldenCase, **fields: object) -> None:
    """Put these fields into case.json and leave the rest as it is; all of it or nothing."""
    path = case.folder / CASE
    records.write_json(path, json.loads(path.read_text(encoding="utf-8")) | fields)


def write_overlay(case: GoldenCase, overlay: Overlay) -> None:
    """Write what a stack has of its own."""
    records.write_json(case.folder / STACKS / f"{overlay.stack.name}.json", overlay_json(overlay))


@functools.cache
def checkpoint_sha256(folder: Path) -> str:
    """One hash over the names and contents of a checkpoint's files. Read once per process.

    Raises FileNotFoundError.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"checkpoint {folder} is not there; case.json names it, relative to the repository: put it there, or mend "
            "request.checkpoint"
        )
    total = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")):
        with path.open("rb") as file:
            total.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()
