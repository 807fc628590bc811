"""Muon for the matrices, AdamW for the rest, a running average of the weights, and a schedule that can be cut short.

Muon takes about half of AdamW's steps on transformers this small. Sources: Jordan et al., "Muon: An optimizer for
hidden layers in neural networks" (2024), the iteration; Liu et al., arXiv:2502.16982, the factor 0.2 sqrt(max(N, K)).
"""

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

MOMENTUM, WEIGHT_DECAY = 0.95, 0.01
QUINTIC = (3.4445, -4.7750, 2.0315)
EMA_DECAY = 0.999


@dataclass(frozen=True)
class Schedule:
    """The learning rate's factor at a step: up over `warmup` steps, level, then down to 0 over the last `cooldown`."""

    total: int
    warmup: int = 100
    cooldown: float = 0.35

    def factor(self, step: int) -> float:
        """At step 0 .. total - 1; 0 afterwards."""
        left = (self.total - step) / max(self.total * self.cooldown, 1.0)
        return max(0.0, min((step + 1) / self.warmup, 1.0, left))


class Optimizer:
    """Steps all trainable parameters of a module; its whole state is a flat dictionary of tensors.

    matrices  names of the parameters [..., N, K] that Muon takes; all others are AdamW's
    """

    def __init__(self, module: nn.Module, matrices: set[str], muon_rate: float, adam_rate: float) -> None:
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.module, self.muon_rate, self.adam_rate = module, muon_rate, adam_rate
        self.matrices = {name: p for name, p in self.parameters.items() if name in matrices}
        self.momentum = {name: torch.zeros_like(p) for name, p in self.matrices.items()}
        self.others = {name: p for name, p in self.parameters.items() if name not in matrices}
        on_gpu = next(iter(self.parameters.values())).is_cuda
        device = next(iter(self.parameters.values())).device
        # On a GPU the update may be captured, so what changes from step to step lies in tensors there.
        self.adam = torch.optim.AdamW(
            self.others.values(),
            lr=torch.tensor(adam_rate, device=device) if on_gpu else adam_rate,
            betas=(0.9, 0.98),
            weight_decay=WEIGHT_DECAY,
            fused=on_gpu,
            capturable=on_gpu,
        )
        self.rate, self.keep = torch.zeros((), device=device), torch.zeros((), device=device)
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def prepare(self, factor: float, count: int) -> None:
        """The next update is to be made at that factor of the rates, after `count` updates."""
        for group in self.adam.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(self.adam_rate * factor)
            else:
                group["lr"] = self.adam_rate * factor
        self.rate.fill_(self.muon_rate * factor)
        self.keep.fill_(1 - min(EMA_DECAY, (1 + count) / (10 + count)))

    @torch.no_grad()
    def step(self) -> None:
        """One update as prepared; then the gradients are dropped."""
        nn.utils.clip_grad_norm_(self.others.values(), 1.0)
        self.adam.step()
        self._step_matrices()
        self.module.zero_grad(set_to_none=True)
        for name, p in self.parameters.items():
            self.average[name].lerp_(p, self.keep)

    def _step_matrices(self) -> None:
        """Matrices of one shape are orthogonalised together."""
        by_shape: dict[tuple[int, int], list[str]] = defaultdict(list)
        for name, p in self.matrices.items():
            by_shape[p.shape[-2], p.shape[-1]].append(name)
        for (n, k), names in by_shape.items():
            directions = []
            for name in names:
                gradient = self.matrices[name].grad
                if gradient is None:
                    raise ValueError(f"parameter {name} has no gradient; every task must reach every matrix")
                self.momentum[name].lerp_(gradient, 1 - MOMENTUM)
                directions.append(gradient.lerp(self.momentum[name], MOMENTUM).view(-1, n, k))
            updates = torch.split(orthogonalise(torch.cat(directions)), [len(d) for d in directions])
            for name, update in zip(names, updates, strict=True):
                p = self.matrices[name]
                p.mul_(1 - self.rate * WEIGHT_DECAY)
                p.sub_(update.view(p.shape) * (self.rate * 0.2 * max(n, k) ** 0.5))

    def state(self) -> dict[str, Tensor]:
        """Parameters, their average and both optimisers' moments: enough to go on as if nothing had happened."""
        tensors: dict[str, Tensor] = {f"parameter.{name}": p for name, p in self.parameters.items()}
        tensors |= {f"average.{name}": p for name, p in self.average.items()}
        tensors |= {f"momentum.{name}": p for name, p in self.momentum.items()}
        for name, p in self.others.items():
            for key, value in self.adam.state[p].items():
                tensors[f"adam.{key}.{name}"] = value
        return tensors

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`. Raises ValueError for a state of another model."""
        wanted: dict[str, Tensor] = {f"parameter.{name}": p for name, p in self.parameters.items()}
        wanted |= {f"average.{name}": p for name, p in self.average.items()}
        wanted |= {f"momentum.{name}": p for name, p in self.momentum.items()}
        wrong = [n for n, p in wanted.items() if n not in tensors or tensors[n].shape != p.shape]
        if wrong:
            raise ValueError(f"the state does not fit the model, first in {wrong[0]}; train into another folder")
        for name, p in wanted.items():
            p.copy_(tensors[name])
        for name, p in self.others.items():
            found = {key: tensors.get(f"adam.{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
            self.adam.state[p] = {key: value.to(p.device) for key, value in found.items() if value is not None}

    @torch.no_grad()
    def use_average(self) -> None:
        """Give the module the averaged parameters. Training cannot go on from here: save the state first."""
        for name, p in self.parameters.items():
            p.copy_(self.average[name])


def orthogonalise(matrices: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: singular values end between 0.7 and 1.2. [B, N, K] -> the same."""
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = QUINTIC
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    near: Tensor = (x.mT if tall else x).to(matrices.dtype)
    return near
