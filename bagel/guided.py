"""Guided velocities of several pictures, one update of all of them at a time."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from bagel.latents import Grid
from bagel.probe import QUIET, Probe
from bagel.sampler import Guidance, guide
from bagel.step import Workspace
from bagel.transformer import Context


@dataclass(frozen=True)
class Wish:
    """One picture to denoise: its contexts by branch, as `Guidance.branches` names them, and how it is guided."""

    contexts: Mapping[str, Context]
    grid: Grid
    guidance: Guidance

    @property
    def behind(self) -> list[Context]:
        """The contexts of the branches that its guidance can need."""
        return [self.contexts[name] for name in self.guidance.branches]


class Guided:
    """The guided velocities of some wishes; `workspace` is that of `Batch.of` their grids and `behind`."""

    def __init__(self, wishes: list[Wish], workspace: Workspace, probe: Probe = QUIET) -> None:
        self._guidance = [wish.guidance for wish in wishes]
        self._workspace, self._probe = workspace, probe
        names = [(i, name) for i, guidance in enumerate(self._guidance) for name in guidance.branches]
        self._number = {one: number for number, one in enumerate(names)}
        workspace.load([context for wish in wishes for context in wish.behind])

    def __call__(self, step: int, given: Mapping[int, tuple[Tensor, Tensor]]) -> dict[int, Tensor]:
        """The velocity [n, width] of each of some pictures, given its time [] and latent [n, width]."""
        here = self._probe.at(step=step)
        for t, x in given.values():
            here("x", x)
            here("t", t)
        wanted = [(i, name) for i, (t, _) in given.items() for name in self._guidance[i].branches_at(t)]
        numbers = tuple(self._number[one] for one in wanted)
        probes = [here.at(branch=name) for _, name in wanted]
        found = dict(zip(wanted, self._workspace.velocities(numbers, given, probes), strict=True))
        return {i: self._guided(i, found) for i in given}

    def _guided(self, picture: int, found: Mapping[tuple[int, str], Tensor]) -> Tensor:
        main, no_text = found[picture, "main"], found.get((picture, "no_text"))
        if no_text is None:
            return main
        return guide(main, no_text, found.get((picture, "no_image")), self._guidance[picture])
