"""The umT5 text encoder: padding, positions and precision."""

from dataclasses import replace

import pytest
import torch

from livetalk.models.umt5 import UMT5Config, UMT5Encoder, distance_buckets, umt5_xxl
from tolerance import assert_same_network, distance, expect, expect_narrow, relative

TINY = UMT5Config(vocabulary=40, dim=16, attention_dim=24, ffn_dim=20, num_heads=4, num_layers=2)


@pytest.fixture
def encoder() -> UMT5Encoder:
    """Build a tiny encoder with random weights."""
    torch.manual_seed(0)
    return UMT5Encoder(TINY).eval().requires_grad_(False)


def test_padding_is_zero_and_changes_nothing(encoder: UMT5Encoder) -> None:
    ids = torch.randint(1, 40, (1, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(12)[None] < 7
    embeds = encoder(ids, mask)
    assert embeds.shape == (1, 12, 16)
    assert embeds[:, 7:].count_nonzero() == 0
    other = torch.where(mask, ids, 3)
    assert torch.equal(encoder(other, mask), embeds)
    assert_same_network(encoder(ids[:, :7], mask[:, :7]), lambda: encoder(ids, mask)[:, :7], encoder)


def test_masks_of_integers_are_understood(encoder: UMT5Encoder) -> None:
    ids = torch.arange(6)[None]
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
    assert torch.equal(encoder(ids, mask), encoder(ids, mask.bool()))


def test_order_matters(encoder: UMT5Encoder) -> None:
    ids, mask = torch.arange(1, 9)[None], torch.ones(1, 8, dtype=torch.bool)
    expected, limit = expect(lambda: encoder(ids, mask), encoder)
    assert distance(encoder(ids.flip(1), mask).flip(1), expected) > 100 * limit


def test_buckets_tell_directions_and_near_distances_apart() -> None:
    buckets = distance_buckets(400, num_buckets=32, max_distance=128)
    assert buckets.shape == (400, 400)
    before, after = buckets[399].flip(0), buckets[0]
    assert before[:8].tolist() == list(range(8))
    assert after[1:8].tolist() == list(range(17, 24))
    # Eight classes span 8 to 128: the square root of 2 from one to the next.
    assert [before[n].item() for n in (8, 11, 12, 16, 23, 32, 64, 127)] == [8, 8, 9, 10, 11, 12, 14, 15]
    assert set(before[128:].tolist()) == {15}
    assert set(after[128:].tolist()) == {31}


def test_half_precision_follows_the_weights(encoder: UMT5Encoder) -> None:
    ids, mask = torch.arange(1, 9)[None], torch.arange(8)[None] < 6
    exact, limit = expect_narrow(lambda: encoder(ids, mask), torch.bfloat16, encoder)
    rounded = encoder.to(torch.bfloat16)(ids, mask)
    assert rounded.dtype == torch.bfloat16
    assert 0 < relative(rounded, exact) < limit


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="num_heads"):
        replace(TINY, num_heads=5)


def test_full_size() -> None:
    with torch.device("meta"):
        encoder = UMT5Encoder(umt5_xxl())
    assert sum(p.numel() for p in encoder.parameters()) == 5_680_910_336
