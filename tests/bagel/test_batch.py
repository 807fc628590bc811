"""Passes made together are what each is alone, and tests that would see them mix.

In float64 another order of sums changes a velocity by 1e-14, and one row too many or too few by 1e-3.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

import mot_impl
import reference_impl
from bagel.batch import Batch, Plan
from bagel.latents import Grid
from bagel.model import Bagel
from bagel.pipeline import BagelPipeline, Guidance, ImageRequest
from bagel.probe import QUIET, Probe, Site
from bagel.step import Graphs, Workspace
from bagel.transformer import Context
from bagel.transforms import Resize
from benchmarks.harness.storing import storing
from reference_impl.contract import MoTOps

NOISE, LEAK = 1e-12, 1e-6
"""Of velocities in float64: the most that is reordering, and the least that a leak makes."""

GRIDS = (Grid(2, 3), Grid(4, 1))
TEXTS: tuple[tuple[list[int], ...], ...] = (([5, 17, 3, 99, 42], [], [7, 250]), ([9, 11, 13], []))
"""Per picture, the texts that its passes are behind."""
PASSES = ["picture 0 text 5", "picture 0 nothing", "picture 0 text 2", "picture 1 text 3", "picture 1 nothing"]
TIMES = (torch.tensor(1.0), torch.tensor(0.25))

INPUT = Image.effect_mandelbrot((80, 60), (-2, -1, 1, 1), 20)
EDIT = ImageRequest("darker", image=INPUT, steps=3, guidance=Guidance(4.0, 2.0, (0.0, 1.0), "text_channel"))
REQUESTS = {
    "edit": EDIT,
    "guided": ImageRequest("a red cat", height=32, width=48, steps=4, seed=1),
    "unguided": ImageRequest("two very small blue birds", height=48, width=16, steps=2, guidance=Guidance(1.0)),
    "no prompt": ImageRequest("", height=16, width=16, steps=5, timestep_shift=1.0, guidance=Guidance(3.0, 1.5)),
}

Seen = Callable[[Workspace, int], slice]


def load(oracle: Path, dtype: torch.dtype) -> BagelPipeline:
    whole = BagelPipeline.from_checkpoint(oracle / "checkpoint", reference_impl.OPS, dtype=dtype)
    return replace(whole, vae_resize=Resize(64, 32, 16), vit_resize=Resize(56, 28, 14))


@pytest.fixture(scope="module")
def wide(oracle: Path) -> BagelPipeline:
    return load(oracle, torch.float64)


@pytest.fixture(scope="module")
def narrow(oracle: Path) -> BagelPipeline:
    return load(oracle, torch.float32)


def given(picture: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(GRIDS[picture].n_tokens, 64, generator=torch.Generator().manual_seed(picture))
    return TIMES[picture], x


@torch.no_grad()
def contexts(model: Bagel) -> list[list[Context]]:
    empty = model.transformer.empty_context()
    return [[model.add_text(empty, ids, QUIET) if ids else empty for ids in texts] for texts in TEXTS]


@torch.no_grad()
def alone(model: Bagel) -> list[Tensor]:
    """Every pass by itself, without any of the buffers."""
    velocities = []
    for picture, (grid, behind) in enumerate(zip(GRIDS, contexts(model), strict=True)):
        t, x = given(picture)
        rows = model.embed_latents(x, t, grid, QUIET)
        velocities += [model.velocity(rows, model.latent_block(one, grid), one, QUIET) for one in behind]
    return velocities


@torch.no_grad()
def together(model: Bagel, passes: tuple[int, ...] = (0, 1, 2, 3, 4)) -> list[Tensor]:
    behind = contexts(model)
    workspace = Workspace(model, Batch.of(GRIDS, behind))
    workspace.load([one for each in behind for one in each])
    pictures = {workspace.batch.passes[i].picture for i in passes}
    return workspace.velocities(passes, {picture: given(picture) for picture in sorted(pictures)})


def apart(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max())


@pytest.mark.parametrize("index", range(5), ids=PASSES)
def test_a_pass_among_others_is_the_pass_alone(wide: BagelPipeline, index: int) -> None:
    assert apart(together(wide.model)[index], alone(wide.model)[index]) < NOISE


@pytest.mark.parametrize("passes", [(0,), (4,), (0, 1), (2, 3), (4, 0)], ids=str)
def test_some_passes_of_a_batch_are_those_passes(wide: BagelPipeline, passes: tuple[int, ...]) -> None:
    every = alone(wide.model)
    assert all(apart(v, every[i]) < NOISE for i, v in zip(passes, together(wide.model, passes), strict=True))


def _all(workspace: Workspace, index: int) -> slice:
    return slice(0, workspace.cache.shape[2])


def _next(workspace: Workspace, index: int) -> slice:
    rows = workspace.batch.cache_rows(index)
    return slice(rows.start, rows.stop + 1)


def _before(workspace: Workspace, index: int) -> slice:
    rows = workspace.batch.cache_rows(index)
    return slice(max(0, rows.start - 1), rows.stop)


def _short(workspace: Workspace, index: int) -> slice:
    rows = workspace.batch.cache_rows(index)
    return slice(rows.start + min(workspace.batch.passes[index].n_context, 1), rows.stop)


def _longest(workspace: Workspace, index: int) -> slice:
    """Padded to the longest context, as a batch of one shape would be."""
    stop = workspace.batch.cache_rows(index).stop
    longest = max(rows.stop - rows.start for rows in map(workspace.batch.cache_rows, range(5)))
    return slice(max(0, stop - longest), stop)


LEAKS = {
    "all rows": _all,
    "a row of the next": _next,
    "a row of the one before": _before,
    "a row too few": _short,
    "padded to the longest": _longest,
}


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS)
def test_a_leak_between_passes_is_seen(wide: BagelPipeline, monkeypatch: pytest.MonkeyPatch, leak: Seen) -> None:
    right = alone(wide.model)
    monkeypatch.setattr(Workspace, "seen", leak)
    assert max(apart(ours, one) for ours, one in zip(together(wide.model), right, strict=True)) > LEAK


@pytest.fixture(scope="module")
def by_themselves(wide: BagelPipeline) -> list[Tensor]:
    return [wide.generate(request).final_latents for request in REQUESTS.values()]


def latents_apart(pipeline: BagelPipeline, right: list[Tensor]) -> float:
    batch = pipeline.generate_batch(list(REQUESTS.values()))
    return max(apart(ours.final_latents, one) for ours, one in zip(batch, right, strict=True))


def test_pictures_of_a_batch_are_the_pictures_alone(wide: BagelPipeline, by_themselves: list[Tensor]) -> None:
    # Between updates a latent is float32, whose last place is 5e-7 here.
    assert latents_apart(wide, by_themselves) < 2e-6


def test_a_leak_is_seen_in_pictures(
    wide: BagelPipeline, by_themselves: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Workspace, "seen", _next)
    assert latents_apart(wide, by_themselves) > 1e-4


def test_a_request_that_cannot_be_is_refused_before_any_is_made(wide: BagelPipeline) -> None:
    with pytest.raises(ValueError, match="steps is 1"):
        wide.generate_batch([EDIT, replace(EDIT, steps=1)])


def test_no_requests_make_no_pictures(wide: BagelPipeline) -> None:
    assert wide.generate_batch([]) == []


def test_image_rows_of_all_passes_come_first(narrow: BagelPipeline) -> None:
    behind = contexts(narrow.model)
    plan = Plan.of(narrow.model.transformer, Batch.of(GRIDS, behind), (0, 3))
    assert plan.block.route.image_first
    assert [(one.image, one.text) for one in plan.spans] == [
        (slice(0, 6), slice(10, 12)),
        (slice(6, 10), slice(12, 14)),
    ]


def test_buffers_that_are_kept_change_no_bit(narrow: BagelPipeline) -> None:
    kept, short = narrow.with_graphs(2), replace(REQUESTS["guided"], steps=3)
    prompts = ("a red cat", "a red dog", "dog", "a red cat")
    lengths = [len(narrow.model.tokenizer.prompt(prompt)) for prompt in prompts]
    assert lengths[0] == lengths[1] != lengths[2]  # the same buffers with another context, and other buffers
    for request in (replace(short, prompt=prompt, seed=seed) for seed, prompt in enumerate(prompts)):
        assert torch.equal(kept.generate(request).v_t, narrow.generate(request).v_t)


@pytest.mark.parametrize("ops", [mot_impl.OPS, reference_impl.OPS], ids=lambda ops: ops.name)
@pytest.mark.parametrize("passes", [(0,), (0, 1, 3)], ids=["together", "scattered"])
def test_keys_and_values_stored_by_the_op_are_those_copied_behind_it(
    narrow: BagelPipeline, ops: MoTOps, passes: tuple[int, ...]
) -> None:
    copying = replace(ops, qk_norm_rotary=storing(ops.qk_norm_rotary))
    velocities = []
    for one in (ops, copying):
        model = replace(narrow.model, transformer=replace(narrow.model.transformer, ops=one))
        behind = contexts(narrow.model)
        workspace = Workspace(model, Batch.of(GRIDS, behind))
        workspace.load([context for each in behind for context in each])
        with torch.no_grad():
            velocities.append(torch.cat(workspace.velocities(passes, {i: given(i) for i in range(len(GRIDS))})))
    assert torch.equal(*velocities)


def test_who_looks_sees_the_markers_to_the_end_and_changes_nothing(wide: BagelPipeline) -> None:
    seen: dict[Site, int] = {}
    request = replace(REQUESTS["no prompt"], steps=2)
    watched = wide.generate(request, Probe(lambda site, tensor: seen.update({site: tensor.shape[:1].numel()})))
    assert apart(watched.v_t, wide.generate(request).v_t) < 2e-6
    rows = {s.branch: n for s, n in seen.items() if (s.phase, s.op, s.layer) == ("denoise", "mlp", 1)}
    assert rows == {"main": 3, "no_text": 3, "no_image": 3}


def test_who_does_not_look_inside_sees_velocities_and_changes_no_bit(narrow: BagelPipeline) -> None:
    seen: set[str] = set()
    request = replace(REQUESTS["no prompt"], steps=2)
    watched = narrow.generate(
        request, Probe(lambda site, _: seen.add(site.op) if site.phase == "denoise" else None, inside=False)
    )
    assert torch.equal(watched.v_t, narrow.generate(request).v_t)
    assert seen == {"x", "t", "velocity"}


def test_equal_shapes_share_buffers_and_others_do_not(narrow: BagelPipeline) -> None:
    graphs, behind = Graphs(2), contexts(narrow.model)
    first = graphs.workspace(narrow.model, Batch.of(GRIDS, behind))
    assert graphs.workspace(narrow.model, Batch.of(GRIDS, behind)) is first
    assert graphs.workspace(narrow.model, Batch.of(GRIDS[:1], behind[:1])) is not first


def test_another_model_has_its_own_buffers(narrow: BagelPipeline) -> None:
    graphs, batch = Graphs(2), Batch.of(GRIDS, contexts(narrow.model))
    other = replace(narrow.model)
    assert graphs.workspace(other, batch) is not graphs.workspace(narrow.model, batch)


def test_the_buffers_used_longest_ago_are_given_up(narrow: BagelPipeline) -> None:
    graphs, behind = Graphs(2), contexts(narrow.model)
    batches = [Batch.of(GRIDS[:1], [behind[0][:n]]) for n in (1, 2, 3)]
    first, second = (graphs.workspace(narrow.model, one) for one in batches[:2])
    assert graphs.workspace(narrow.model, batches[0]) is first
    graphs.workspace(narrow.model, batches[2])
    assert graphs.workspace(narrow.model, batches[0]) is first
    assert graphs.workspace(narrow.model, batches[1]) is not second


def test_graphs_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="0 workspaces are to be kept"):
        Graphs(0)
