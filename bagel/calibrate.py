"""Fixed scales for the inputs of fp8 layers, from what the inputs of a dense model reach in some requests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bagel.experts import PACKED, Precision
from bagel.jobs import ImageRequest
from bagel.layers import MoTLayer
from bagel.pipeline import BagelPipeline
from bagel.probe import QUIET, Probe
from reference_impl.contract import FP8_MAX, Experts, Route, require

Place = tuple[int, str]
"""A linear layer of the model: the decoder layer's index, and the name in `MoTLayer`."""

Pairs = Mapping[Place, tuple[float, float]]
"""A number for each expert's input of each layer, text first."""

See = Callable[[Place, int, Tensor], None]
"""What is shown the rows of one expert, [rows > 0, K], before they go through the layer at this place."""


@dataclass(frozen=True)
class Clamped:
    """How many of so many values a fixed scale does not reach."""

    beyond: int
    values: int

    @property
    def share(self) -> float:
        """0 of nothing."""
        return self.beyond / max(self.values, 1)


@dataclass(frozen=True)
class Calibration:
    """What the inputs of the linear layers reached in some requests, and what scales made from it do to another.

    requests    what was asked, as JSON; the last one was held out: it raised no maximum
    made_by     implementation, dtype and device
    margin      a scale reaches so many times the maximum: scale = margin * maximum / 448
    maxima      of each layer, the largest magnitude in each expert's input, text first
    clamped     of each layer and expert, what the held-out request's inputs have beyond that, in the dense model
    own, fixed  relative L2 error of the held-out request's final latents in fp8, against the dense model's: with every
                row's own scale, and with the fixed ones

    Example: maximum 4.0, margin 2.0 -> scale 8 / 448; an input of 9.0 is clamped to 8.0.
    """

    requests: Sequence[Mapping[str, Any]]
    made_by: str
    margin: float
    maxima: Pairs
    clamped: Mapping[Place, tuple[Clamped, Clamped]]
    own: float
    fixed: float

    @property
    def scales(self) -> Pairs:
        """What is written as `input_scale`."""
        return _scales(self.maxima, self.margin)

    @property
    def clamped_in_all(self) -> Clamped:
        """Over all layers and both experts."""
        each = [one for pair in self.clamped.values() for one in pair]
        return Clamped(sum(one.beyond for one in each), sum(one.values for one in each))

    @property
    def worst(self) -> tuple[Place, int]:
        """The layer and the expert of which the largest share is clamped."""
        return max(
            ((place, e) for place in self.clamped for e in (0, 1)), key=lambda at: self.clamped[at[0]][at[1]].share
        )

    def record(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {
            "requests": list(self.requests[:-1]),
            "held_out": self.requests[-1],
            "made_by": self.made_by,
            "margin": self.margin,
            "maxima": {_written(place): list(pair) for place, pair in self.maxima.items()},
            "held_out_clamped": {_written(p): [[e.beyond, e.values] for e in pair] for p, pair in self.clamped.items()},
            "held_out_latent_relative_l2": {"own_scales": self.own, "fixed_scales": self.fixed},
        }


@torch.no_grad()
def calibrate(
    pipeline: BagelPipeline, requests: Sequence[ImageRequest], margin: float, probe: Probe = QUIET
) -> Calibration:
    """Make all pictures but the last with a dense model, and see what its linear layers get; then make the last one to
    see what those scales cost: once more dense, and twice in fp8.

    Raises ValueError for fewer than two requests, a margin below 1, a model that is quantised, or an expert whose input
    no request made finite and other than 0; NotImplementedError for ops without fp8.
    """
    transformer = pipeline.model.transformer
    require(len(requests) > 1, "{} requests; give two at least: the last one is held out", len(requests))
    require(1 <= margin < float("inf"), "margin is {} but must be at least 1", margin)
    kind = transformer.layers[0].qkv.kind
    require(kind == "dense", "the model is {} already; calibrate the original", kind)
    Precision(kept="fp8").check_ops(transformer.ops)
    maxima = _maxima(pipeline, requests[:-1], probe)
    scales = _scales(maxima, margin)
    clamped, truth = _held_out(pipeline, requests[-1], scales, probe)

    def error(layers: Sequence[MoTLayer]) -> float:
        made = _with(pipeline, layers=tuple(layers)).generate(requests[-1], probe).final_latents
        return float((made - truth).norm() / truth.norm())

    own = [layer.quantised("fp8") for layer in transformer.layers]
    fixed = [_fixed(layer, i, scales) for i, layer in enumerate(own)]
    return Calibration(
        requests=[_described(request) for request in requests],
        made_by=f"{transformer.ops.name} {str(transformer.dtype).removeprefix('torch.')} on {transformer.device.type}",
        margin=margin,
        maxima=maxima,
        clamped=clamped,
        own=error(own),
        fixed=error(fixed),
    )


def watched(pipeline: BagelPipeline, see: See) -> BagelPipeline:
    """The same, which shows `see` every expert's rows before they go through a linear layer. Nothing waits for it."""
    transformer = pipeline.model.transformer
    ops = transformer.ops
    places = {id(getattr(layer, name)): (i, name) for i, layer in enumerate(transformer.layers) for name in _names()}

    def shown(x: Tensor, experts: Experts, route: Route) -> None:
        for expert, rows in enumerate(route.expert_rows):
            if len(rows):
                see(places[id(experts)], expert, x[rows])

    def linear(x: Tensor, experts: Experts, route: Route) -> Tensor:
        shown(x, experts, route)
        return ops.linear(x, experts, route)

    def gated_mlp(x: Tensor, gate_up: Experts, down: Experts, route: Route) -> Tensor:
        shown(x, gate_up, route)
        return linear(ops.gated_linear(x, gate_up, route), down, route)  # which is what the contract says it is

    return _with(pipeline, ops=replace(ops, linear=linear, gated_mlp=gated_mlp))


def _maxima(pipeline: BagelPipeline, requests: Sequence[ImageRequest], probe: Probe) -> Pairs:
    """The largest magnitude of each expert's input of each layer."""
    model = pipeline.model
    found = {place: torch.zeros(2, device=model.device) for place in _places(pipeline)}

    def see(place: Place, expert: int, x: Tensor) -> None:
        found[place][expert] = torch.maximum(found[place][expert], x.abs().amax().float())

    looked = watched(pipeline, see)
    for request in requests:
        looked.generate(request, probe)
    maxima = {}
    for place, largest in found.items():
        for expert, value in zip(("text", "image"), largest.tolist(), strict=True):
            require(
                0 < value < float("inf"),
                "the {} expert's input of {} reaches {} in these requests; it must be finite and above 0: give others",
                expert,
                _written(place),
                value,
            )
        text, image = largest.tolist()
        maxima[place] = (text, image)
    return maxima


def _held_out(
    pipeline: BagelPipeline, request: ImageRequest, scales: Pairs, probe: Probe
) -> tuple[dict[Place, tuple[Clamped, Clamped]], Tensor]:
    """What lies beyond the scales in one more request, and its final latents."""
    beyond = {place: torch.zeros(2, dtype=torch.int64, device=pipeline.model.device) for place in scales}
    values = {place: [0, 0] for place in scales}

    def see(place: Place, expert: int, x: Tensor) -> None:
        beyond[place][expert] += (x.float().abs() > scales[place][expert] * FP8_MAX).sum()
        values[place][expert] += x.numel()

    latents = watched(pipeline, see).generate(request, probe).final_latents
    found = {}
    for place in scales:
        text, image = map(Clamped, beyond[place].tolist(), values[place])
        found[place] = (text, image)
    return found, latents


def _fixed(layer: MoTLayer, index: int, scales: Pairs) -> MoTLayer:
    def scaled(name: str) -> Experts:
        experts: Experts = getattr(layer, name)
        pair = torch.tensor(scales[index, name], dtype=torch.float32, device=experts.weight.device)
        return replace(experts, input_scale=pair)

    return replace(layer, qkv=scaled("qkv"), o=scaled("o"), gate_up=scaled("gate_up"), down=scaled("down"))


def _scales(maxima: Pairs, margin: float) -> Pairs:
    return {place: (margin * text / FP8_MAX, margin * image / FP8_MAX) for place, (text, image) in maxima.items()}


def _with(pipeline: BagelPipeline, **changes: Any) -> BagelPipeline:
    """The pipeline with a transformer that differs, and no graphs: those are of the one before."""
    model = pipeline.model
    return replace(pipeline, model=replace(model, transformer=replace(model.transformer, **changes)), graphs=None)


def _places(pipeline: BagelPipeline) -> list[Place]:
    return [(i, name) for i in range(len(pipeline.model.transformer.layers)) for name in _names()]


def _names() -> list[str]:
    return list(dict.fromkeys(PACKED.values()))


def _written(place: Place) -> str:
    """(3, "down") -> "layers.3.down"."""
    return f"layers.{place[0]}.{place[1]}"


def _described(request: ImageRequest) -> dict[str, Any]:
    """A request as JSON; of a picture its size and the sha256 of its RGB bytes."""
    image = None if request.image is None else request.image.convert("RGB")
    return {
        "prompt": request.prompt,
        "image": None if image is None else {"size": image.size, "sha256": hashlib.sha256(image.tobytes()).hexdigest()},
        "height": request.height,
        "width": request.width,
        "steps": request.steps,
        "seed": request.seed,
    }
