"""The vocabulary of weights, dense or quantised, and of rows in fp8: Experts, QuantisedRows. Part of the contract."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from reference_impl.require import require

FP8, FP8_MAX = torch.float8_e4m3fn, 448.0
"""The 8-bit float of quantised weights and rows, and its largest value. It has NaN and no infinity."""

INT8_MAX = 127
"""The largest magnitude of an int8 weight: symmetric, -128 is not used."""

Kind = Literal["dense", "fp8", "int8"]
"""How the weights of a layer are stored."""


@dataclass(frozen=True)
class Experts:
    """The two experts' weights of one linear layer, dense or quantised.

    weight       [2, N, K], text first: floating ("dense"), float8_e4m3fn ("fp8") or int8 ("int8")
    bias         [2, N] or None; of dense experts in the weight's dtype, of quantised ones in that of the results
    scale        [2, N] float32, quantised only: row n of the layer's matrix is weight[e, n].float() * scale[e, n]
    input_scale  [2] float32 or None, fp8 only: the fixed scale of each expert's input; None: every row has its own

    Example: a row [0.5 -1.0] as int8 is weight [64 -127], scale 1/127.

    An expert that lacks a bias beside one that has one gets a row of zeros: adding it changes no value.
    Precision belongs here: both experts are of one kind, and an illegal mix cannot be written. That scales are finite
    and above 0 is checked where weights are made or loaded (`reference_impl.checks.check_scales`): looking at values
    here would stall a GPU. Raises ValueError, TypeError or, for a dtype that is no kind, NotImplementedError.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: Tensor | None = None
    input_scale: Tensor | None = None

    def __post_init__(self) -> None:
        w, b = self.weight, self.bias
        require(
            w.ndim == 3 and w.shape[0] == 2, "weight has shape {}; weight must be [2, N, K], text first", tuple(w.shape)
        )
        kind = self.kind
        if b is not None:
            require(
                b.shape == w.shape[:2],
                "bias has shape {} but weight {}; bias must be [2, {}]",
                tuple(b.shape),
                tuple(w.shape),
                w.shape[1],
            )
            agree = b.dtype == w.dtype if kind == "dense" else b.is_floating_point() and b.dtype.itemsize > 1
            require(agree, "bias is {} but weight is {}; {}", b.dtype, w.dtype, _bias_cure(kind), error=TypeError)
            require(b.device == w.device, "bias is on {} but weight on {}; move both to one device", b.device, w.device)
        require(
            (self.scale is None) == (kind == "dense"),
            "weight is {} ({}) and scale is {}; quantised experts have a scale [2, N], dense ones none",
            w.dtype,
            kind,
            "missing" if self.scale is None else "given",
        )
        require(
            self.input_scale is None or kind == "fp8",
            "weight is {} ({}) but input_scale is given; only fp8 experts quantise their input",
            w.dtype,
            kind,
        )
        for name, scale, shape in (("scale", self.scale, w.shape[:2]), ("input_scale", self.input_scale, (2,))):
            if scale is not None:
                _require_scale(name, scale, w, tuple(shape))

    @classmethod
    def of(
        cls,
        text: tuple[Tensor, Tensor | None],
        image: tuple[Tensor, Tensor | None],
        scales: tuple[Tensor, Tensor] | None = None,
    ) -> "Experts":
        """Stack two (weight [N, K], bias [N] or None) pairs, and the scales [N] of quantised ones."""
        (text_w, text_b), (image_w, image_b) = text, image
        require(
            text_w.shape == image_w.shape,
            "text weight is {} but image weight {}; they must agree",
            tuple(text_w.shape),
            tuple(image_w.shape),
        )
        require(
            text_w.dtype == image_w.dtype,
            "text weight is {} but image weight {}; both experts must be of one kind",
            text_w.dtype,
            image_w.dtype,
            error=TypeError,
        )
        weight = torch.stack([text_w, image_w])
        scale = None if scales is None else torch.stack(scales)
        given = text_b if image_b is None else image_b
        if given is None:
            return cls(weight, scale=scale)
        zeros = torch.zeros_like(given)
        bias = torch.stack([zeros if text_b is None else text_b, zeros if image_b is None else image_b])
        return cls(weight, bias, scale)

    @property
    def kind(self) -> Kind:
        """How the weights are stored: "dense", "fp8" or "int8". Raises NotImplementedError for any other dtype."""
        dtype = self.weight.dtype
        if dtype == FP8:
            return "fp8"
        if dtype == torch.int8:
            return "int8"
        require(
            dtype.is_floating_point and dtype.itemsize > 1,
            "weight is {}; experts are dense (float32, float16, bfloat16), float8_e4m3fn or int8",
            dtype,
            error=NotImplementedError,
        )
        return "dense"

    @property
    def nbytes(self) -> int:
        """The memory of weights, biases and scales."""
        held = (self.weight, self.bias, self.scale, self.input_scale)
        return sum(tensor.nbytes for tensor in held if tensor is not None)

    @property
    def n_out(self) -> int:
        """N, the width of the output."""
        return self.weight.shape[1]

    @property
    def n_in(self) -> int:
        """K, the width of the input."""
        return self.weight.shape[2]


def _bias_cure(kind: Kind) -> str:
    return "they must agree" if kind == "dense" else "the bias of quantised experts is float32, float16 or bfloat16"


def _require_scale(name: str, scale: Tensor, beside: Tensor, shape: tuple[int, ...]) -> None:
    """A scale is float32, of this shape, beside its values."""
    require(
        tuple(scale.shape) == shape,
        "{} has shape {} but must be {}, for values {}",
        name,
        tuple(scale.shape),
        list(shape),
        tuple(beside.shape),
    )
    require(scale.dtype == torch.float32, "{} is {} but must be torch.float32", name, scale.dtype, error=TypeError)
    require(
        scale.device == beside.device,
        "{} is on {} but its values on {}; move both to one device",
        name,
        scale.device,
        beside.device,
    )


@dataclass(frozen=True)
class QuantisedRows:
    """Rows in 8-bit floats, each with its own scale: what fp8 experts take.

    values  [M, K] float8_e4m3fn
    scale   [M] float32: row m is values[m].float() * scale[m]
    dtype   what results computed from it have: that of the rows it was made from

    Example: a row [1.0 -2.0] is values [224 -448], scale 2/448. Raises ValueError or TypeError.
    """

    values: Tensor
    scale: Tensor
    dtype: torch.dtype

    def __post_init__(self) -> None:
        require(self.values.ndim == 2, "values have shape {} but must be [M, K]", tuple(self.values.shape))
        require(self.values.dtype == FP8, "values are {} but must be {}", self.values.dtype, FP8, error=TypeError)
        _require_scale("scale", self.scale, self.values, (len(self.values),))
        require(
            self.dtype.is_floating_point and self.dtype.itemsize > 1,
            "results would be {}; use float32, float16 or bfloat16",
            self.dtype,
            error=TypeError,
        )

    @property
    def shape(self) -> torch.Size:
        """(M, K), as a tensor's."""
        return self.values.shape

    @property
    def device(self) -> torch.device:
        """Where the values are."""
        return self.values.device


Rows = Tensor | QuantisedRows
"""What a linear op takes: rows [M, K] as they are, or already quantised for fp8 experts."""
