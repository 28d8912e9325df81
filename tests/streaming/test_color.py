"""Colour matching: what it reaches, what it leaves alone."""

import torch

from livetalk.streaming.color import lab_to_rgb, match_color, measure_color, rgb_to_lab
from tolerance import assert_near, rounding

RNG = torch.Generator().manual_seed(0)
FRAMES = (torch.rand(1, 3, 2, 16, 16, generator=RNG) * 0.8 + 0.1) * 2 - 1
REFERENCE = FRAMES[:, :, :1] * 0.4 + 0.1

SLOPE = 12.92
"""Of the curve of a screen where it is steepest, which enlarges rounding in the same proportion."""
LIMIT = SLOPE * rounding(16 * 16 + 16)
"""Statistics over a frame, and some 16 operations from one colour space to the other and back."""


def test_lab_is_undone_and_has_known_points() -> None:
    rgb = (FRAMES + 1) / 2
    assert_near(lab_to_rgb(rgb_to_lab(rgb)), rgb, SLOPE * rounding(16))
    white = rgb_to_lab(torch.ones(1, 3, 1)).flatten()
    torch.testing.assert_close(white, torch.tensor([100.0, 0.0, 0.0]), atol=0.02, rtol=0)
    red = rgb_to_lab(torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1)).flatten()
    torch.testing.assert_close(red, torch.tensor([53.24, 80.09, 67.20]), atol=0.02, rtol=0)


def test_matched_frames_have_the_reference_statistics() -> None:
    reference = measure_color(REFERENCE)
    matched = measure_color(match_color(FRAMES, reference))
    torch.testing.assert_close(matched.mean, reference.mean.expand_as(matched.mean), atol=0.05, rtol=0.01)
    torch.testing.assert_close(matched.std, reference.std.expand_as(matched.std), atol=0.05, rtol=0.02)


def test_strength_blends() -> None:
    reference = measure_color(REFERENCE)
    full, half = match_color(FRAMES, reference), match_color(FRAMES, reference, 0.5)
    assert torch.equal(match_color(FRAMES, reference, 0.0), FRAMES)
    assert_near(half, (FRAMES + full) / 2, rounding(3))


def test_a_frame_matched_to_itself_stays() -> None:
    frame = FRAMES[:, :, :1]
    assert_near(match_color(frame, measure_color(frame)), frame, LIMIT)


def test_constant_frames_stay_constant_and_finite() -> None:
    constant = torch.full((1, 3, 1, 8, 8), 0.3) + torch.randn(1, 3, 1, 8, 8, generator=RNG) * 1e-7
    matched = match_color(constant, measure_color(REFERENCE))
    assert torch.isfinite(matched).all()
    # The noise of a constant frame must not be scaled up to the spread of the reference.
    assert matched.std(dim=(3, 4)).max() < LIMIT
    assert torch.isfinite(match_color(FRAMES, measure_color(constant))).all()


def test_size_is_counted() -> None:
    assert measure_color(REFERENCE).num_bytes == 24
