"""Self-attention between fused kernels, from the input projections to the input of the output projection.

Shapes: B batch · L tokens of a rank · N heads · E head width · D model width.
"""

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from livetalk.accelerate.fused_qkv import FusedSelfAttention
from livetalk.ops.attention_float8 import QuantizedAttention
from livetalk.ops.backends import KernelCore, accepts_float8_heads
from livetalk.ops.kernels.interface import FusedKernels, HeadNorm
from livetalk.ops.kernels.projected import Projected, attend_projected
from livetalk.ops.matmul import QuantizedRows
from livetalk.ops.norm import RMSNorm
from livetalk.ops.rope import RopeTables
from livetalk.placement.float8 import Float8Linear


def attend_to_tokens(
    attention: nn.Module, kernels: FusedKernels, x: Tensor | QuantizedRows, rope: RopeTables
) -> Tensor | Sequence[Tensor]:
    """Run a block's self-attention, in any form, without its output projection.

    `x` `[B, L, D]` holds normalised tokens, quantised only if the input projection accepts that. The result
    is that of `attend_projected`.
    """
    parts = _project_tokens(attention, x, rope)
    found = attend_projected(
        attention.get_submodule("core"),
        parts,
        cast(int, attention.num_heads),
        kernels,
        # Quantising rows reads the results of each rank where they are, which saves a copy; a product cannot.
        by_rank=accepts_float8_rows(attention.get_submodule("out")),
    )
    return found.type_as(parts[0].product) if isinstance(found, Tensor) else found


def _project_tokens(attention: nn.Module, x: Tensor | QuantizedRows, rope: RopeTables) -> list[Projected]:
    if isinstance(attention, FusedSelfAttention):
        product, bias = multiply(attention.qkv, x)
        biases = (None,) * 3 if bias is None else bias.chunk(3)
        projected = list(zip(product.chunk(3, dim=-1), biases, strict=True))
    else:
        projected = [multiply(attention.get_submodule(name), x) for name in ("q", "k", "v")]
    norms = (attention.get_submodule("norm_q"), attention.get_submodule("norm_k"), None)
    return [
        Projected(y, bias, HeadNorm(norm.weight, norm.eps), rope)
        if isinstance(norm, RMSNorm)
        else Projected(y, bias, None, None)
        for (y, bias), norm in zip(projected, norms, strict=True)
    ]


def accepts_float8_rows(layer: nn.Module) -> bool:
    """Whether a layer reads its input as FP8 rows."""
    return isinstance(layer, Float8Linear)


def multiply(layer: nn.Module, x: Tensor | QuantizedRows) -> tuple[Tensor, Tensor | None]:
    """Apply a linear layer, and leave its bias to the caller's next kernel if the layer allows that.

    Returns the product `[..., out]` and the bias `[out]` that is still to be added, or None.
    """
    if isinstance(layer, Float8Linear):
        return layer.without_bias(x), layer.bias
    # A subclass may compute its output differently, so only the plain class is taken apart.
    if type(layer) is nn.Linear:
        assert isinstance(x, Tensor)
        return F.linear(x, layer.weight), layer.bias
    return layer(x), None


def fuse_rounding(attention: nn.Module, kernels: FusedKernels) -> None:
    """Quantise the 16-bit input of FP8 attention on fused kernels."""
    core = attention.core
    if isinstance(core, KernelCore) and accepts_float8_heads(core):
        attention.core = core.quantizing(partial(quantize_attention_fused, kernels))


def quantize_attention_fused(
    kernels: FusedKernels, q_BLNE: Tensor, k_BSNE: Tensor, v_BSNE: Tensor
) -> tuple[QuantizedAttention, Tensor]:
    """Compute `quantize_attention` on fused kernels."""
    head_range = kernels.measure_heads(k_BSNE)
    q, v = (kernels.quantize_heads(x, kernels.measure_heads(x), centre=False) for x in (q_BLNE, v_BSNE))
    k = kernels.quantize_heads(k_BSNE, head_range, centre=True)
    return QuantizedAttention(q, k, v), head_range.mean[:, None]
