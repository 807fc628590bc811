"""One rank of a test, started by conftest.py: `python worker.py JOB RANK SIZE FOLDER`. Results are files in FOLDER."""

import json
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from problem import QUANTISED, Problem
from safetensors.torch import save_file
from torch import Tensor

import reference_impl
from bagel.pipeline import BagelPipeline, GeneratedText
from bagel.probe import Site
from benchmarks.harness.oracle import Case
from benchmarks.harness.replayed import Replayed
from motbench.exits import guarded
from reference_impl.layers import MoTMergedColumnParallelLinear, MoTQKVParallelLinear, MoTRowParallelLinear
from reference_impl.parallel import Parallel

ORACLE = Path(__file__).parents[1] / "data" / "bagel_oracle"
CASES = ("t2i_base", "edit_base", "t2i_think", "und_image")
OPS = reference_impl.OPS


def worlds(rank: int, mode: str, sizes: tuple[int, ...]) -> Iterator[Parallel]:
    """The first 1, 2, ... of this test's ranks as worlds of their own, as far as this rank is in them."""
    for size in sizes:
        group = dist.new_group(list(range(size)))  # every process must make every group
        if rank < size:
            yield Parallel(rank, size, mode, group)  # type: ignore[arg-type]


def pictures(rank: int, folder: Path) -> None:
    for mode, sizes in (("tensor", (1, 2, 4)), ("sequence", (2, 3, 4))):
        for parallel in worlds(rank, mode, sizes):
            pipeline = BagelPipeline.from_checkpoint(ORACLE / "checkpoint", OPS, parallel=parallel)
            for name in CASES:
                case = Case.read(ORACLE / "cases" / name)
                run = Replayed.of(case, pipeline)
                stem = folder / f"{mode}-{parallel.size}-{name}-{rank}"
                if isinstance(run.result, GeneratedText):
                    stem.with_suffix(".json").write_text(json.dumps(run.result.ids))
                    continue
                run.result.image.save(stem.with_suffix(".png"))
                # Upstream's x_t, velocities and pictures; inside the layers a rank sees its own part only.
                fields = [field for field in case.tensors if field.partition(".")[0] in WHOLE]
                values = {field: _value(run, field) for field in fields}
                rows = torch.tensor(len(run.seen[Site("denoise", "in", step=0, layer=0)]))
                save_file(values | {"rows of the first pass": rows}, stem.with_suffix(".safetensors"))


WHOLE = ("x_t", "v_t", "v_cond", "v_cfg_text", "v_cfg_img", "final_latents", "decoded_raw")


def _value(run: Replayed, field: str) -> Tensor:
    value = run.value(field)
    assert value is not None
    return value.contiguous()


def layers(rank: int, folder: Path) -> None:
    """The half-layers of a Problem made of the modules, with the biases added and left to the caller."""
    p = Problem.make()
    if rank == 0:
        save_file(p.expected(), folder / "layers-whole.safetensors")
    for parallel in worlds(rank, "tensor", (1, 2, 4)):
        for skip in (False, True):
            qkv = MoTQKVParallelLinear(OPS, p.qkv, p.norm, parallel)
            o = MoTRowParallelLinear(OPS, p.o, parallel, skip)
            gate_up = MoTMergedColumnParallelLinear(OPS, p.gate_up, (p.inner, p.inner), parallel)
            down = MoTRowParallelLinear(OPS, p.down, parallel, skip)
            q, k, v = OPS.qk_norm_rotary(qkv(p.x, p.route)[0], qkv.qk_norm, p.table, p.route)
            mixed = OPS.attention(q, k, v, False)
            attended, o_bias = o(mixed.flatten(1), p.route)
            gate, up = gate_up(p.x, p.route)[0].chunk(2, dim=1)
            made, down_bias = down(torch.nn.functional.silu(gate) * up, p.route)
            out = {"attention": attended, "mlp": made}
            if skip:
                assert o_bias is not None
                assert down_bias is not None
                out |= {"o_bias": o_bias.data, "down_bias": down_bias.data}
            save_file(out, folder / f"layers-{parallel.size}-{'skip' if skip else 'add'}-{rank}.safetensors")


def quantised_layers(rank: int, folder: Path) -> None:
    """Layers of each kind on whole rows (qkv) and on this rank's part of given ones (o, down)."""
    for parallel in worlds(rank, "tensor", (1, 2, 4)):
        for one in QUANTISED:
            p = Problem.make().quantised(one.kind, one.fixed)
            qkv, _ = MoTQKVParallelLinear(OPS, p.qkv, p.norm, parallel)(p.x, p.route)
            out = {"qkv": qkv}
            for name, experts in (("o", p.o), ("down", p.down)):
                layer = MoTRowParallelLinear(OPS, experts, parallel)
                x = p.wide(experts.n_in)[:, parallel.part(experts.n_in, "columns")]
                out[name], _ = layer(x, p.route)
            save_file(out, folder / f"quantised-{one.name}-{parallel.size}-{rank}.safetensors")


def numbers(rank: int, folder: Path) -> None:
    """What the collectives do to small tensors."""
    for parallel in worlds(rank, "sequence", (2, 3, 4)):
        whole = torch.arange(10.0).view(5, 2)
        joined = parallel.gather(whole[parallel.rows(5)], 5)
        first = parallel.first(torch.tensor(100 + rank))
        save_file({"joined": joined, "first": first}, folder / f"numbers-{parallel.size}-{rank}.safetensors")


def everything(rank: int, folder: Path) -> None:
    numbers(rank, folder)
    layers(rank, folder)
    quantised_layers(rank, folder)
    pictures(rank, folder)


def gone(rank: int, folder: Path) -> None:
    """Rank 1 fails where rank 0 waits for it."""
    if rank == 1:
        raise ValueError("rank 1 has bad input")
    Parallel(rank, 2).sum(torch.ones(3))


def late(rank: int, folder: Path) -> None:
    """Rank 1 lives, and does not come within the group's timeout."""
    dist.barrier()
    group = dist.new_group(timeout=timedelta(seconds=3))
    if rank == 1:
        until = time.monotonic() + 60
        while not (folder / "rank 0 gave up").exists() and time.monotonic() < until:
            time.sleep(0.1)
        return
    try:
        Parallel(rank, 2, group=group).sum(torch.ones(3))
    finally:
        (folder / "rank 0 gave up").touch()


JOBS = {"everything": everything, "gone": gone, "late": late}
TIMEOUT = timedelta(seconds=120)


def main() -> None:
    name, rank, size, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        JOBS[name](rank, folder)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(guarded(main))
