"""A golden: what is asked of the model, the approved picture, its limits, and who approved it why.

A case is a folder `golden_images/<name>/` with case.json (this file's dataclasses), expected.png, and input.png for
image-to-image. docs/golden-images.md explains each field.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import typing
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from bagel.pipeline import BagelPipeline, Guidance, ImageRequest
from bagel.transforms import VAE_RESIZE, VIT_RESIZE, Resize
from benchmarks.harness import images, records
from benchmarks.harness.golden_limits import Kind, Limits
from benchmarks.harness.images import RGB

FORMAT = 1
"""Version of case.json."""

GOLDENS = "golden_images"
CASE, EXPECTED, INPUT = "case.json", "expected.png", "input.png"


@dataclass(frozen=True)
class Request:
    """What is asked of the model. Changing any of it makes the golden stale.

    checkpoint     BAGEL folder, relative to the repository
    dtype          precision in which the golden is made
    height, width  pixels, for text-to-image; for image-to-image the resized input decides
    vae_resize, vit_resize  rules that bring the input to size; upstream's unless given
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
    vae_resize: Resize = VAE_RESIZE
    vit_resize: Resize = VIT_RESIZE


@dataclass(frozen=True)
class Approval:
    """Who approved the picture and why, how it was made, and every hash that must still hold.

    rgb               images.fingerprint of the picture: shape and sha256 of its raw RGB bytes
    metrics           metric -> implementation and version; definition is images.DEFINITION
    witness           who confirmed the picture, and `agreement` how closely, metric by metric
    previous, change  fingerprint of the golden before, and the new picture's metrics against it; empty at first
    """

    approved_by: str
    reason: str
    created: str
    commit: str
    made_by: str
    environment: records.Environment
    checkpoint_sha256: str
    request_sha256: str
    input_rgb: str
    png_sha256: str
    rgb: str
    definition: int
    metrics: dict[str, str]
    witness: str
    agreement: dict[str, float]
    previous: str
    change: dict[str, float]

    @property
    def summary(self) -> dict[str, str]:
        """What a report shows of it."""
        return {
            "approved by": self.approved_by,
            "reason": self.reason,
            "created": self.created,
            "commit": self.commit,
            "made by": self.made_by,
            "confirmed by": self.witness,
            "torch": self.environment.torch,
            "machine": self.environment.gpu or self.environment.cpu,
            "checkpoint": self.checkpoint_sha256,
            "picture": self.rgb,
        }


@dataclass(frozen=True)
class GoldenCase:
    """One case. `exercises` says what it is for; `interpreter`: short enough for fused kernels in the interpreter.

    request_sha256  of the request as case.json has it
    """

    folder: Path
    exercises: str
    interpreter: bool
    request: Request
    request_sha256: str
    limits: dict[Kind, dict[str, Limits]]
    approval: Approval | None

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def checkpoint(self) -> Path:
        """The checkpoint's folder."""
        return self.folder.parents[1] / self.request.checkpoint

    def limits_of(self, kind: Kind, dtype: str) -> dict[str, float] | None:
        """Metric -> limit of those that are judged; None if the case sets none for this dtype."""
        limits = self.limits[kind].get(dtype)
        return limits.given if limits else None

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
        """The same model with the case's rules for input sizes."""
        return dataclasses.replace(pipeline, vae_resize=self.request.vae_resize, vit_resize=self.request.vit_resize)

    def input(self) -> RGB | None:
        """The picture to edit. Raises OSError or ValueError."""
        return images.read_png(self.folder / INPUT) if self.request.task == "img2img" else None

    def expected(self) -> RGB | None:
        """The approved picture; None if there is none yet, or no more.

        Raises ValueError for a file that is no PNG, has another size than the case, or is not the approved one.
        """
        path = self.folder / EXPECTED
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
        changed = [f"{name} is {now[:20]} but was {then[:20]}" for name, (now, then) in held.items() if now != then]
        if not changed:
            return ""
        return f"since the golden was approved {'; '.join(changed)}; restore it, or accept a new golden"


def read_cases(goldens: Path, names: typing.Sequence[str] | None = None) -> list[GoldenCase]:
    """The cases of a folder of goldens, by name; all of them for None or nothing.

    Raises OSError or ValueError for a case that cannot be read, an unknown name, and a folder without cases.
    """
    folders = {folder.name: folder for folder in sorted(goldens.iterdir()) if folder.is_dir()}
    if unknown := [name for name in names or () if name not in folders]:
        raise ValueError(f"golden case {', '.join(unknown)} is unknown; {goldens} has {', '.join(folders)}")
    if not folders:
        raise ValueError(f"{goldens} holds no golden case; docs/golden-images.md says how to add one")
    return [read_case(folders[name]) for name in names or folders]


def read_case(folder: Path) -> GoldenCase:
    """One case. Raises OSError, or ValueError naming the file and what is wrong in it."""
    path = folder / CASE
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(facts, dict) or facts.get("format") != FORMAT:
            found = facts.get("format") if isinstance(facts, dict) else type(facts).__name__
            raise ValueError(f"format is {found!r} but must be {FORMAT}")
        case = GoldenCase(
            folder=folder,
            exercises=str(facts["exercises"]),
            interpreter=records.from_dict(bool, facts["interpreter"]),
            request=records.from_dict(Request, facts["request"]),
            request_sha256=hashlib.sha256(json.dumps(facts["request"], sort_keys=True).encode()).hexdigest(),
            limits=records.from_dict(dict[str, dict[str, Limits]], facts["limits"]),
            approval=records.from_dict(Approval | None, facts["provenance"]),
        )
        _check(case, set(facts))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist, but every folder beside it is a golden case") from error
    except KeyError as error:
        raise ValueError(f"{path} lacks {error}; docs/golden-images.md lists the fields") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no golden case: {error}; docs/golden-images.md lists the fields") from error
    return case


def _check(case: GoldenCase, fields: set[str]) -> None:
    """What the types do not say."""
    if unknown := fields - {"format", "exercises", "interpreter", "request", "limits", "provenance"}:
        raise ValueError(f"unknown fields {sorted(unknown)}")
    if set(case.limits) != set(typing.get_args(Kind)):
        raise ValueError(f"limits are given for {sorted(case.limits)} but must be for parity and drift")
    for dtype, limits in case.limits["drift"].items():
        if latent := [name for name in limits.given if name.startswith("latent_")]:
            raise ValueError(f"drift in {dtype} has limits for {', '.join(latent)}, but a golden holds no latents")
    sized = case.request.height is not None and case.request.width is not None
    if sized != (case.request.task == "t2i"):
        raise ValueError(
            f"task is {case.request.task} with height {case.request.height} and width {case.request.width}; "
            "text-to-image has both, image-to-image neither"
        )


def write_approval(case: GoldenCase, approval: Approval) -> None:
    """Put the approval into case.json and leave the rest as it is; all of it or nothing."""
    path = case.folder / CASE
    records.write_json(path, json.loads(path.read_text(encoding="utf-8")) | {"provenance": approval})


@functools.cache
def checkpoint_sha256(folder: Path) -> str:
    """One hash over the names and contents of a checkpoint's files. Read once per process."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")):
        with path.open("rb") as file:
            total.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()
