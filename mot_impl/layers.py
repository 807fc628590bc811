"""The modules of reference_impl.layers bound to the fused ops. For other tiles: `partial(..., fused_ops(tiles))`."""

from functools import partial

from mot_impl import OPS
from reference_impl import layers

MoTRMSNorm = partial(layers.MoTRMSNorm, OPS)
MoTQKVParallelLinear = partial(layers.MoTQKVParallelLinear, OPS)
MoTMergedColumnParallelLinear = partial(layers.MoTMergedColumnParallelLinear, OPS)
MoTRowParallelLinear = partial(layers.MoTRowParallelLinear, OPS)
