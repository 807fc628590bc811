"""How weights and rows are cut, without any rank but this process."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import reference_impl as ops
from bagel.parallel import Share
from reference_impl.contract import Experts, QKNorm, Rotary, Route
from reference_impl.parallel import ALONE, Parallel, cut_heads, cut_inputs, cut_outputs

M, D = 5, 2


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def layer(heads: int, kv_heads: int) -> tuple[Experts, QKNorm]:
    norm = QKNorm(draw(2, D), draw(2, D), heads, kv_heads, 1e-6)
    return Experts(draw(2, norm.qkv_width, 3), draw(2, norm.qkv_width)), norm


# The last three: ranks that share a head; ranks that serve key/value heads unevenly; both.
@pytest.mark.parametrize(
    ("heads", "kv_heads", "ranks"),
    [(4, 2, 1), (4, 2, 2), (8, 4, 2), (6, 6, 3), (4, 2, 4), (8, 1, 4), (6, 3, 2), (12, 4, 6)],
)
def test_heads_of_all_ranks_are_those_of_the_whole(heads: int, kv_heads: int, ranks: int) -> None:
    x, route, table = draw(M, 3), Route(torch.tensor([3, 0, 4, 1, 2]), 2), Rotary.at(torch.arange(M), D, 100.0)

    def attended(qkv: Experts, norm: QKNorm) -> Tensor:
        q, k, v = ops.qk_norm_rotary(ops.linear(x, qkv, route), norm, table, route)
        return ops.attention(q, k, v, causal=True)

    whole = layer(heads, kv_heads)
    parts = [attended(*cut_heads(*whole, Parallel(rank, ranks))) for rank in range(ranks)]
    assert torch.allclose(torch.cat(parts, dim=1), attended(*whole))


def test_ranks_that_share_a_key_value_head_hold_it_once_each() -> None:
    norms = [cut_heads(*layer(8, 2), Parallel(rank, 4))[1] for rank in range(4)]
    assert [(norm.n_heads, norm.n_kv_heads) for norm in norms] == [(2, 1)] * 4


def test_gate_and_up_are_cut_each() -> None:
    merged = Experts(torch.arange(8.0).repeat(2, 1)[:, :, None], torch.arange(8.0).repeat(2, 1))
    cut = cut_outputs(merged, (4, 4), Parallel(1, 2))
    assert cut.weight[0, :, 0].tolist() == [2, 3, 6, 7]
    assert cut.bias is not None
    assert cut.bias[1].tolist() == [2, 3, 6, 7]


def test_partial_sums_of_all_ranks_add_up() -> None:
    x, route, experts = draw(M, 6), Route.all_text(M), Experts(draw(2, 4, 6))
    parts = [
        ops.linear(x[:, rank * 2 : rank * 2 + 2], cut_inputs(experts, Parallel(rank, 3)), route) for rank in range(3)
    ]
    assert torch.allclose(torch.stack(parts).sum(0), ops.linear(x, experts, route))


@pytest.mark.parametrize("parallel", [ALONE, Parallel(1, 2, "sequence")], ids=["alone", "sequence"])
def test_without_tensor_parallel_weights_are_not_even_copied(parallel: Parallel) -> None:
    qkv, norm = layer(4, 2)
    assert cut_heads(qkv, norm, parallel) == (qkv, norm)
    assert cut_outputs(qkv, (8, 8), parallel) is qkv
    assert cut_inputs(qkv, parallel) is qkv


def test_a_part_keeps_nothing_else_in_memory() -> None:
    qkv, norm = layer(4, 2)
    two = Parallel(1, 2)
    for part in (cut_heads(qkv, norm, two)[0], cut_outputs(qkv, (8, 8), two), cut_inputs(Experts(draw(2, 3, 4)), two)):
        assert part.weight.untyped_storage().nbytes() == part.weight.numel() * part.weight.itemsize
        assert part.weight.is_contiguous()


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (lambda: cut_heads(*layer(4, 2), Parallel(0, 3)), "4 query heads do not divide among 3 ranks"),
        (lambda: cut_inputs(Experts(draw(2, 4, 7)), Parallel(0, 2)), "7 input columns do not divide among 2 ranks"),
        (lambda: cut_outputs(layer(4, 2)[0], (6, 10), Parallel(0, 4)), "6 output columns do not divide among 4 ranks"),
        (lambda: cut_outputs(layer(4, 2)[0], (6, 6), Parallel(0, 2)), r"N=16 but the merged widths \(6, 6\)"),
        (lambda: cut_heads(Experts(draw(2, 4, 3)), layer(4, 2)[1], ALONE), "N=4 but 4 query and 2 key/value heads"),
        (lambda: Parallel(2, 2), r"rank 2 must lie in 0\.\.1"),
        (lambda: Parallel(mode="rows"), "parallel mode 'rows' is unknown; use one of tensor, sequence"),  # type: ignore[arg-type]
    ],
    ids=["heads", "inputs", "outputs", "widths", "qkv width", "rank", "mode"],
)
def test_what_cannot_be_cut_is_refused(cut: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cut()  # type: ignore[operator]


@given(n=st.integers(0, 40), ranks=st.integers(1, 9))
def test_rows_of_all_ranks_are_all_rows_in_order(n: int, ranks: int) -> None:
    parts = [list(range(n))[Parallel(rank, ranks, "sequence").rows(n)] for rank in range(ranks)]
    assert [row for part in parts for row in part] == list(range(n))
    assert max(map(len, parts)) == -(-n // ranks)


def test_a_share_is_all_text_rows_and_a_part_of_the_image_rows() -> None:
    route, table = Route.from_mask(torch.tensor([0, 1, 1, 1, 1, 0]).bool()), Rotary.at(torch.arange(6), 4, 100.0)
    share = Share.of(route, table, Parallel(1, 2, "sequence"))
    assert share is not None
    assert share.rows.tolist() == [3, 4, 0, 5]
    assert (share.route.image_rows.tolist(), share.route.text_rows.tolist()) == ([0, 1], [2, 3])
    assert torch.equal(share.rotary.cos, table.cos[[3, 4, 0, 5]])


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_every_picture_is_divided_and_put_together_in_order(ranks: int) -> None:
    route, table = Route.image_then_text(8, 4), Rotary.at(torch.arange(12), 4, 100.0)
    shares = [Share.of(route, table, Parallel(rank, ranks, "sequence"), (5, 3)) for rank in range(ranks)]
    gathered = []
    for share in shares:
        assert share is not None
        image = share.rows[: share.route.n_image]
        assert int((image < 5).sum()) <= -(-5 // ranks)
        gathered.append(torch.nn.functional.pad(image, (0, share.padded // ranks - len(image)), value=-1))
    assert all(share is not None and torch.cat(gathered)[share.order].equal(torch.arange(8)) for share in shares)


@pytest.mark.parametrize(
    ("route", "parallel"),
    [(Route.all_text(3), Parallel(1, 2, "sequence")), (Route(torch.arange(3), 1), Parallel(1, 2))],
    ids=["text in sequence parallel", "image in tensor parallel"],
)
def test_a_block_that_is_not_divided_has_no_share(route: Route, parallel: Parallel) -> None:
    assert Share.of(route, Rotary.at(torch.arange(3), 4, 100.0), parallel) is None
