"""Attention on queries, keys and values of one byte, with a scale for each head.

Keys lose their mean over the tokens first. Softmax does not see what all keys have in common, but e4m3 would
spend its range on it.

Shapes: B batch · L queries · S keys · N heads · E head width.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from livetalk.ops.attention_lse import reference_attention_with_lse
from livetalk.ops.fa3 import fa3, fa3_into
from livetalk.ops.low_precision import FLOAT8, FLOAT8_MAX
from livetalk.ops.matmul import LEAST_SCALE

FLOAT8_ATTENTION_ERROR = 0.06
"""Norm of the error over norm of the output, for normally distributed queries, keys and values."""


class QuantizedHeads(NamedTuple):
    """Queries, keys or values of one byte.

    Attributes:
        levels: `[B, S, N, E]` e4m3.
        scale: `[B, N]` float32; a head is its levels times its scale.
    """

    levels: Tensor
    scale: Tensor

    def dequantize(self) -> Tensor:
        """Return `[B, S, N, E]` float32."""
        return self.levels.float() * self.scale[:, None, :, None]


class QuantizedAttention(NamedTuple):
    """All that attention in one byte reads.

    Attributes:
        q: queries, `[B, L, N, E]`.
        k: keys without their mean, `[B, S, N, E]`.
        v: values, `[B, S, N, E]`.
    """

    q: QuantizedHeads
    k: QuantizedHeads
    v: QuantizedHeads


def quantize_heads(x_BSNE: Tensor) -> QuantizedHeads:
    """Round so that each head uses the full range of e4m3; `x_BSNE` is `[B, S, N, E]`, any float dtype."""
    wide = x_BSNE.float()
    scale = (wide.abs().amax(dim=(1, 3)) / FLOAT8_MAX).clamp_min(LEAST_SCALE)
    levels = (wide / scale[:, None, :, None]).clamp(-FLOAT8_MAX, FLOAT8_MAX).to(FLOAT8)
    return QuantizedHeads(levels, scale)


def quantize_attention(q_BLNE: Tensor, k_BSNE: Tensor, v_BSNE: Tensor) -> tuple[QuantizedAttention, Tensor]:
    """Quantise what attention reads.

    Args:
        q_BLNE: queries, `[B, L, N, E]`, any float dtype.
        k_BSNE: keys, `[B, S, N, E]`, likewise; S is at least 1.
        v_BSNE: values, `[B, S, N, E]`, likewise.

    Returns:
        The three in one byte, and the mean of the keys, `[B, 1, N, E]` float32.
    """
    keys = k_BSNE.float()
    mean = keys.mean(1, keepdim=True)
    parts = QuantizedAttention(quantize_heads(q_BLNE), quantize_heads(keys - mean), quantize_heads(v_BSNE))
    return parts, mean


Quantize = Callable[[Tensor, Tensor, Tensor], tuple[QuantizedAttention, Tensor]]


def restore_lse(lse_BNL: Tensor, q_BLNE: Tensor, key_mean_B1NE: Tensor) -> Tensor:
    """Add to a log-sum-exp what taking the mean off the keys took away.

    Args:
        lse_BNL: log-sum-exp over keys without their mean, `[B, N, L]` float32.
        q_BLNE: the queries as they were before quantisation.
        key_mean_B1NE: `[B, 1, N, E]` float32.

    Returns:
        `[B, L, N]` float32.
    """
    offset: Tensor = torch.linalg.vecdot(q_BLNE.float(), key_mean_B1NE) * q_BLNE.shape[-1] ** -0.5
    return lse_BNL.transpose(1, 2) + offset


def float8_attention(
    q_BLNE: Tensor,
    k_BSNE: Tensor,
    v_BSNE: Tensor,
    quantize: Quantize = quantize_attention,
    restore: bool = True,
) -> tuple[Tensor, Tensor]:
    """Attend in FP8 on FlashAttention 3.

    Args:
        q_BLNE: queries, as for `attention_with_lse`.
        k_BSNE: keys.
        v_BSNE: values.
        quantize: does what `quantize_attention` does.
        restore: whether the log-sum-exp is of the keys as given; for those who want the output alone it may
            be of the keys without their mean, which saves a pass over the queries.

    Returns:
        What `attention_with_lse` returns, in bfloat16.
    """
    (q, k, v), mean = quantize(q_BLNE, k_BSNE, v_BSNE)
    out, lse = fa3(q.levels, k.levels, v.levels, q.scale, k.scale, v.scale)
    return out, restore_lse(lse, q_BLNE, mean) if restore else lse.transpose(1, 2)


def float8_attention_reference(
    q_BLNE: Tensor,
    k_BSNE: Tensor,
    v_BSNE: Tensor,
    quantize: Quantize = quantize_attention,
    restore: bool = True,
) -> tuple[Tensor, Tensor]:
    """Quantise, dequantise and attend in float32: `float8_attention` but for the kernel's own rounding."""
    (q, k, v), mean = quantize(q_BLNE, k_BSNE, v_BSNE)
    out, lse = reference_attention_with_lse(q.dequantize(), k.dequantize(), v.dequantize())
    return out.type_as(v_BSNE), restore_lse(lse.transpose(1, 2), q_BLNE, mean) if restore else lse


def attend_quantized(parts: QuantizedAttention, out: Tensor | None = None) -> Tensor:
    """Attend to what a kernel quantised already; on a CPU the plain twin computes.

    Args:
        parts: what attention reads.
        out: where to write, `[B, L, N, E]` bfloat16 with a contiguous last axis. None for a new tensor.

    Returns:
        `[B, L, N, E]` bfloat16.
    """
    q, k, v = parts
    if out is None:
        out = torch.empty(q.levels.shape, dtype=torch.bfloat16, device=q.levels.device)
    if q.levels.device.type == "cuda":
        fa3_into(q.levels, k.levels, v.levels, q.scale, k.scale, v.scale, out)
        return out
    return out.copy_(reference_attention_with_lse(q.dequantize(), k.dequantize(), v.dequantize())[0])
