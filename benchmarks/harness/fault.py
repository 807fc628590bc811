"""What an injected fault is: a named change of the implementation or of the pipeline, at a drawn place."""

from __future__ import annotations

import dataclasses
import random
import typing
from collections.abc import Callable
from dataclasses import dataclass

from bagel.layers import MoTLayer
from bagel.pipeline import BagelPipeline, ImageRequest
from benchmarks.harness.golden_case import GoldenCase
from benchmarks.harness.records import Tier
from reference_impl.contract import IMAGE, TEXT, MoTOps

TILE = 16
"""Columns of the smallest tile that a matrix kernel has: what one that is dropped or mixed up covers."""


@dataclass(frozen=True)
class Place:
    """Where a fault sits: a number in 0..1 per axis, so that one place means a row, a head and a tile of every shape.

    words  what the numbers are drawn from: the same on every machine and at every call
    """

    words: str

    def of(self, count: int, axis: str = "row") -> int:
        """One of `count`."""
        return int(random.Random(f"{self.words}/{axis}").random() * count)

    def tile(self, width: int, axis: str = "columns") -> slice:
        """One tile of `width` columns."""
        start = self.of(max(width // TILE, 1), axis) * TILE
        return slice(start, min(start + TILE, width))

    @property
    def expert(self) -> int:
        """TEXT or IMAGE."""
        return (TEXT, IMAGE)[self.of(2, "expert")]


@dataclass(frozen=True)
class Setting:
    """A pipeline and what it is asked: what a fault changes."""

    pipeline: BagelPipeline
    request: ImageRequest

    @property
    def ops(self) -> MoTOps:
        """The implementation of the ops."""
        return self.pipeline.model.transformer.ops

    @property
    def layers(self) -> tuple[MoTLayer, ...]:
        """The decoder layers."""
        return self.pipeline.model.transformer.layers

    def with_transformer(self, **fields: typing.Any) -> Setting:
        """Another value of these fields of the transformer, such as its ops or its layers."""
        return self.with_model(transformer=dataclasses.replace(self.pipeline.model.transformer, **fields))

    def with_model(self, **fields: typing.Any) -> Setting:
        """Another value of these fields of the model."""
        model = dataclasses.replace(self.pipeline.model, **fields)
        return dataclasses.replace(self, pipeline=dataclasses.replace(self.pipeline, model=model))

    def with_request(self, **fields: typing.Any) -> Setting:
        """Another value of these fields of the request."""
        return dataclasses.replace(self, request=dataclasses.replace(self.request, **fields))

    def with_guidance(self, **fields: typing.Any) -> Setting:
        """Another value of these fields of the guidance."""
        return self.with_request(guidance=dataclasses.replace(self.request.guidance, **fields))


def anywhere(_: GoldenCase) -> bool:
    """A fault that every case can have."""
    return True


@dataclass(frozen=True)
class Fault:
    """One class of faults, at the smallest size that is still a fault.

    what    what is changed, in words
    part    an implementation's fault is judged beside the reference, which does not have it; the pipeline's is in the
            reference's pictures too, so that only the golden knows better
    tier    which must see it
    inject  the setting with the fault at a place; it keeps no state between calls
    fits    whether a case can have it at all, such as guidance faults without guidance
    placed  whether it sits anywhere; a second draw of one that does not would be the same run again
    """

    name: str
    what: str
    part: typing.Literal["implementation", "pipeline"]
    tier: Tier
    inject: Callable[[Setting, Place], Setting]
    fits: Callable[[GoldenCase], bool] = anywhere
    placed: bool = True
