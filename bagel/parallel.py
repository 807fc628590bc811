"""How ranks share BAGEL: the weights of a layer (tensor parallel) or the image rows of a pass (sequence parallel)."""

import math
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
    """The rows of a block that one rank computes in sequence parallel: its part of the image rows, then all text rows.

    whole          route of the block
    rows           [m] int64, which of its rows
    route, rotary  of those rows, in that order
    parallel       the ranks that compute the others

    Example: `is_image = [0 1 1 1 1 0]` and 2 ranks -> `rows = [1 2 0 5]` on rank 0 and `[3 4 0 5]` on rank 1.
    """

    whole: Route
    rows: Tensor
    route: Route
    rotary: Rotary
    parallel: Parallel

    @classmethod
    def of(cls, route: Route, rotary: Rotary, parallel: Parallel) -> "Share | None":
        """This rank's share; None if it computes the whole block, as in tensor parallel or without image rows."""
        if parallel.row_parts == 1 or route.n_image == 0:
            return None
        rows = torch.cat([route.image_rows[parallel.rows(route.n_image)], route.text_rows])
        own = Route.image_then_text(len(rows) - route.n_text, route.n_text, rows.device)
        return cls(route, rows, own, Rotary(rotary.cos[rows], rotary.sin[rows]), parallel)

    def take(self, x: Tensor) -> Tensor:
        """This rank's rows of x [M, ...]."""
        return x[self.rows]

    def join(self, x: Tensor) -> Tensor:
        """All rows [M, ...], of which x is this rank's; text rows are its own."""
        image, text = x[: self.route.n_image], x[self.route.n_image :]
        joined = x.new_empty(self.whole.n_rows, *x.shape[1:])
        joined[self.whole.image_rows] = self.parallel.gather(image, self.whole.n_image)
        joined[self.whole.text_rows] = text
        return joined
