"""Attention against its formula."""

import math

import torch

from livetalk.ops.attention import AttentionCore, attention
from tolerance import assert_near, rounding

LIMIT = rounding(8 + 2 * 7)
"""Rounding of products over 8 channels, a softmax over at most 7 keys and a sum over them."""


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_attention_is_the_softmax_of_scaled_products() -> None:
    q, k, v = draw(2, 5, 3, 8), draw(2, 7, 3, 8), draw(2, 7, 3, 9)[..., :8]
    scores = torch.einsum("blne,bsne->bnls", q, k) / math.sqrt(8)
    expected = torch.einsum("bnls,bsne->blne", scores.softmax(-1), v)
    assert_near(attention(q, k, v), expected, LIMIT)
    assert_near(AttentionCore()(q, k, v), expected, LIMIT)


def test_attention_mask_hides_keys() -> None:
    q, k, v = draw(1, 4, 2, 8), draw(1, 6, 2, 8), draw(1, 6, 2, 8)
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[:, 1:3] = True
    assert_near(attention(q, k, v, mask), attention(q, k[:, 1:3], v[:, 1:3]), LIMIT)


def test_attention_takes_the_dtype_of_the_values() -> None:
    q, k, v = draw(1, 4, 2, 8), draw(1, 6, 2, 8), draw(1, 6, 2, 8)
    rounded = attention(q, k, v.bfloat16())
    assert rounded.dtype == torch.bfloat16
    # Queries, keys, values and the result are each rounded once.
    assert_near(rounded.float(), attention(q, k, v), 4 * rounding(dtype=torch.bfloat16))
