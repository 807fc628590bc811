"""Stored runs of the original BAGEL: reading a case.

A folder holds `checkpoint/` and `cases/`: per case `case.json` (parameters, ids, positions), `tensors.safetensors` and
perhaps `output.png`; beside them `transforms.json` and `schedules.json`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bagel.pipeline import Guidance, ImageRequest, TextRequest
from bagel.transforms import VAE_RESIZE, VIT_RESIZE, Resize

INPUTS = ("init_noise", "vae_encode0.posterior_noise")
"""Stored fields that are given to the implementation, not asked of it."""


@dataclass(frozen=True)
class Case:
    """One stored run. `facts` is case.json as it is, `tensors` the stored fields."""

    name: str
    folder: Path
    facts: dict[str, Any]
    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, folder: Path) -> "Case":
        """Raises OSError, or ValueError naming the file."""
        path = folder / "case.json"
        try:
            tensors = load_file(folder / "tensors.safetensors")
        except SafetensorError as error:
            raise ValueError(f"{folder}/tensors.safetensors is not complete ({error}); copy the case again") from error
        facts = read_object(path)
        if missing := [key for key in ("task", "prompt", "params") if key not in facts]:
            raise ValueError(f"{path} lacks {', '.join(missing)}; copy the case again")
        return cls(folder.name, folder, facts, tensors)

    @property
    def task(self) -> str:
        """t2i, edit or understand."""
        return str(self.facts["task"])

    @property
    def think(self) -> bool:
        """Whether the model writes a plan before the picture."""
        return bool(self.facts.get("think"))

    @property
    def png(self) -> Path | None:
        """The stored picture."""
        name = self.facts.get("output_png")
        return self.folder / name if name else None

    def param(self, name: str) -> Any:
        """A parameter of the run. Raises ValueError if case.json lacks it."""
        if name not in self.facts["params"]:
            raise ValueError(f"{self.folder}/case.json lacks params.{name}; copy the case again")
        return self.facts["params"][name]

    def image(self) -> Image.Image | None:
        """The input picture."""
        name = self.facts.get("input_image")
        return Image.open(self.folder.parent / name) if name else None

    def resizes(self) -> tuple[Resize, Resize]:
        """The case's own rules for the autoencoder and for the eye."""
        return (
            _resize(self.facts.get("vae_transform"), VAE_RESIZE),
            _resize(self.facts.get("vit_transform"), VIT_RESIZE),
        )

    def image_request(self) -> ImageRequest:
        """What upstream was asked for, with the noise it used."""
        height, width = self.facts["params"].get("image_shapes", (None, None))
        if "init_noise" not in self.tensors:
            raise ValueError(f"{self.folder}/tensors.safetensors lacks init_noise; copy the case again")
        posterior = self.tensors.get("vae_encode0.posterior_noise")
        return ImageRequest(
            prompt=self.facts["prompt"],
            image=self.image(),
            height=height,
            width=width,
            steps=self.param("num_timesteps"),
            think=self.think,
            timestep_shift=self.param("timestep_shift"),
            guidance=self.guidance(),
            init_noise=self.tensors["init_noise"],
            posterior_noise=None if posterior is None else posterior[0],
            max_think_tokens=self.facts["params"].get("max_think_token_n", 1000),
        )

    def guidance(self) -> Guidance:
        """The case's guidance."""
        return Guidance(
            text_scale=self.param("cfg_text_scale"),
            image_scale=self.param("cfg_img_scale"),
            interval=tuple(self.param("cfg_interval")),
            renorm_type=self.param("cfg_renorm_type"),
            renorm_min=self.param("cfg_renorm_min"),
        )

    def text_request(self) -> TextRequest:
        """What upstream was asked."""
        return TextRequest(self.facts["prompt"], self.image(), self.param("max_length"))


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object. Raises OSError, or ValueError naming the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}; copy the folder again") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__} but must hold an object; copy the folder again")
    return value


def _resize(rule: dict[str, int] | None, default: Resize) -> Resize:
    if rule is None:
        return default
    return Resize(rule["max_image_size"], rule["min_image_size"], rule["image_stride"])
