"""One step of a stage; on a GPU captured as a CUDA graph and replayed.

A step of these small models is thousands of launches, and beside an H100 the host took four times as long to make them
as the GPU to run them: 200 ms against 45 for the transformer (torch 2.11.0, by torch.profiler).
"""

from collections import Counter
from typing import Protocol

import torch
from torch import Tensor

from training.optim import Optimizer

WARM = 3
"""Steps of a kind that run as they are before it is captured: libraries choose their kernels, caches fill."""


class Stage(Protocol):
    """What the loop needs of a stage."""

    optimizer: Optimizer

    def prepare(self, step: int) -> str:
        """The host's part of a step, such as drawing its pictures; says which kind of step it is.

        All steps of a kind do the same to the same tensors: what differs lies in their values and in the generator.
        """
        ...

    def losses(self, kind: str, generator: torch.Generator) -> dict[str, Tensor]:
        """The weighted terms, which depend on seed and step alone; their sum is minimised. Never waits for the GPU."""
        ...


class Steps:
    """Calls are steps: losses, gradients and the update, from the seed and the step's number."""

    def __init__(self, stage: Stage, seed: int, device: torch.device, captured: bool) -> None:
        self.stage, self.seed = stage, seed
        self.generator = torch.Generator(device)
        self.graphs: dict[str, tuple[torch.cuda.CUDAGraph, dict[str, Tensor]]] = {}
        self.done: Counter[str] = Counter()
        # Gradients are summed on the stream on which they were first made, so all steps share the capture's.
        capture = captured and device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if capture else None  # type: ignore[no-untyped-call]

    def __call__(self, step: int, factor: float) -> dict[str, Tensor]:
        """The terms of the loss before the update, which is made at that factor of the rates."""
        kind = self.stage.prepare(step)
        self.generator.manual_seed(self.seed * 1_000_003 + step)
        self.stage.optimizer.prepare(factor, step)
        if self.stream is None:
            return self._run(kind)
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            losses = self._replayed(kind)
        torch.cuda.current_stream().wait_stream(self.stream)
        return losses

    def _replayed(self, kind: str) -> dict[str, Tensor]:
        self.done[kind] += 1
        if self.done[kind] <= WARM:
            return self._run(kind)
        if kind not in self.graphs:
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(self.generator)
            with torch.cuda.graph(graph, stream=self.stream):
                losses = self._run(kind)
            self.graphs[kind] = graph, losses
        graph, losses = self.graphs[kind]
        graph.replay()
        return losses

    def _run(self, kind: str) -> dict[str, Tensor]:
        losses = self.stage.losses(kind, self.generator)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        self.stage.optimizer.step()
        return {name: loss.detach() for name, loss in losses.items()}
