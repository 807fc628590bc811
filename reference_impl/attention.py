"""Attention over a packed sequence and its context: shared by both experts, so nothing here is routed."""

import torch
import torch.nn.functional as F
from torch import Tensor

from reference_impl.checks import check_attention
from reference_impl.contract import on_16_bytes


def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """softmax(q k^T / sqrt(d)) v with grouped key/value heads.

    q [M, H, d]; k, v [T, G, d] with T >= M: the context's rows come first -> [M, H, d]. `causal` aligns the mask to the
    bottom right: query i sees keys 0 .. T - M + i. Raises ValueError or TypeError.
    Source: flash_attn_varlen_func as BAGEL calls it.
    """
    check_attention(q, k, v)
    m, t = q.shape[0], k.shape[0]
    mask = torch.ones(m, t, dtype=torch.bool, device=q.device).tril(t - m) if causal and m > 1 else None
    q, k, v = (on_16_bytes(tensor).transpose(0, 1)[None] for tensor in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
    return out[0].transpose(0, 1).contiguous()
