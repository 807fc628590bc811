"""Quantised models: what is kept, what `motbench quantise` writes, and a folder that is wrong refused in one line."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import reference_impl
from bagel.experts import is_linear, scale_name
from bagel.layers import MoTLayer
from bagel.pipeline import BagelPipeline, ImageRequest, TextRequest
from bagel.probe import Probe, Site
from bagel.quantise import quantise_checkpoint
from bagel.streamed import StreamedFile
from bagel.transformer import Transformer
from benchmarks.harness.synthetic import BAGEL_7B
from reference_impl.contract import FP8, IMAGE, TEXT, Experts, Kind, QKNorm
from reference_impl.quantise import quantise_weight

KINDS: tuple[Kind, ...] = ("fp8", "int8")
DTYPES = {"fp8": FP8, "int8": torch.int8}
LAYER = "language_model.model.layers.1."
O_PROJ, O_PROJ_IMAGE = f"{LAYER}self_attn.o_proj.weight", f"{LAYER}self_attn.o_proj_moe_gen.weight"
REQUEST = ImageRequest("a red cube", height=64, width=64, steps=6)

kinds = pytest.mark.parametrize("kind", KINDS)


def load(folder: Path, quantise: Kind | None = None) -> BagelPipeline:
    return BagelPipeline.from_checkpoint(folder, reference_impl.OPS, quantise=quantise)


@pytest.fixture(scope="module")
def written(oracle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, Path]:
    """The oracle's checkpoint in each kind."""
    folder = tmp_path_factory.mktemp("quantised")
    for kind in KINDS:
        quantise_checkpoint(oracle / "checkpoint", folder / kind, kind)
    return {kind: folder / kind for kind in KINDS}


@pytest.fixture(scope="module")
def loaded(oracle: Path) -> dict[Kind, BagelPipeline]:
    """The oracle's model, quantised while loading."""
    return {kind: load(oracle / "checkpoint", kind) for kind in KINDS}


def tensors(experts: Experts) -> list[Tensor]:
    return [one for one in (experts.weight, experts.bias, experts.scale) if one is not None]


def layers(layer: MoTLayer) -> list[Experts]:
    return [layer.qkv, layer.o, layer.gate_up, layer.down]


# What is kept.


@kinds
def test_each_module_is_quantised_as_it_is_stored(kind: Kind, loaded: dict[Kind, BagelPipeline], oracle: Path) -> None:
    stored = load_file(oracle / "checkpoint" / "ema.safetensors")
    qkv = loaded[kind].model.transformer.layers[1].qkv
    for expert, suffix in ((TEXT, ""), (IMAGE, "_moe_gen")):
        each = [quantise_weight(stored[f"{LAYER}self_attn.{name}_proj{suffix}.weight"], kind) for name in "qkv"]
        assert torch.equal(qkv.weight[expert].float(), torch.cat([values.float() for values, _ in each]))
        assert qkv.scale is not None
        assert torch.equal(qkv.scale[expert], torch.cat([scale for _, scale in each]))


@kinds
def test_a_written_checkpoint_is_what_loading_makes_of_the_original(
    kind: Kind, written: dict[Kind, Path], loaded: dict[Kind, BagelPipeline]
) -> None:
    ours, theirs = load(written[kind]).model.transformer.layers, loaded[kind].model.transformer.layers
    for one, other in zip(ours, theirs, strict=True):
        for mine, its in zip(layers(one), layers(other), strict=True):
            assert mine.kind == its.kind == kind
            pairs = zip(tensors(mine), tensors(its), strict=True)
            assert all(torch.equal(a.float(), b.float()) for a, b in pairs)


@kinds
def test_a_quantised_checkpoint_may_be_asked_for_by_its_kind(kind: Kind, written: dict[Kind, Path]) -> None:
    assert load(written[kind], kind).model.transformer.layers[0].o.kind == kind


@pytest.mark.parametrize(("kind", "least", "most"), [("fp8", 0.01, 0.1), ("int8", 0.001, 0.02)], ids=KINDS)
def test_a_picture_is_as_far_from_the_dense_one_as_the_kind_costs(
    kind: Kind, least: float, most: float, loaded: dict[Kind, BagelPipeline], pipeline: BagelPipeline
) -> None:
    exact = pipeline.generate(REQUEST).final_latents
    error = (loaded[kind].generate(REQUEST).final_latents - exact).norm() / exact.norm()
    assert least < error < most


@kinds
def test_text_is_written(kind: Kind, loaded: dict[Kind, BagelPipeline]) -> None:
    assert len(loaded[kind].understand(TextRequest("what is this?", max_tokens=4)).ids) > 0


def test_fp8_layers_get_rows_from_the_norm_in_front_of_them(loaded: dict[Kind, BagelPipeline]) -> None:
    asked: list[str] = []

    def noted(name: str) -> Callable[..., object]:
        def call(*args: object) -> object:
            asked.append(name)
            return getattr(reference_impl.OPS, name)(*args)

        return call

    names = ("rms_norm", "add_rms_norm", "quantised_rms_norm", "quantised_add_rms_norm")
    model = loaded["fp8"].model
    ops = dataclasses.replace(reference_impl.OPS, **{name: noted(name) for name in names})
    transformer = dataclasses.replace(model.transformer, ops=ops)
    transformer.run(transformer.embed([1, 2]), transformer.text_block(2, 0), transformer.empty_context())
    assert asked == ["quantised_rms_norm", "quantised_add_rms_norm"] * model.config.language.layers


def test_who_looks_sees_what_the_rows_stand_for(loaded: dict[Kind, BagelPipeline]) -> None:
    seen: dict[str, Tensor] = {}

    def sink(site: Site, tensor: Tensor) -> None:
        seen.setdefault(site.op, tensor)

    loaded["fp8"].generate(REQUEST, Probe(sink))
    assert seen["input_norm"].dtype == torch.float32
    assert len(seen["input_norm"].unique()) > 100


@pytest.mark.parametrize(("kind", "bytes_"), [(None, 26.1), ("fp8", 13.1), ("int8", 13.1)], ids=["bf16", *KINDS])
def test_memory_of_the_published_sizes(kind: Kind | None, bytes_: float) -> None:
    config = BAGEL_7B.language
    hidden, inner, heads = config.hidden, config.intermediate, (config.heads + 2 * config.kv_heads) * config.head_dim
    dtype = torch.bfloat16 if kind is None else DTYPES[kind]

    def experts(n: int, k: int, biased: bool = False) -> Experts:
        scale = None if kind is None else torch.empty(2, n, dtype=torch.float32)
        return Experts(torch.empty(2, n, k, dtype=dtype), torch.empty(2, n, dtype=dtype) if biased else None, scale)

    with torch.device("meta"):
        gain = torch.empty(2, hidden)
        norm = QKNorm(
            torch.empty(2, config.head_dim), torch.empty(2, config.head_dim), config.heads, config.kv_heads, 1
        )
        layer = MoTLayer(
            gain, experts(heads, hidden), norm, experts(hidden, hidden), gain, experts(2 * inner, hidden),
            experts(hidden, inner), config.eps,
        )  # fmt: skip
        empty = torch.empty(0)
        transformer = Transformer(config, reference_impl.OPS, empty, (layer,) * config.layers, empty, empty)
    assert round(transformer.linear_bytes / 1e9, 1) == bytes_


# What is written.


@kinds
def test_weights_of_linear_layers_are_quantised_and_nothing_else(
    kind: Kind, written: dict[Kind, Path], oracle: Path
) -> None:
    before, after = (load_file(folder / "ema.safetensors") for folder in (oracle / "checkpoint", written[kind]))
    linear = {name for name in before if is_linear(name)}
    assert len(linear) == 2 * 2 * 7
    assert after.keys() == before.keys() | {scale_name(name) for name in linear}
    assert {after[name].dtype for name in linear} == {DTYPES[kind]}
    assert all(torch.equal(after[name], before[name]) for name in before.keys() - linear)


@kinds
def test_other_files_are_copied_to_the_byte(kind: Kind, written: dict[Kind, Path], oracle: Path) -> None:
    names = {path.name for path in (oracle / "checkpoint").iterdir()}
    assert {path.name for path in written[kind].iterdir()} == names | {"quantisation.json"}
    for name in names - {"ema.safetensors"}:
        assert (written[kind] / name).read_bytes() == (oracle / "checkpoint" / name).read_bytes()


@kinds
def test_the_manifest_says_what_it_was_made_from(kind: Kind, written: dict[Kind, Path], oracle: Path) -> None:
    manifest = json.loads((written[kind] / "quantisation.json").read_text())
    source = oracle / "checkpoint" / "ema.safetensors"
    assert (manifest["kind"], manifest["weights"]) == (kind, 28)
    assert manifest["sources"] == {source.name: sha256(source.read_bytes()).hexdigest()}
    sizes = [sum(t.nbytes for t in load_file(path).values()) for path in (source, written[kind] / source.name)]
    assert [manifest["bytes_before"], manifest["bytes_after"]] == sizes
    assert manifest["versions"].keys() == {"python", "torch", "safetensors"}


@kinds
def test_shards_stay_shards_with_an_index_of_what_they_hold(kind: Kind, checkpoint: Path, tmp_path: Path) -> None:
    whole = load_file(checkpoint / "ema.safetensors")
    (checkpoint / "ema.safetensors").unlink()
    names = sorted(whole)
    shards = {"ema-00001-of-00002.safetensors": names[::2], "ema-00002-of-00002.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: whole[name].contiguous() for name in part}, checkpoint / file)
    index = {name: file for file, part in shards.items() for name in part}
    (checkpoint / "ema.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    out = tmp_path / "out"
    quantise_checkpoint(checkpoint, out, kind)
    found = json.loads((out / "ema.safetensors.index.json").read_text())["weight_map"]
    assert found == {name: file for file in shards for name in load_file(out / file)}
    assert load(out).model.transformer.layers[0].o.kind == kind


def test_reading_is_told_to_the_end(oracle: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    quantise_checkpoint(oracle / "checkpoint", tmp_path / "out", "fp8", lambda *far: told.append(far))
    assert 0.98 < told[-1][0] / told[-1][1] <= 1


def test_the_folder_may_be_there_if_it_is_empty(oracle: Path, tmp_path: Path) -> None:
    quantise_checkpoint(oracle / "checkpoint", tmp_path, "int8")
    assert (tmp_path / "quantisation.json").is_file()


def test_an_interrupted_run_leaves_nothing(oracle: Path, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantise_checkpoint(oracle / "checkpoint", tmp_path / "out", "fp8", interrupt)
    assert list(tmp_path.iterdir()) == []


# What is refused.


def changed(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    path = folder / "ema.safetensors"
    stored = load_file(path)
    change(stored)
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, path)
    return folder


SCALE = scale_name(O_PROJ)
WRONG: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "no-scale": (lambda t: t.pop(SCALE), rf"1 missing: {SCALE}"),
    "scale-of-another-shape": (
        lambda t: t.update({SCALE: torch.ones(64, 1)}),
        rf"{SCALE} is \[64, 1\] but must be \[64\]",
    ),
    "scale-zero": (lambda t: t[SCALE].zero_(), "has 64 scale of 128 that are not finite and above 0, first 0.0"),
    "scale-nan": (lambda t: t[SCALE][3:4].fill_(math.nan), "has 1 scale of 128 .* first nan"),
    "scale-negative": (lambda t: t[SCALE][3:4].fill_(-1), "has 1 scale of 128 .* first -1"),
    "scale-in-half": (lambda t: t.update({SCALE: t[SCALE].half()}), f"{SCALE} is F16 but must be F32"),
    "experts-of-two-kinds": (
        lambda t: t.update({O_PROJ_IMAGE: t[O_PROJ_IMAGE].float().to(torch.int8)}),
        f"is fp8 but {O_PROJ_IMAGE} is int8; both experts",
    ),
    "one-expert-dense": (lambda t: t.update({O_PROJ_IMAGE: t[O_PROJ_IMAGE].float()}), "is fp8 but .* is dense"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_quantised_checkpoint_that_is_wrong_is_one_line(
    change: Callable[[dict[str, Tensor]], object], message: str, written: dict[Kind, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(written["fp8"], tmp_path / "fp8"))
    with pytest.raises(ValueError, match=message) as caught:
        load(changed(folder, change))
    assert "\n" not in str(caught.value)


def test_another_8_bit_float_is_refused(checkpoint: Path) -> None:
    changed(checkpoint, lambda t: t.update({O_PROJ: t[O_PROJ].to(torch.float8_e5m2)}))
    with pytest.raises(NotImplementedError, match=f"{O_PROJ} is F8_E5M2"):
        load(checkpoint)


def test_another_kind_than_the_checkpoints_is_refused(written: dict[Kind, Path]) -> None:
    with pytest.raises(ValueError, match="quantised to fp8 but int8 is asked for"):
        load(written["fp8"], "int8")


def test_ops_without_fp8_are_refused_before_the_weights_are_read(written: dict[Kind, Path]) -> None:
    dense_only = dataclasses.replace(reference_impl.OPS, name="theirs", quantised_rms_norm=None)
    told: list[int] = []
    with pytest.raises(NotImplementedError, match="'theirs' has no quantised_rms_norm"):
        BagelPipeline.from_checkpoint(written["fp8"], dense_only, told=lambda done, _: told.append(done))
    assert told[-1] <= (written["fp8"] / "ae.safetensors").stat().st_size


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
def test_weights_that_are_not_finite_are_not_quantised(value: float, checkpoint: Path, tmp_path: Path) -> None:
    changed(checkpoint, lambda t: t[O_PROJ][2, 3].fill_(value))
    message = f"{O_PROJ} .* has 1 values that are NaN or infinite"
    with pytest.raises(ValueError, match=message):
        load(checkpoint, "fp8")
    with pytest.raises(ValueError, match=message):
        quantise_checkpoint(checkpoint, tmp_path / "out", "fp8")
    assert not (tmp_path / "out").exists()


def test_a_quantised_checkpoint_is_not_quantised_again(written: dict[Kind, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is quantised to fp8 already; give the original"):
        quantise_checkpoint(written["fp8"], tmp_path / "out", "int8")


def test_a_folder_that_holds_something_is_not_written_to(oracle: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(FileExistsError, match="is not an empty folder"):
        quantise_checkpoint(oracle / "checkpoint", tmp_path, "fp8")


def test_a_folder_within_the_checkpoint_is_not_written_to(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="lies within"):
        quantise_checkpoint(checkpoint, checkpoint / "fp8", "fp8")


def test_an_incomplete_checkpoint_is_not_quantised(checkpoint: Path, tmp_path: Path) -> None:
    changed(checkpoint, lambda t: t.pop(O_PROJ))
    with pytest.raises(ValueError, match=f"1 missing: {O_PROJ}"):
        quantise_checkpoint(checkpoint, tmp_path / "out", "fp8")


def test_an_unknown_kind_is_refused(oracle: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot quantise to 'int4'; use one of fp8, int8"):
        quantise_checkpoint(oracle / "checkpoint", tmp_path / "out", "int4")  # type: ignore[arg-type]


# The streamed file.


def test_a_streamed_file_is_read_by_the_library(tmp_path: Path) -> None:
    given = {
        "odd": torch.arange(5, dtype=torch.int8), "half": torch.randn(3, 2).bfloat16(), "one": torch.tensor(2.5),
        "none": torch.zeros(0, 4), "codes": torch.randn(7).to(FP8), "flags": torch.tensor([True, False]),
    }  # fmt: skip
    names = {torch.int8: "I8", torch.bfloat16: "BF16", torch.float32: "F32", FP8: "F8_E4M3", torch.bool: "BOOL"}
    stored = {name: (names[tensor.dtype], tuple(tensor.shape)) for name, tensor in given.items()}
    with StreamedFile(tmp_path / "x.safetensors", stored) as file:
        for name in reversed(given):
            file.write(name, given[name])
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == given.keys()
    assert all(torch.equal(found[name].float(), given[name].float()) for name in given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(3), "was announced"),
        (torch.zeros(2).half(), "was announced"),
        (None, "lacks x; write every tensor"),
    ],
    ids=["shape", "dtype", "missing"],
)
def test_a_streamed_file_that_is_not_as_announced_is_refused(
    given: Tensor | None, message: str, tmp_path: Path
) -> None:
    def write() -> None:
        with StreamedFile(tmp_path / "x.safetensors", {"x": ("F32", (2,))}) as file:
            if given is not None:
                file.write("x", given)

    with pytest.raises(ValueError, match=message):
        write()
