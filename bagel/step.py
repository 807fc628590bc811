"""One update for several pictures and all their guidance branches at once, in buffers that stay where they are."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from bagel.batch import Batch, Plan, Watch
from bagel.layers import finished, heads, packed
from bagel.model import Bagel
from bagel.probe import QUIET, Probe
from bagel.transformer import Context
from reference_impl.contract import KVSlice, require

MOST_SETS = 8
"""Sets of passes, each with its CUDA graph, that a workspace keeps; a guided picture has two or three."""

T = TypeVar("T")


@dataclass(eq=False)
class Workspace:
    """The buffers of one batch, and what has been captured over them. One generation at a time may use it.

    x      per picture, [tokens, latent width] float32: the latent that an update starts from
    t      [pictures] float32: its time
    cache  [layers, 2, rows, kv_heads, d]: keys and values of each pass's context and of its own rows, `cache_rows`
    graphs  where CUDA graphs are captured; None: nothing is captured
    """

    model: Bagel
    batch: Batch
    graphs: "Graphs | None" = None
    x: list[Tensor] = field(init=False)
    t: Tensor = field(init=False)
    cache: Tensor = field(init=False)
    _ids: list[Tensor] = field(init=False)
    _markers: Tensor = field(init=False)
    _sets: "OrderedDict[Hashable, _Set]" = field(init=False, default_factory=OrderedDict)

    def __post_init__(self) -> None:
        model, grids = self.model, self.batch.grids
        device, norm = model.device, model.transformer.layers[0].qk_norm
        width = model.config.latent_width
        self.x = [torch.empty(grid.n_tokens, width, device=device) for grid in grids]
        self.t = torch.empty(len(grids), device=device)
        rows = self.batch.cache_rows(len(self.batch.passes) - 1).stop
        shape = (len(model.transformer.layers), 2, rows, norm.n_kv_heads, norm.head_dim)
        self.cache = torch.empty(shape, dtype=model.transformer.dtype, device=device)
        self._ids = [grid.positions(model.latent_side, device) for grid in grids]
        self._markers = model.markers()

    def seen(self, index: int) -> slice:
        """The rows of the cache that a pass attends to: its own, and no other's."""
        return self.batch.cache_rows(index)

    def load(self, contexts: Sequence[Context]) -> None:
        """Copy in what each pass is behind."""
        for index, context in enumerate(contexts):
            rows = self.batch.cache_rows(index)
            for layer, past in zip(self.cache, context.layers, strict=True):
                layer[0, rows.start : rows.start + context.n_rows] = past.k
                layer[1, rows.start : rows.start + context.n_rows] = past.v

    def velocities(
        self, passes: tuple[int, ...], given: Mapping[int, tuple[Tensor, Tensor]], probes: Sequence[Probe] = ()
    ) -> list[Tensor]:
        """The velocity [tokens, latent width] of each of these passes, not to be changed by later calls.

        given: per picture, its time [] and its latent [tokens, latent width]. probes: one per pass, which sees its
        velocity; for one that looks inside, nothing is captured.
        """
        for picture, (t, x) in given.items():
            self.t[picture].fill_(float(t))  # as a number: a copy from the host would wait for the device
            self.x[picture].copy_(x)
        one = kept(self._sets, passes, lambda: self._set(passes), MOST_SETS)
        watch = Watch(tuple(probes), one.plan.spans)
        if watch.looking or one.captured is None:
            out = self._forward(one.plan, watch)
        else:
            out = one.captured(lambda: self._forward(one.plan, watch))
        velocities = list(torch.split(out, [self.batch.tokens(i) for i in passes]))
        if probes:
            watch.each("velocity", velocities)
        return velocities

    def _set(self, passes: tuple[int, ...]) -> "_Set":
        plan = Plan.of(self.model.transformer, self.batch, passes)
        return _Set(plan, None if self.graphs is None else Captured(self.graphs))

    def _forward(self, plan: Plan, watch: Watch) -> Tensor:
        """Velocities of the image rows of all passes, from the buffers."""
        model, batch = self.model, self.batch
        pictures = dict.fromkeys(batch.passes[i].picture for i in plan.passes)
        first = watch.probes[0].at(branch="main") if watch.looking else QUIET
        embedded = {p: model.latents.embed(self.x[p], self.t[p], self._ids[p], first) for p in pictures}
        images = [embedded[batch.passes[i].picture] for i in plan.passes]
        x = torch.cat(images + [self._markers] * len(plan.passes))
        share = plan.block.share
        x = x if share is None else share.take(x)
        x, added, rows = self._layers(x, plan, watch)
        normed = model.transformer.final_norm(x, rows.block.own.route, added)
        watch("final_norm", normed)
        out: Tensor = model.latents.llm2vae(normed)
        watch("llm2vae", out)
        out = out[: rows.block.own.route.n_image]
        return out if share is None else share.join_image(out)

    def _layers(self, x: Tensor, plan: Plan, watch: Watch) -> tuple[Tensor, Tensor | None, Plan]:
        """Through all layers: what is left of x at the end and is still to be added to it, and which rows these are.

        The last layer's markers are needed for their keys and values only, so that layer ends without them. But who
        looks sees them to the end; and several ranks keep them, because they must sum alike though only one may look.
        """
        transformer = self.model.transformer
        early = transformer.parallel.size == 1 and not watch.looking
        watch("rope_cos", plan.block.own.rotary.cos)
        watch("rope_sin", plan.block.own.rotary.sin)
        added: Tensor | None = None
        for i, layer in enumerate(transformer.layers):
            here = watch.at(i)
            x, qkv = packed(transformer.ops, layer, x, plan.block.own.route, here, added)
            q, k_seen, v_seen = self._heads(i, qkv, plan, here)
            if here.looking:  # copies: the next update overwrites them
                here.each("k", [one.clone() for one in k_seen])
                here.each("v", [one.clone() for one in v_seen])
            if early and i == len(transformer.layers) - 1:
                plan = plan.image_only
                n = plan.block.route.n_image
                x, q = x[:n], q[:n]
            each = zip([span.of(q) for span in plan.spans], k_seen, v_seen, plan.causal, strict=True)
            mixed = plan.joined([transformer.ops.attention(*one) for one in each])
            x, added = finished(transformer.ops, layer, x, mixed, plan.block.own.route, here)
            if here.looking:
                x, added = x + added, None
                here("out", x)
        return x, added, plan

    def _heads(self, index: int, qkv: Tensor, plan: Plan, here: Watch) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """A layer's q, and the keys and values that each pass sees: those of the plan's rows are stored first."""
        ops, layer, own = self.model.transformer.ops, self.model.transformer.layers[index], plan.block.own
        into = KVSlice(self.cache[index, 0], self.cache[index, 1], plan.target)
        if plan.block.share is None:
            q, _, _ = heads(ops, layer, qkv, own, here, into)
        else:  # a rank has its own rows' keys and values, and keeps those of all
            q, k, v = heads(ops, layer, qkv, own, here)
            into.keep(*plan.block.joined(k, v))
        seen = [self.seen(i) for i in plan.passes]
        return q, [into.k[rows] for rows in seen], [into.v[rows] for rows in seen]


class _Set(NamedTuple):
    """The plan of some passes, and its graph."""

    plan: Plan
    captured: "Captured | None"


class Captured:
    """What is computed over fixed buffers: as it is in the first call, as a CUDA graph from the second on.

    The first call compiles kernels, and makes the tables and plans that cannot be made in a capture.
    """

    def __init__(self, graphs: "Graphs") -> None:
        self.graphs, self.called = graphs, False
        self.graph: Any = None
        self.out: Tensor | None = None

    def __call__(self, compute: Callable[[], Tensor]) -> Tensor:
        """The result, which the next call leaves alone."""
        stream = self.graphs.stream
        if stream is None:
            return compute()
        asking = torch.cuda.current_stream(stream.device)
        stream.wait_stream(asking)
        with torch.cuda.stream(stream):
            out = self._on_stream(compute)
        asking.wait_stream(stream)
        return out

    def _on_stream(self, compute: Callable[[], Tensor]) -> Tensor:
        if not self.called:
            self.called = True
            return compute()
        if self.graph is None:
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, pool=self.graphs.pool, stream=self.graphs.stream):
                    self.out = compute()
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                raise NotImplementedError(
                    f"the update cannot be captured in a CUDA graph ({reason}); use no graphs, or ops that never wait "
                    "for the device"
                ) from error
            self.graph = graph
        self.graph.replay()
        if self.out is None:
            raise RuntimeError("a CUDA graph was replayed before it was captured")
        return self.out.clone()


class Graphs:
    """Workspaces that are kept from one generation to the next; the one used longest ago is given up first.

    On a GPU the updates are captured as CUDA graphs, all in one pool of memory and on one stream, because they never
    run beside each other. Elsewhere the same buffers are used without.
    """

    def __init__(self, most: int) -> None:
        require(most > 0, "{} workspaces are to be kept but it must be at least 1; give None for no graphs", most)
        self.most = most
        self.stream: Any = None
        self.pool: Any = None
        self._workspaces: OrderedDict[Hashable, Workspace] = OrderedDict()

    def workspace(self, model: Bagel, batch: Batch) -> Workspace:
        """The one for such a batch. Raises NotImplementedError for a model that several ranks compute on GPUs."""
        if model.device.type == "cuda" and self.stream is None:
            ranks = model.transformer.parallel.size
            require(
                ranks == 1,
                "CUDA graphs are not implemented for {} ranks; use 1 rank, or no graphs",
                ranks,
                error=NotImplementedError,
            )
            self.stream = torch.cuda.Stream(model.device)  # type: ignore[no-untyped-call]
            self.pool = torch.cuda.graph_pool_handle()
        # By identity, of a model that the workspace keeps alive: another model has other weights or ops.
        return kept(self._workspaces, (id(model), batch), lambda: Workspace(model, batch, self), self.most)


def kept(cache: "OrderedDict[Hashable, T]", key: Hashable, make: Callable[[], T], most: int) -> T:
    """What `cache` has for the key, made if it has nothing; at most `most` are kept, the last used ones."""
    if key not in cache:
        while len(cache) >= most:
            cache.popitem(last=False)
        cache[key] = make()
    cache.move_to_end(key)
    return cache[key]
