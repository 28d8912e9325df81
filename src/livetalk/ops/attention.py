"""Scaled dot-product attention in layout `[B, L, N, E]`.

Shapes: B batch · L queries · S keys · N heads · E head width.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from livetalk.ops.attention_lse import attention_with_lse


def attention(q_BLNE: Tensor, k_BSNE: Tensor, v_BSNE: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend from every query to every key; return `[B, L, N, E]` in the dtype of `v_BSNE`.

    Queries and keys are first rounded to that dtype, as fused kernels do. `mask`, `[L, S]` bool, is true
    where a query may attend.
    """
    q = q_BLNE.type_as(v_BSNE).transpose(1, 2)
    k = k_BSNE.type_as(v_BSNE).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v_BSNE.transpose(1, 2), attn_mask=mask).transpose(1, 2)


class AttentionCore(nn.Module):
    """Attention as a module, which a network's fast or parallel form may replace."""

    def forward(self, q_BLNE: Tensor, k_BSNE: Tensor, v_BSNE: Tensor, mask: Tensor | None = None) -> Tensor:
        return attention(q_BLNE, k_BSNE, v_BSNE, mask)

    def with_lse(self, q_BLNE: Tensor, k_BSNE: Tensor, v_BSNE: Tensor) -> tuple[Tensor, Tensor]:
        """Return `attention_with_lse(q, k, v)`, as ring attention needs it."""
        return attention_with_lse(q_BLNE, k_BSNE, v_BSNE)
