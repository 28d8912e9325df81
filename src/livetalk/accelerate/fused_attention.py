"""Self-attention between fused kernels: from a linear layer's input to what its output projection reads.

Shapes: B batch · L a rank's tokens · N heads · E head width · D model width.
"""

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from livetalk.accelerate.fused_qkv import FusedSelfAttention
from livetalk.ops.attention_float8 import QuantizedAttention
from livetalk.ops.backends import KernelCore, takes_bytes
from livetalk.ops.kernels.interface import FusedKernels, HeadNorm
from livetalk.ops.kernels.projected import Projected, attend_projected
from livetalk.ops.matmul import QuantizedRows
from livetalk.ops.norm import RMSNorm
from livetalk.ops.rope import RopeTables
from livetalk.placement.float8 import Float8Linear


def attend_to_tokens(
    attention: nn.Module, kernels: FusedKernels, x: Tensor | QuantizedRows, rope: RopeTables
) -> Tensor | Sequence[Tensor]:
    """Let tokens see one another.

    Args:
        attention: a block's self-attention, in any form.
        kernels: that work between its layers.
        x: normed tokens, `[B, L, D]`; in one byte only if its input projection takes that.
        rope: tables of the L tokens.

    Returns:
        What the output projection reads, see `attend_projected`; in the memory of several GPUs only if the
        projection takes rows of one byte, which `FusedKernels.quantize_rows` makes of it.
    """
    parts = _project_tokens(attention, x, rope)
    found = attend_projected(
        attention.get_submodule("core"),
        parts,
        cast(int, attention.num_heads),
        kernels,
        by_rank=takes_rows(attention.get_submodule("out")),
    )
    return found.type_as(parts[0].product) if isinstance(found, Tensor) else found


def _project_tokens(attention: nn.Module, x: Tensor | QuantizedRows, rope: RopeTables) -> list[Projected]:
    """Return queries, keys and values."""
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


def takes_rows(layer: nn.Module) -> bool:
    """Tell whether a layer wants its input in one byte."""
    return isinstance(layer, Float8Linear)


def multiply(layer: nn.Module, x: Tensor | QuantizedRows) -> tuple[Tensor, Tensor | None]:
    """Apply a linear layer without its bias where that can be left out.

    Args:
        layer: linear; stored in any form.
        x: its input, `[..., in]`; in one byte only if `takes_rows`.

    Returns:
        The product `[..., out]`, and the bias `[out]` that is still to be added, or None.
    """
    if isinstance(layer, Float8Linear):
        return layer.without_bias(x), layer.bias
    if type(layer) is nn.Linear:
        assert isinstance(x, Tensor)
        return F.linear(x, layer.weight), layer.bias
    return layer(x), None


def fuse_rounding(attention: nn.Module, kernels: FusedKernels) -> None:
    """Let FP8 attention round on fused kernels what it is given in 16 bits, as ranks give each other."""
    core = attention.core
    if isinstance(core, KernelCore) and takes_bytes(core):
        attention.core = core.quantizing(partial(quantize_attention_fused, kernels))


def quantize_attention_fused(
    kernels: FusedKernels, q_BLNE: Tensor, k_BSNE: Tensor, v_BSNE: Tensor
) -> tuple[QuantizedAttention, Tensor]:
    """Do what `quantize_attention` does on fused kernels; see there."""
    spread = kernels.measure_heads(k_BSNE)
    q, v = (kernels.quantize_heads(x, kernels.measure_heads(x), centre=False) for x in (q_BLNE, v_BSNE))
    k = kernels.quantize_heads(k_BSNE, spread, centre=True)
    return QuantizedAttention(q, k, v), spread.mean[:, None]
