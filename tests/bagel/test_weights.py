"""Loading: experts merged, shards read, and a folder that is wrong refused in one line."""

import json
import math
import pickle
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import reference_impl
from bagel.config import LanguageConfig
from bagel.model import Bagel
from bagel.pipeline import BagelPipeline
from bagel.weights import find_files, language_shapes
from reference_impl.contract import IMAGE, TEXT

LAYER = "language_model.model.layers.1."
NORM = "language_model.model.norm.weight"


def _load(folder: Path) -> Bagel:
    return BagelPipeline.from_checkpoint(folder, reference_impl.OPS).model


def _rewrite(path: Path, tensors: dict[str, Tensor]) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def test_qkv_rows_are_q_then_k_then_v_of_each_expert(pipeline: BagelPipeline, oracle: Path) -> None:
    stored = load_file(oracle / "checkpoint" / "ema.safetensors")
    qkv = pipeline.model.transformer.layers[1].qkv
    for expert, suffix in ((TEXT, ""), (IMAGE, "_moe_gen")):
        names = [f"{LAYER}self_attn.{name}_proj{suffix}" for name in "qkv"]
        assert torch.equal(qkv.weight[expert], torch.cat([stored[f"{name}.weight"] for name in names]).float())
        assert qkv.bias is not None
        assert torch.equal(qkv.bias[expert], torch.cat([stored[f"{name}.bias"] for name in names]).float())


def test_gate_rows_come_before_up_rows(pipeline: BagelPipeline, oracle: Path) -> None:
    stored = load_file(oracle / "checkpoint" / "ema.safetensors")
    gate_up = pipeline.model.transformer.layers[1].gate_up
    for expert, mlp in ((TEXT, "mlp"), (IMAGE, "mlp_moe_gen")):
        halves = [stored[f"{LAYER}{mlp}.{name}_proj.weight"] for name in ("gate", "up")]
        assert torch.equal(gate_up.weight[expert], torch.cat(halves).float())


def test_every_tensor_of_the_file_is_expected_once(pipeline: BagelPipeline, oracle: Path) -> None:
    stored = load_file(oracle / "checkpoint" / "ema.safetensors")
    named = {name for name in stored if name.startswith("language_model.")}
    assert language_shapes(pipeline.model.config.language).keys() == named


def test_the_dtype_asked_for_holds_for_all_but_the_autoencoder(oracle: Path) -> None:
    model = BagelPipeline.from_checkpoint(oracle / "checkpoint", reference_impl.OPS, dtype=torch.bfloat16).model
    assert {model.transformer.dtype, model.latents.llm2vae.weight.dtype} == {torch.bfloat16}
    assert model.autoencoder.decoder.conv_in.weight.dtype == torch.float32


def test_missing_extra_and_misshapen_tensors_are_listed_in_one_error(checkpoint: Path) -> None:
    path = checkpoint / "ema.safetensors"
    tensors = load_file(path)
    del tensors["llm2vae.bias"]
    tensors["stray.weight"] = torch.zeros(2)
    tensors[NORM] = torch.zeros(65)
    _rewrite(path, tensors)
    with pytest.raises(ValueError, match=r"1 missing: llm2vae\.bias") as caught:
        _load(checkpoint)
    assert "1 unexpected: stray.weight" in str(caught.value)
    assert f"1 of a wrong shape: {NORM} is [65] but must be [64]" in str(caught.value)


def test_autoencoder_tensors_are_checked_too(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "ae.safetensors")
    del tensors["decoder.conv_in.bias"]
    _rewrite(checkpoint / "ae.safetensors", tensors)
    with pytest.raises(ValueError, match=r"ae.safetensors .*1 missing: decoder.conv_in.bias"):
        _load(checkpoint)


def test_position_table_that_is_no_square_is_refused(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "ema.safetensors")
    tensors["latent_pos_embed.pos_embed"] = tensors["latent_pos_embed.pos_embed"][:4095]
    _rewrite(checkpoint / "ema.safetensors", tensors)
    with pytest.raises(ValueError, match=r"latent_pos_embed.pos_embed has shape \[4095, 64\]"):
        _load(checkpoint)


def test_row_count_says_the_side_of_the_position_table(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "ema.safetensors")
    tensors["latent_pos_embed.pos_embed"] = tensors["latent_pos_embed.pos_embed"][:1024]
    _rewrite(checkpoint / "ema.safetensors", tensors)
    assert _load(checkpoint).latent_side == 32


def test_truncated_file_is_one_line(checkpoint: Path) -> None:
    path = checkpoint / "ema.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"ema\.safetensors is not a complete safetensors file"):
        _load(checkpoint)


def test_pickle_under_a_safetensors_name_is_not_loaded(checkpoint: Path) -> None:
    (checkpoint / "ema.safetensors").unlink()
    (checkpoint / "model.safetensors").write_bytes(pickle.dumps({"weight": [1.0]}))
    with pytest.raises(
        ValueError, match=r"model.safetensors is not a complete safetensors file .*pickle is never loaded"
    ):
        _load(checkpoint)


def test_folder_with_a_pickle_only_says_what_is_looked_for(checkpoint: Path) -> None:
    (checkpoint / "ema.safetensors").rename(checkpoint / "ema.pt")
    with pytest.raises(FileNotFoundError, match=r"holds no ema\.safetensors or model\.safetensors"):
        _load(checkpoint)


@pytest.mark.parametrize("indexed", [True, False], ids=["with index", "by file names"])
def test_shards_load_as_the_whole_file(checkpoint: Path, pipeline: BagelPipeline, indexed: bool) -> None:
    whole = load_file(checkpoint / "ema.safetensors")
    (checkpoint / "ema.safetensors").unlink()
    names = sorted(whole)
    shards = {"ema-00001-of-00002.safetensors": names[::2], "ema-00002-of-00002.safetensors": names[1::2]}
    for file, part in shards.items():
        _rewrite(checkpoint / file, {name: whole[name] for name in part})
    if indexed:
        index = {name: file for file, part in shards.items() for name in part}
        (checkpoint / "ema.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert torch.equal(_load(checkpoint).transformer.head, pipeline.model.transformer.head)


def test_missing_shard_is_named(checkpoint: Path) -> None:
    (checkpoint / "ema.safetensors").unlink()
    index = checkpoint / "ema.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {NORM: "ema-00001-of-00001.safetensors"}}))
    with pytest.raises(FileNotFoundError, match=r"names the shard ema-00001-of-00001\.safetensors, which is not there"):
        find_files(checkpoint, ("ema",))


def test_index_cannot_name_a_file_elsewhere(checkpoint: Path) -> None:
    (checkpoint / "ema.safetensors").unlink()
    (checkpoint / "ema.safetensors.index.json").write_text(json.dumps({"weight_map": {NORM: "../ae.safetensors"}}))
    with pytest.raises(ValueError, match="not a plain file name"):
        find_files(checkpoint, ("ema",))


def test_tensor_in_two_shards_is_refused(checkpoint: Path) -> None:
    whole = load_file(checkpoint / "ema.safetensors")
    (checkpoint / "ema.safetensors").rename(checkpoint / "ema-00001-of-00002.safetensors")
    _rewrite(checkpoint / "ema-00002-of-00002.safetensors", {NORM: whole[NORM]})
    with pytest.raises(ValueError, match=f"tensor {NORM} is in more than one file"):
        _load(checkpoint)


def test_published_sizes_give_two_experts_of_seven_billion_parameters() -> None:
    published = LanguageConfig(3584, 18944, 28, 28, 4, 152064, 32768, 1e-6, 1e6)
    shapes = language_shapes(published)
    both = sum(math.prod(shape) for name, shape in shapes.items() if ".layers." in name)
    qk_norms = 28 * 2 * 128
    assert both == 2 * (6_525_618_176 + qk_norms)  # Qwen2.5-7B without embeddings, and BAGEL's q/k norms


def test_experts_are_copied_straight_to_their_places(oracle: Path) -> None:
    called: Counter[str] = Counter()

    class Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            called[str(func.overloadpacket)] += 1
            return func(*args, **(kwargs or {}))

    with Watching():  # type: ignore[no-untyped-call]
        _load(oracle / "checkpoint")
    assert called["aten.copy_"] >= 2 * 2 * 14
    assert called.keys() & {"aten.cat", "aten.stack", "aten.clone"} == set()


def test_reading_is_told_to_the_end(oracle: Path) -> None:
    told: list[tuple[int, int]] = []
    BagelPipeline.from_checkpoint(oracle / "checkpoint", reference_impl.OPS, told=lambda *far: told.append(far))
    done, totals = zip(*told, strict=True)
    assert list(done) == sorted(set(done))
    assert len(set(totals)) == 1
    # Of every file all but its header.
    assert 0.98 < done[-1] / totals[0] <= 1
