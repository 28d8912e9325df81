"""Scaled dot-product attention in the package's one layout, `[B, L, N, E]`.

Shapes: B batch · L queries · S keys · N heads · E head width.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from livetalk.ops.attention_lse import attention_with_lse


def attention(q_BLNE: Tensor, k_BSNE: Tensor, v_BSNE: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend from every query to every key.

    Args:
        q_BLNE: queries, `[B, L, N, E]`; rounded to the dtype of `v_BSNE` first, as fused kernels do.
        k_BSNE: keys, `[B, S, N, E]`; rounded likewise.
        v_BSNE: values, `[B, S, N, E]`.
        mask: `[L, S]` bool, true where a query may look; None for everywhere.

    Returns:
        `[B, L, N, E]`, in the dtype of `v_BSNE`.
    """
    q = q_BLNE.type_as(v_BSNE).transpose(1, 2)
    k = k_BSNE.type_as(v_BSNE).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v_BSNE.transpose(1, 2), attn_mask=mask).transpose(1, 2)


class AttentionCore(nn.Module):
    """The product of queries, keys and values as a module, so that another core can take its place."""

    def forward(self, q_BLNE: Tensor, k_BSNE: Tensor, v_BSNE: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return `attention(q, k, v, mask)`; see there for shapes."""
        return attention(q_BLNE, k_BSNE, v_BSNE, mask)

    def with_lse(self, q_BLNE: Tensor, k_BSNE: Tensor, v_BSNE: Tensor) -> tuple[Tensor, Tensor]:
        """Return output and log-sum-exp as `attention_with_lse` does; the core of a ring calls this."""
        return attention_with_lse(q_BLNE, k_BSNE, v_BSNE)
