"""Faults of what is around the ops: sampler, guidance, schedule, positions, mask, autoencoder, inputs, seed.

Both implementations share the pipeline, so neither op parity nor a trace can see them: the golden's picture must.
"""

from __future__ import annotations

import copy
import dataclasses
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from bagel.batch import Batch
from bagel.guided import Wish
from bagel.latents import Grid
from bagel.layers import KV, Block
from bagel.pipeline import BagelPipeline, Guidance
from bagel.probe import Probe
from bagel.sampler import schedule
from bagel.step import Workspace
from bagel.transformer import Context, Transformer
from benchmarks.harness.fault import Fault, Place, Setting, anywhere
from benchmarks.harness.faults_of_layers import Velocity, like
from benchmarks.harness.golden_case import GoldenCase

Contexts = dict[str, Context]
Inject = Callable[[Setting, Place], Setting]


def _guided_updates(steps: int, shift: float, guidance: Guidance) -> list[Tensor]:
    """The times of the updates at which text guidance is on."""
    return [t for t in schedule(steps, shift)[:-1] if guidance.scales_at(t)[0] > 1]


def guided(case: GoldenCase) -> bool:
    """Whether text guidance is on in one update at least."""
    ask = case.request
    return bool(_guided_updates(ask.steps, ask.timestep_shift, ask.guidance))


def renormalised(case: GoldenCase) -> bool:
    """Whether the guided velocity may be shortened as far as its norm says; a lower bound may hide how it is taken."""
    return guided(case) and case.request.guidance.renorm_min == 0


def image_guided(case: GoldenCase) -> bool:
    """Whether image guidance is on too; without an input picture it does nothing."""
    return guided(case) and edited(case) and case.request.guidance.image_scale > 1


def edited(case: GoldenCase) -> bool:
    """Whether the case has an input picture."""
    return case.request.task == "img2img"


def several(case: GoldenCase) -> bool:
    """Whether the case has two updates or more."""
    return case.request.steps > 2


@dataclass(frozen=True, kw_only=True)
class OtherContexts(BagelPipeline):
    """What the branches have seen is changed before the first update."""

    change: Callable[[Contexts], Contexts]

    def _contexts(self, *args: typing.Any) -> tuple[Contexts, str | None]:
        contexts, plan = super()._contexts(*args)
        return self.change(contexts), plan


@dataclass(frozen=True, kw_only=True)
class OtherTimes(BagelPipeline):
    """The model is told another time than the one that an update starts at."""

    times: Tensor

    def _velocity(self, contexts: Contexts, grid: Grid, guidance: Guidance, probe: Probe) -> Velocity:
        velocity = super()._velocity(contexts, grid, guidance, probe)
        return lambda step, _, x: velocity(step, self.times[step], x)


@dataclass(frozen=True)
class CausalImages(Transformer):
    """Image tokens see only earlier ones."""

    def image_block(self, n_tokens: int, position: int, *, latent: bool) -> Block:
        """The block, causal."""
        return dataclasses.replace(super().image_block(n_tokens, position, latent=latent), causal=True)


def _with_contexts(change: Callable[[Contexts, Place], Contexts]) -> Inject:
    """A fault of what the branches have seen."""

    def inject(setting: Setting, place: Place) -> Setting:
        pipeline = like(OtherContexts, setting.pipeline, change=lambda contexts: change(contexts, place))
        return dataclasses.replace(setting, pipeline=pipeline)

    return inject


def _leaking(contexts: Contexts, place: Place) -> Contexts:
    """The branch without text sees one of the conditional branch's rows too, in every layer."""
    main, other = contexts["main"], contexts["no_text"]
    new = main.n_rows - other.n_rows
    row = other.n_rows + place.of(new)
    one = slice(row, row + 1)
    layers = (kv.extended(full.k[one], full.v[one]) for kv, full in zip(other.layers, main.layers, strict=True))
    return contexts | {"no_text": dataclasses.replace(other, layers=tuple(layers))}


class Unmasked(Workspace):
    """Every pass attends to every row of the batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.cache.zero_()  # what a pass has not written yet is read all the same

    def seen(self, index: int) -> slice:
        """All rows, whatever the pass."""
        return slice(0, self.cache.shape[2])


@dataclass(frozen=True)
class UnmaskedBatch(BagelPipeline):
    """The guidance branches are denoised together, and nothing keeps them apart in attention."""

    def _workspace(self, wishes: Sequence[Wish]) -> Workspace:
        return Unmasked(self.model, Batch.of([wish.grid for wish in wishes], [wish.behind for wish in wishes]))


def attending_across(setting: Setting, _: Place) -> Setting:
    """What batched guidance did in public: the branches attend to each other."""
    return dataclasses.replace(setting, pipeline=like(UnmaskedBatch, setting.pipeline))


def _moved(contexts: Contexts, _: Place) -> Contexts:
    return {name: dataclasses.replace(context, position=context.position + 1) for name, context in contexts.items()}


def _key_of_another_layer(contexts: Contexts, place: Place) -> Contexts:
    main = contexts["main"]
    layers = list(main.layers)
    index, row = place.of(len(layers), "layer"), place.of(main.n_rows)
    k = layers[index].k.clone()
    k[row] = layers[index - 1].k[row]
    layers[index] = KV(k, layers[index].v)
    return contexts | {"main": dataclasses.replace(main, layers=tuple(layers))}


def _steps(more: int) -> Inject:
    return lambda setting, _: setting.with_request(steps=setting.request.steps + more)


def _time_off_by_one(setting: Setting, _: Place) -> Setting:
    times = schedule(setting.request.steps, setting.request.timestep_shift)[1:]
    return dataclasses.replace(setting, pipeline=like(OtherTimes, setting.pipeline, times=times))


def _guidance_ends_early(setting: Setting, _: Place) -> Setting:
    ask = setting.request
    last = _guided_updates(ask.steps, ask.timestep_shift, ask.guidance)[-1]
    return setting.with_guidance(interval=(float(last), max(float(last), ask.guidance.interval[1])))


def _renormalise(setting: Setting, _: Place) -> Setting:
    other = {"global": "channel", "channel": "global", "text_channel": "global"}
    return setting.with_guidance(renorm_type=other[setting.request.guidance.renorm_type])


def _autoencoder(method: str, wrap: Callable[[Setting, Place, Callable[..., Tensor]], Callable[..., Tensor]]) -> Inject:
    """A fault of one method of the autoencoder."""

    def inject(setting: Setting, place: Place) -> Setting:
        own = setting.pipeline.model.autoencoder
        twin = copy.copy(own)  # shares the weights
        setattr(twin, method, wrap(setting, place, getattr(own, method)))
        return setting.with_model(autoencoder=twin)

    return inject


def _tokens_swapped(setting: Setting, place: Place, decode: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Two neighbouring image tokens are read back in each other's place."""
    patch = setting.pipeline.model.config.latent_patch

    def swapped(latent: Tensor) -> Tensor:
        grid = Grid(latent.shape[1] // patch, latent.shape[2] // patch)
        tokens = grid.pack(latent, patch)
        at = place.of(len(tokens) - 1)
        tokens[[at, at + 1]] = tokens[[at + 1, at]]
        return decode(grid.unpack(tokens, patch))

    return swapped


def _tile_unwritten(_: Setting, place: Place, decode: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """One 8 x 8 tile of the picture is 0, the middle of the range: a neighbour's might look the same."""

    def unwritten(latent: Tensor) -> Tensor:
        raw = decode(latent).clone()
        y, x = 8 * place.of(raw.shape[1] // 8, "y"), 8 * place.of(raw.shape[2] // 8, "x")
        raw[:, y : y + 8, x : x + 8] = 0
        return raw

    return unwritten


def _latent_scaled(_: Setting, __: Place, decode: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda latent: decode(latent * 0.99)


def _truncated(_: Setting, __: Place, decode: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Cutting to the level below is rounding half a level darker; levels are 2 / 255 apart."""
    return lambda latent: decode(latent) - 1 / 255


def _red_for_blue(_: Setting, __: Place, decode: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda latent: decode(latent).flip(0)


def _noiseless(_: Setting, __: Place, sample: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda mean, logvar, noise: sample(mean, logvar, noise * 0)


def _latent_position(setting: Setting, place: Place) -> Setting:
    """One image token is told its neighbour's place."""
    own = setting.pipeline.model.latents
    twin = copy.copy(own)

    def embed(tokens: Tensor, t: Tensor, ids: Tensor, probe: Probe) -> Tensor:
        at = place.of(len(ids) - 1)
        ids = ids.clone()
        ids[at] = ids[at + 1]
        return own.embed(tokens, t, ids, probe)

    setattr(twin, "embed", embed)  # noqa: B010 - assigning would be a type error
    return setting.with_model(latents=twin)


def _causal(setting: Setting, _: Place) -> Setting:
    own = setting.pipeline.model.transformer
    return setting.with_model(
        transformer=CausalImages(**{field.name: getattr(own, field.name) for field in dataclasses.fields(own)})
    )


def _input_shifted(setting: Setting, _: Place) -> Setting:
    """One pixel to the right; the last column comes first."""
    source = setting.request.image
    return setting if source is None else setting.with_request(image=Image.fromarray(np.roll(np.asarray(source), 1, 1)))


def _picture_fault(name: str, what: str, inject: Inject, fits: Callable[[GoldenCase], bool] = anywhere) -> Fault:
    return Fault(name, what, "pipeline", "picture", inject, fits, placed=False)


def _placed(name: str, what: str, inject: Inject, fits: Callable[[GoldenCase], bool] = anywhere) -> Fault:
    return Fault(name, what, "pipeline", "picture", inject, fits)


PIPELINE_FAULTS = (
    _picture_fault("one update more", "the schedule has one time more", _steps(1)),
    _picture_fault("one update fewer", "the schedule has one time less", _steps(-1), several),
    _picture_fault(
        "schedule slips",
        "its shift is 5 % too large",
        lambda setting, _: setting.with_request(timestep_shift=1.05 * setting.request.timestep_shift),
        several,
    ),
    _picture_fault("time off by one", "every update is told the next one's time", _time_off_by_one),
    _picture_fault(
        "wrong seed", "the next one", lambda setting, _: setting.with_request(seed=setting.request.seed + 1)
    ),
    _picture_fault(
        "prompt cut short",
        "its last character is missing",
        lambda setting, _: setting.with_request(prompt=setting.request.prompt[:-1]),
        lambda case: len(case.request.prompt) > 1,
    ),
    _picture_fault(
        "guidance slips",
        "its text scale is 5 % too large",
        lambda setting, _: setting.with_guidance(text_scale=1.05 * setting.request.guidance.text_scale),
        guided,
    ),
    _picture_fault("guidance ends early", "it is off in the last update that has it", _guidance_ends_early, guided),
    _picture_fault("renormalised otherwise", "over each token, or over everything", _renormalise, renormalised),
    _picture_fault(
        "no image guidance", "its scale is 1", lambda setting, _: setting.with_guidance(image_scale=1.0), image_guided
    ),
    _placed(
        "guidance branch sees another's row",
        "the branch without text sees one row of the prompt",
        _with_contexts(_leaking),
        guided,
    ),
    _picture_fault(
        "guidance branches attend to each other", "all of a batch, as nothing is masked", attending_across, guided
    ),
    _picture_fault("image positions off by one", "of the block that is denoised", _with_contexts(_moved)),
    _placed("latent position off by one", "one image token", _latent_position),
    _picture_fault("image tokens are causal", "each sees only earlier ones", _causal),
    _placed("cached key of another layer", "one row in one layer", _with_contexts(_key_of_another_layer)),
    _placed("tokens swapped", "two neighbours, before the decoder", _autoencoder("decode", _tokens_swapped)),
    _placed("tile not written", "8 x 8 pixels", _autoencoder("decode", _tile_unwritten)),
    _picture_fault("latent scale slips", "1 % too small for the decoder", _autoencoder("decode", _latent_scaled)),
    _picture_fault("pixels cut off", "to the level below, not the nearest", _autoencoder("decode", _truncated)),
    _picture_fault("red for blue", "channels in reverse", _autoencoder("decode", _red_for_blue)),
    _picture_fault("posterior noise left out", "the latent is its mean", _autoencoder("sample", _noiseless), edited),
    _picture_fault("input shifted", "by one pixel", _input_shifted, edited),
)
