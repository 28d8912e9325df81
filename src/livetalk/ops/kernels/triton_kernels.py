"""The fused operations on Triton."""

from livetalk.ops.kernels.heads import (
    measure_heads_on_triton,
    quantize_heads_into_on_triton,
    quantize_heads_on_triton,
    split_heads_on_triton,
)
from livetalk.ops.kernels.interface import FusedKernels
from livetalk.ops.kernels.pixels import (
    add_channels_on_triton,
    channel_norm_on_triton,
    join_phases_on_triton,
)
from livetalk.ops.kernels.ranges import join_ranges_on_triton
from livetalk.ops.kernels.rows import (
    add_layer_norm_on_triton,
    add_on_triton,
    gelu_on_triton,
    layer_norm_on_triton,
    quantize_rows_on_triton,
    softmax_heads_on_triton,
)


class TritonKernels:
    """Each fused operation as one kernel; see `FusedKernels`."""

    name = "triton"
    split_heads = staticmethod(split_heads_on_triton)
    measure_heads = staticmethod(measure_heads_on_triton)
    join_ranges = staticmethod(join_ranges_on_triton)
    quantize_heads = staticmethod(quantize_heads_on_triton)
    quantize_heads_into = staticmethod(quantize_heads_into_on_triton)
    layer_norm = staticmethod(layer_norm_on_triton)
    add = staticmethod(add_on_triton)
    add_layer_norm = staticmethod(add_layer_norm_on_triton)
    gelu = staticmethod(gelu_on_triton)
    quantize_rows = staticmethod(quantize_rows_on_triton)
    softmax_heads = staticmethod(softmax_heads_on_triton)
    channel_norm = staticmethod(channel_norm_on_triton)
    add_channels = staticmethod(add_channels_on_triton)
    join_phases = staticmethod(join_phases_on_triton)


KERNELS: FusedKernels = TritonKernels()
