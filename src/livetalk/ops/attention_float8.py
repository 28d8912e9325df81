"""Attention with queries, keys and values in FP8 (e4m3) and one scale per head.

The mean of the keys over the tokens is subtracted before quantisation: softmax is invariant to it, and it
would take up part of the range of e4m3.

Shapes: B batch · L queries · S keys · N heads · E head width.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from livetalk.ops.attention_lse import reference_attention_with_lse
from livetalk.ops.fa3 import fa3, fa3_into
from livetalk.ops.low_precision import FLOAT8, FLOAT8_MAX
from livetalk.ops.matmul import MIN_SCALE

FLOAT8_ATTENTION_ERROR = 0.06
"""Relative error (norm over norm) for normally distributed queries, keys and values."""


class QuantizedHeads(NamedTuple):
    """Queries, keys or values in FP8: levels `[B, S, N, E]` e4m3 times a scale `[B, N]` float32 per head."""

    levels: Tensor
    scale: Tensor

    def dequantize(self) -> Tensor:
        return self.levels.float() * self.scale[:, None, :, None]


class QuantizedAttention(NamedTuple):
    """Inputs of attention in FP8: queries, keys without their mean, values."""

    q: QuantizedHeads
    k: QuantizedHeads
    v: QuantizedHeads


def quantize_heads(x_BSNE: Tensor) -> QuantizedHeads:
    """Quantise `[B, S, N, E]` so that each head uses the full range of e4m3."""
    wide = x_BSNE.float()
    scale = (wide.abs().amax(dim=(1, 3)) / FLOAT8_MAX).clamp_min(MIN_SCALE)
    levels = (wide / scale[:, None, :, None]).clamp(-FLOAT8_MAX, FLOAT8_MAX).to(FLOAT8)
    return QuantizedHeads(levels, scale)


def quantize_attention(q_BLNE: Tensor, k_BSNE: Tensor, v_BSNE: Tensor) -> tuple[QuantizedAttention, Tensor]:
    """Quantise queries, keys and values of any float dtype; S is at least 1.

    Also returns the mean of the keys, `[B, 1, N, E]` float32.
    """
    # The mean is computed in float32, since it is added back to the log-sum-exp.
    keys = k_BSNE.float()
    mean = keys.mean(1, keepdim=True)
    parts = QuantizedAttention(quantize_heads(q_BLNE), quantize_heads(keys - mean), quantize_heads(v_BSNE))
    return parts, mean


Quantize = Callable[[Tensor, Tensor, Tensor], tuple[QuantizedAttention, Tensor]]


def restore_lse(lse_BNL: Tensor, q_BLNE: Tensor, key_mean_B1NE: Tensor) -> Tensor:
    """Convert a log-sum-exp over keys without their mean to one over the original keys.

    `lse_BNL` is `[B, N, L]`, the result `[B, L, N]`, both float32; the queries are not quantised.
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
    """Attend in FP8 on FlashAttention 3; return output and log-sum-exp as `attention_with_lse`, in bfloat16.

    `quantize` replaces `quantize_attention`. Without `restore` the log-sum-exp is that of the keys without
    their mean, which saves a pass over the queries for callers that need the output only.
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
    """Quantise, dequantise and attend in float32: `float8_attention` without the kernel's rounding."""
    (q, k, v), mean = quantize(q_BLNE, k_BSNE, v_BSNE)
    out, lse = reference_attention_with_lse(q.dequantize(), k.dequantize(), v.dequantize())
    return out.type_as(v_BSNE), restore_lse(lse.transpose(1, 2), q_BLNE, mean) if restore else lse


def attend_quantized(parts: QuantizedAttention, out: Tensor | None = None) -> Tensor:
    """Attend to quantised inputs, on a CPU with the plain twin; return `[B, L, N, E]` bfloat16.

    The result is written to `out` if given, whose last dimension must be contiguous.
    """
    q, k, v = parts
    if out is None:
        out = torch.empty(q.levels.shape, dtype=torch.bfloat16, device=q.levels.device)
    if q.levels.device.type == "cuda":
        fa3_into(q.levels, k.levels, v.levels, q.scale, k.scale, v.scale, out)
        return out
    return out.copy_(reference_attention_with_lse(q.dequantize(), k.dequantize(), v.dequantize())[0])
