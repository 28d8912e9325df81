import pytest
import torch
import torch.nn.functional as F

from livetalk.models.dit_precompute import fold_padding
from livetalk.ops.attention import attention
from tolerance import assert_near, distance, rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_real", [0, 1, 13, 60, 124, 443])
def test_a_few_keys_weigh_as_much_as_all_the_padding(dtype: torch.dtype, num_real: int) -> None:
    embeds = torch.randn(1, num_real, 4, generator=torch.Generator().manual_seed(0))
    rows, bias = fold_padding(F.pad(embeds, (0, 0, 0, 60)), 512, dtype)
    assert bias is not None and bias.dtype == dtype and bias.shape == (1, rows.shape[1])
    assert rows.shape[1] % 64 == 0 and num_real < rows.shape[1] < num_real + 70
    assert torch.equal(rows[:, :num_real], embeds)
    assert not rows[:, num_real:].any() and not bias[:, :num_real].any()
    weight = bias[:, num_real:].double().exp().sum().item()
    assert weight == pytest.approx(512 - num_real, rel=1e-6)


def test_padding_that_is_short_stays() -> None:
    embeds = torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(0))
    for length in (5, 6, 64):
        rows, bias = fold_padding(embeds, length, torch.float32)
        assert bias is None
        assert torch.equal(rows, F.pad(embeds, (0, 0, 0, length - 5)))


def test_attention_to_folded_padding_is_attention_to_all_of_it() -> None:
    rng = torch.Generator().manual_seed(0)
    q, real = torch.randn(2, 3, 2, 8, generator=rng), torch.randn(2, 6, 2, 8, generator=rng)
    pad = torch.randn(2, 1, 2, 8, generator=rng)
    rows, bias = fold_padding(torch.ones(2, 6, 1), 90, torch.float32)
    everything = torch.cat((real, pad.expand(-1, 84, -1, -1)), dim=1)
    folded = torch.cat((real, pad.expand(-1, rows.shape[1] - 6, -1, -1)), dim=1)
    expected = attention(q, everything, everything.flip(-1))
    # Products of 8 wide heads, a softmax over 90 keys, a sum over them.
    limit = rounding(8 + 2 * 90)
    assert_near(attention(q, folded, folded.flip(-1), bias), expected, limit)
    assert distance(attention(q, folded, folded.flip(-1)), expected) > 100 * limit
