"""What config files may leave out, nest or add, and what they may not."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bagel.config import AutoencoderConfig, BagelConfig
from bagel.pipeline import BagelPipeline
from bagel.transforms import VAE_RESIZE, VIT_RESIZE, Resize
from reference_impl import OPS

Edit = Callable[..., None]


def test_upstream_drops_the_last_vit_layer(oracle: Path) -> None:
    stated = json.loads((oracle / "checkpoint" / "vit_config.json").read_text())["num_hidden_layers"]
    assert BagelConfig.read(oracle / "checkpoint").vision.layers == stated - 1


def test_missing_ae_config_means_upstreams_constants(checkpoint: Path) -> None:
    (checkpoint / "ae_config.json").unlink()
    found = BagelConfig.read(checkpoint).autoencoder
    assert found == AutoencoderConfig()
    assert (found.width, found.width_factors, found.blocks, found.scale) == (128, (1, 2, 4, 4), 2, 0.3611)


def test_missing_config_json_is_fine(checkpoint: Path) -> None:
    whole = BagelConfig.read(checkpoint)
    (checkpoint / "config.json").unlink()
    assert BagelConfig.read(checkpoint) == whole


def test_parts_may_be_nested_in_config_json(checkpoint: Path, edit_json: Edit) -> None:
    whole = BagelConfig.read(checkpoint)
    for name in ("llm_config", "vit_config"):
        edit_json(checkpoint / "config.json", **{name: json.loads((checkpoint / f"{name}.json").read_text())})
        (checkpoint / f"{name}.json").unlink()
    assert BagelConfig.read(checkpoint) == whole


def test_without_transform_args_the_resizes_are_upstreams(checkpoint: Path) -> None:
    found = BagelConfig.read(checkpoint)
    assert (found.vae_resize, found.vit_resize) == (VAE_RESIZE, VIT_RESIZE)


def test_the_pipeline_resizes_as_the_checkpoint_says(checkpoint: Path, edit_json: Edit) -> None:
    small = {"image_stride": 16, "max_image_size": 128, "min_image_size": 96}
    edit_json(
        checkpoint / "config.json", image_transform_args=small, vit_image_transform_args=small | {"max_pixels": 9}
    )
    found = BagelPipeline.from_checkpoint(checkpoint, OPS)
    assert (found.vae_resize, found.vit_resize) == (Resize(128, 96, 16), Resize(128, 96, 16, 9))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([16], r"image_transform_args is \[16\] but must be an object"),
        ({"image_stride": 16, "max_image_size": 0}, "image_transform_args: max_image_size is 0 but must be a positive"),
    ],
    ids=["a list", "a size of 0"],
)
def test_transform_args_that_are_none_are_refused(
    checkpoint: Path, edit_json: Edit, args: object, message: str
) -> None:
    edit_json(checkpoint / "config.json", image_transform_args=args)
    with pytest.raises(ValueError, match=message):
        BagelConfig.read(checkpoint)


def test_a_number_that_is_none_is_refused(checkpoint: Path, edit_json: Edit) -> None:
    edit_json(checkpoint / "llm_config.json", rope_theta=float("nan"))
    with pytest.raises(ValueError, match=r"llm_config.json: rope_theta is nan but must be a finite number"):
        BagelConfig.read(checkpoint)


def test_unknown_fields_are_ignored(checkpoint: Path, edit_json: Edit) -> None:
    whole = BagelConfig.read(checkpoint)
    edit_json(checkpoint / "llm_config.json", layer_module="Qwen2MoTDecoderLayer", freeze_und=False)
    assert BagelConfig.read(checkpoint) == whole


@pytest.mark.parametrize(
    ("file", "field"),
    [
        ("llm_config.json", "rms_norm_eps"),
        ("llm_config.json", "num_key_value_heads"),
        ("vit_config.json", "patch_size"),
        ("ae_config.json", "ch_mult"),
    ],
)
def test_absent_required_field_is_named_with_its_file(checkpoint: Path, edit_json: Edit, file: str, field: str) -> None:
    edit_json(checkpoint / file, **{field: None})
    with pytest.raises(ValueError, match=f"{file} lacks the field {field}"):
        BagelConfig.read(checkpoint)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"connector_act": "relu"}, "connector_act is 'relu' but only 'gelu_pytorch_tanh'"),
        ("llm_config.json", {"hidden_act": "gelu"}, "hidden_act is 'gelu' but only 'silu'"),
        ("llm_config.json", {"rope_scaling": {"type": "yarn"}}, "rope_scaling is"),
        ("llm_config.json", {"use_sliding_window": True}, "use_sliding_window is True but only False"),
    ],
    ids=["connector", "activation", "rope scaling", "sliding window"],
)
def test_other_architectures_are_not_computed_wrongly(
    checkpoint: Path, edit_json: Edit, file: str, changes: dict[str, object], message: str
) -> None:
    edit_json(checkpoint / file, **changes)
    with pytest.raises(NotImplementedError, match=message):
        BagelConfig.read(checkpoint)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("llm_config.json", {"num_attention_heads": 5}, "hidden_size 64 does not divide into 5 heads"),
        ("llm_config.json", {"num_key_value_heads": 3}, "4 attention heads do not divide among 3"),
        ("llm_config.json", {"hidden_size": "64"}, "hidden_size is '64' but must be a positive whole number"),
        ("llm_config.json", {"rope_theta": "big"}, "rope_theta is 'big' but must be a finite number"),
        ("vit_config.json", {"num_attention_heads": 7}, "hidden_size 48 does not divide among 7 heads"),
        ("ae_config.json", {"downsample": 16}, "downsample is 16 but 4 levels of ch_mult make 8"),
        ("ae_config.json", {"ch_mult": []}, "ch_mult is"),
    ],
    ids=["heads", "kv heads", "string", "theta", "vit heads", "downsample", "ch_mult"],
)
def test_contradictory_field_is_refused_with_both_values(
    checkpoint: Path, edit_json: Edit, file: str, changes: dict[str, object], message: str
) -> None:
    edit_json(checkpoint / file, **changes)
    with pytest.raises(ValueError, match=message):
        BagelConfig.read(checkpoint)


def test_file_that_is_not_json_is_named(checkpoint: Path) -> None:
    (checkpoint / "llm_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"llm_config\.json is not JSON"):
        BagelConfig.read(checkpoint)


def test_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"neither llm_config\.json nor a llm_config object"):
        BagelConfig.read(tmp_path)


def test_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        BagelConfig.read(tmp_path / "nowhere")
