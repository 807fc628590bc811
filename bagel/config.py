"""What a BAGEL folder says about its model. Fields of upstream's files that inference does not need are ignored."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bagel.transforms import VAE_RESIZE, VIT_RESIZE, Resize
from reference_impl.contract import require

VIT_EPS = 1e-6
"""LayerNorm epsilon of SigLIP, which vit_config.json does not carry."""


@dataclass(frozen=True)
class LanguageConfig:
    """The decoder: Qwen2 with two experts. eps is added to the mean square of every RMSNorm."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    max_positions: int
    eps: float
    rope_theta: float

    def __post_init__(self) -> None:
        require(
            self.hidden % self.heads == 0 and self.hidden // self.heads % 2 == 0,
            "llm_config.json: hidden_size {} does not divide into {} heads of an even width",
            self.hidden,
            self.heads,
        )
        require(
            self.heads % self.kv_heads == 0,
            "llm_config.json: {} attention heads do not divide among {} key/value heads",
            self.heads,
            self.kv_heads,
        )

    @property
    def head_dim(self) -> int:
        """d, the width of one head."""
        return self.hidden // self.heads


@dataclass(frozen=True)
class VisionConfig:
    """The SigLIP tower. `layers` is one less than vit_config.json says: upstream drops the last one."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    patch: int
    channels: int = 3

    def __post_init__(self) -> None:
        require(
            self.hidden % self.heads == 0,
            "vit_config.json: hidden_size {} does not divide among {} heads",
            self.hidden,
            self.heads,
        )


@dataclass(frozen=True)
class AutoencoderConfig:
    """The FLUX-style autoencoder; the defaults are the constants in upstream's `load_ae`."""

    in_channels: int = 3
    out_channels: int = 3
    width: int = 128
    width_factors: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    latent_channels: int = 16
    scale: float = 0.3611
    shift: float = 0.1159

    @property
    def downsample(self) -> int:
        """Pixels per latent position along one axis."""
        return 1 << (len(self.width_factors) - 1)


@dataclass(frozen=True)
class BagelConfig:
    """One checkpoint. latent_patch is the side, in latent positions, of the square that becomes one image token.

    The sides of the two position tables are not here: the row counts of their tensors say them.
    vae_resize, vit_resize  how input pictures are brought to size for the autoencoder and for the eye
    """

    language: LanguageConfig
    vision: VisionConfig
    autoencoder: AutoencoderConfig
    latent_patch: int = 2
    vae_resize: Resize = VAE_RESIZE
    vit_resize: Resize = VIT_RESIZE

    @property
    def stride(self) -> int:
        """Pixels per image token along one axis: heights and widths are multiples of it."""
        return self.autoencoder.downsample * self.latent_patch

    @property
    def latent_width(self) -> int:
        """Values in one image token: patch * patch * channels."""
        return self.latent_patch**2 * self.autoencoder.latent_channels

    @classmethod
    def read(cls, folder: Path) -> "BagelConfig":
        """Read the JSON files of a checkpoint folder.

        llm_config.json and vit_config.json may also be nested in config.json; without ae_config.json the autoencoder
        is upstream's. config.json may hold image_transform_args and vit_image_transform_args, which upstream keeps in
        its data settings under these names; without them the resizes are upstream's. Raises FileNotFoundError,
        ValueError or NotImplementedError naming the file and the field.
        """
        require(
            folder.is_dir(),
            "checkpoint {} is not a folder; give the folder that holds llm_config.json and ema.safetensors",
            folder,
            error=FileNotFoundError if not folder.exists() else NotADirectoryError,
        )
        bagel = _File.read(folder / "config.json") if (folder / "config.json").exists() else _File("config.json", {})
        bagel.only("connector_act", "gelu_pytorch_tanh")
        return cls(
            language=_language(_part(folder, "llm_config", bagel)),
            vision=_vision(_part(folder, "vit_config", bagel)),
            autoencoder=_autoencoder(folder / "ae_config.json"),
            latent_patch=bagel.integer("latent_patch_size", 2),
            vae_resize=_resize(bagel, "image_transform_args", VAE_RESIZE),
            vit_resize=_resize(bagel, "vit_image_transform_args", VIT_RESIZE),
        )


@dataclass(frozen=True)
class _File:
    """One JSON object and the name to use in errors about it."""

    name: str
    fields: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "_File":
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not JSON: {error}; restore the file from the checkpoint's source") from error
        require(isinstance(fields, dict), "{} holds a {} but must hold a JSON object", path, type(fields).__name__)
        return cls(str(path), fields)

    def value(self, key: str, default: Any = None) -> Any:
        """The field, or the default if there is one; a field without default is required."""
        found = self.fields.get(key)
        found = default if found is None else found
        require(
            found is not None, "{} lacks the field {}; restore the file from the checkpoint's source", self.name, key
        )
        return found

    def integer(self, key: str, default: int | None = None) -> int:
        """A positive whole number."""
        found = self.value(key, default)
        require(
            isinstance(found, int) and not isinstance(found, bool) and found > 0,
            "{}: {} is {!r} but must be a positive whole number",
            self.name,
            key,
            found,
        )
        return int(found)

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        found = self.value(key, default)
        require(
            isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found),
            "{}: {} is {!r} but must be a finite number",
            self.name,
            key,
            found,
        )
        return float(found)

    def only(self, key: str, supported: Any) -> None:
        """Refuse a model that inference here would compute wrongly."""
        found = self.fields.get(key)
        require(
            found is None or found == supported,
            "{}: {} is {!r} but only {!r} is implemented",
            self.name,
            key,
            found,
            supported,
            error=NotImplementedError,
        )


def _part(folder: Path, name: str, bagel: _File) -> _File:
    path = folder / f"{name}.json"
    if path.exists():
        return _File.read(path)
    nested = bagel.fields.get(name)
    if not isinstance(nested, dict):
        raise FileNotFoundError(
            f"{folder} has neither {name}.json nor a {name} object in config.json; give a BAGEL checkpoint folder"
        )
    return _File(f"{bagel.name}: {name}", nested)


def _resize(bagel: _File, name: str, default: Resize) -> Resize:
    if bagel.fields.get(name) is None:
        return default
    found = bagel.value(name)
    require(isinstance(found, dict), "{}: {} is {!r} but must be an object of whole numbers", bagel.name, name, found)
    file = _File(f"{bagel.name}: {name}", found)
    return Resize(
        max_size=file.integer("max_image_size"),
        min_size=file.integer("min_image_size"),
        stride=file.integer("image_stride"),
        max_pixels=file.integer("max_pixels", default.max_pixels),
    )


def _language(file: _File) -> LanguageConfig:
    file.only("hidden_act", "silu")
    file.only("use_sliding_window", False)
    file.only("rope_scaling", None)
    heads = file.integer("num_attention_heads")
    return LanguageConfig(
        hidden=file.integer("hidden_size"),
        intermediate=file.integer("intermediate_size"),
        layers=file.integer("num_hidden_layers"),
        heads=heads,
        kv_heads=file.integer("num_key_value_heads"),
        vocab=file.integer("vocab_size"),
        max_positions=file.integer("max_position_embeddings"),
        eps=file.number("rms_norm_eps"),
        rope_theta=file.number("rope_theta"),
    )


def _vision(file: _File) -> VisionConfig:
    file.only("hidden_act", "gelu_pytorch_tanh")
    file.only("layer_norm_eps", VIT_EPS)
    return VisionConfig(
        hidden=file.integer("hidden_size"),
        intermediate=file.integer("intermediate_size"),
        layers=file.integer("num_hidden_layers") - 1,
        heads=file.integer("num_attention_heads"),
        patch=file.integer("patch_size"),
        channels=file.integer("num_channels", 3),
    )


def _autoencoder(path: Path) -> AutoencoderConfig:
    if not path.exists():
        return AutoencoderConfig()
    file = _File.read(path)
    factors = file.value("ch_mult")
    require(
        isinstance(factors, list) and len(factors) > 0 and all(isinstance(f, int) and f > 0 for f in factors),
        "{}: ch_mult is {!r} but must be a list of positive whole numbers",
        path,
        factors,
    )
    config = AutoencoderConfig(
        in_channels=file.integer("in_channels"),
        out_channels=file.integer("out_ch"),
        width=file.integer("ch"),
        width_factors=tuple(factors),
        blocks=file.integer("num_res_blocks"),
        latent_channels=file.integer("z_channels"),
        scale=file.number("scale_factor"),
        shift=file.number("shift_factor"),
    )
    require(
        file.integer("downsample", config.downsample) == config.downsample,
        "{}: downsample is {} but {} levels of ch_mult make {}",
        path,
        file.fields.get("downsample"),
        len(factors),
        config.downsample,
    )
    return config
