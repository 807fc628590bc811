"""Attention over a packed sequence and its context: PyTorch's own fused kernels, the fastest that apply."""

import contextlib
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mot_impl.device import require_supported
from reference_impl.checks import check_attention
from reference_impl.contract import on_16_bytes

FUSED_FIRST = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
"""In half precision on a GPU. On an H100 cuDNN takes 42 us where FlashAttention takes 73 (M = 1026) and 409 where it
takes 745 (M = 4098). The last two take the head widths that the first two refuse."""


def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """softmax(q k^T / sqrt(d)) v with grouped key/value heads.

    q [M, H, d]; k, v [T, G, d] with T >= M: the context's rows come first -> [M, H, d]. `causal` aligns the mask to the
    bottom right: query i sees keys 0 .. T - M + i. Raises ValueError or TypeError at the contract's door,
    NotImplementedError for a device or dtype without kernels.
    """
    check_attention(q, k, v)
    require_supported(q, k, v)
    m, t = q.shape[0], k.shape[0]
    causal = causal and m > 1
    # PyTorch's is_causal aligns to the top left: the same only where queries and keys are as many.
    mask = torch.ones(m, t, dtype=torch.bool, device=q.device).tril(t - m) if causal and t > m else None
    grouped = q.shape[1] != k.shape[1]
    q, k, v = (on_16_bytes(tensor).transpose(0, 1)[None] for tensor in (q, k, v))
    with _backends(q, mask):
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal and mask is None, enable_gqa=grouped
        )
    return out[0].transpose(0, 1).contiguous()


def _backends(q: Tensor, mask: Tensor | None) -> AbstractContextManager[None]:
    """The fused kernels take half precision without a mask; PyTorch chooses by itself for the rest."""
    if q.device.type == "cuda" and q.dtype != torch.float32 and mask is None:
        return sdpa_kernel(FUSED_FIRST, set_priority=True)
    return contextlib.nullcontext()
