"""How ranks share BAGEL: the weights of a layer (tensor parallel) or the image rows of a pass (sequence parallel)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bagel.config import LanguageConfig
from reference_impl.contract import Rotary, Route, require
from reference_impl.parallel import Parallel


def check_ranks(config: LanguageConfig, parallel: Parallel) -> None:
    """Refuse, before anything is loaded, ranks among which the heads or the MLP do not divide. Raises ValueError."""
    common = math.gcd(config.heads, config.intermediate)
    allowed = [n for n in range(1, common + 1) if common % n == 0]
    require(
        common % parallel.weight_parts == 0,
        "{} attention heads and intermediate_size {} do not divide among {} ranks; use {} ranks, or sequence parallel",
        config.heads,
        config.intermediate,
        parallel.weight_parts,
        " or ".join(map(str, allowed)),
    )


@dataclass(frozen=True)
class Share:
    """The rows that one rank computes in sequence parallel: its part of the image rows, then all text rows.

    whole          route of all rows
    rows           [m] int64, which of them
    route, rotary  of those rows, in that order
    order          [image rows] int64: where each image row stands among those that the ranks gather, one rank's behind
                   another's, each padded to the longest
    padded         how many those are
    parallel       the ranks that compute the others

    Example: `is_image = [0 1 1 1 1 0]` and 2 ranks -> `rows = [1 2 0 5]` on rank 0 and `[3 4 0 5]` on rank 1.
    """

    whole: Route
    rows: Tensor
    route: Route
    rotary: Rotary
    order: Tensor
    padded: int
    parallel: Parallel

    @classmethod
    def of(
        cls, route: Route, rotary: Rotary, parallel: Parallel, pictures: Sequence[int] | None = None
    ) -> "Share | None":
        """This rank's share; None if it computes all rows, as in tensor parallel or without image rows.

        pictures: how many image rows each has, where there are several; every one is divided among the ranks.
        """
        if parallel.row_parts == 1 or route.n_image == 0:
            return None
        sizes = (route.n_image,) if pictures is None else tuple(pictures)
        each = [-(-n // parallel.row_parts) for n in sizes]
        owners = torch.cat([torch.arange(n) // width for n, width in zip(sizes, each, strict=True)])
        # Stable, so that what a rank has of one picture stays in front of what it has of the next.
        gathered = owners.argsort(stable=True)
        place = torch.arange(len(owners)) - torch.searchsorted(owners[gathered], owners[gathered])
        order = torch.empty_like(gathered)
        order[gathered] = owners[gathered] * sum(each) + place
        device = route.rows.device
        mine = gathered[owners[gathered] == parallel.rank].to(device)
        rows = torch.cat([route.image_rows[mine], route.text_rows])
        own = Route.image_then_text(len(mine), route.n_text, device)
        table = Rotary(rotary.cos[rows], rotary.sin[rows])
        return cls(route, rows, own, table, order.to(device), sum(each) * parallel.row_parts, parallel)

    def take(self, x: Tensor) -> Tensor:
        """This rank's rows of x [M, ...]."""
        return x[self.rows]

    def join(self, x: Tensor) -> Tensor:
        """All rows [M, ...], of which x is this rank's; text rows are its own."""
        joined = x.new_empty(self.whole.n_rows, *x.shape[1:])
        joined[self.whole.image_rows] = self.join_image(x[: self.route.n_image])
        joined[self.whole.text_rows] = x[self.route.n_image :]
        return joined

    def join_image(self, x: Tensor) -> Tensor:
        """All image rows, one picture behind the other, of which x is this rank's."""
        return self.parallel.gather(x, self.padded)[self.order]
