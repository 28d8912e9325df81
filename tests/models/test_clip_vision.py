"""The CLIP image encoder: prepared pixels, tokens and refusals."""

from dataclasses import replace

import pytest
import torch

from livetalk.models.clip_vision import (
    PIXEL_MEAN,
    PIXEL_STD,
    CLIPVisionConfig,
    CLIPVisionEncoder,
    clip_vit_h14,
    prepare_clip_pixels,
)
from tolerance import assert_near, expect_narrow, relative, rounding

TINY = CLIPVisionConfig(image_size=16, patch_size=4, dim=24, ffn_dim=32, num_heads=3, num_layers=2)


@pytest.fixture
def encoder() -> CLIPVisionEncoder:
    """Build a tiny encoder with random weights."""
    torch.manual_seed(0)
    return CLIPVisionEncoder(TINY).eval().requires_grad_(False)


def test_tokens_stand_for_the_image_and_its_patches_by_rows(encoder: CLIPVisionEncoder) -> None:
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert encoder(pixels).shape == (2, 17, 24) == (2, TINY.num_tokens, TINY.dim)
    changed = pixels.clone()
    changed[:, :, 4:8, 8:12] += 1
    shallow = CLIPVisionEncoder(replace(TINY, num_layers=0))
    rows = (shallow(changed) != shallow(pixels)).any(dim=2)[0]
    assert rows.nonzero().flatten().tolist() == [1 + 4 * 1 + 2]


def test_pixels_are_standardised() -> None:
    white, black = prepare_clip_pixels(torch.ones(1, 3, 30, 20)), prepare_clip_pixels(-torch.ones(1, 3, 9, 9))
    assert white.shape == black.shape == (1, 3, 224, 224)
    mean, std = torch.tensor(PIXEL_MEAN), torch.tensor(PIXEL_STD)
    # A mean over all pixels, each of which is a bicubic sum of 16 that is shifted and scaled.
    limit = rounding(224 * 224 + 16 + 2)
    assert_near(white.mean(dim=(0, 2, 3)), (1 - mean) / std, limit)
    assert_near(black.mean(dim=(0, 2, 3)), -mean / std, limit)


def test_pictures_are_squashed_and_left_as_they_were() -> None:
    image = torch.full((1, 3, 64, 32), -1.0)
    image[:, :, :32] = 1
    kept = image.clone()
    pixels = prepare_clip_pixels(image, 16)
    assert torch.equal(image, kept)
    assert (pixels[:, :, :6] > 1).all() and (pixels[:, :, 10:] < -1).all()


def test_half_precision_follows_the_weights(encoder: CLIPVisionEncoder) -> None:
    pixels = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    exact, limit = expect_narrow(lambda: encoder(pixels), torch.bfloat16, encoder)
    rounded = encoder.to(torch.bfloat16)(pixels)
    assert rounded.dtype == torch.bfloat16
    assert 0 < relative(rounded, exact) < limit


def test_other_sizes_are_refused(encoder: CLIPVisionEncoder) -> None:
    with pytest.raises(ValueError, match=r"must be \[B, 3, 16, 16\]"):
        encoder(torch.zeros(1, 3, 16, 20))
    with pytest.raises(ValueError, match="num_heads"):
        replace(TINY, num_heads=5)
    with pytest.raises(ValueError, match="patch_size"):
        replace(TINY, patch_size=5)


def test_full_size() -> None:
    config = clip_vit_h14()
    with torch.device("meta"):
        encoder = CLIPVisionEncoder(config)
    assert (config.num_tokens, config.dim) == (257, 1280)
    assert sum(p.numel() for p in encoder.parameters()) == 611_086_080
