"""Strong changes of look and geometry: constant over a clip, in range, the same for frames and weights."""

import pytest
import torch
from torch import Tensor

from livetalk.datasets.looks import deform_clips, degrade_clips, restyle_clips
from tolerance import assert_near, rounding


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(batch: int, size: int = 32) -> Tensor:
    """Smooth random clips of two equal frames: [B, 2, 3, size, size]."""
    noise = torch.rand(batch, 3, 4, 4, generator=rng(1))
    frames = torch.nn.functional.interpolate(noise, size=(size, size), mode="bilinear")
    return frames[:, None].expand(-1, 2, -1, -1, -1).clamp(0, 1)


@pytest.mark.parametrize("change", [restyle_clips, degrade_clips])
def test_looks_stay_in_range_and_follow_the_seed(change: object) -> None:
    assert callable(change)
    video = pictures(40)
    out = change(video, rng(2))
    assert out.shape == video.shape and out.dtype == torch.float32
    assert out.min() >= 0 and out.max() <= 1
    assert torch.equal(out, change(video, rng(2)))
    assert not torch.equal(out, change(video, rng(3)))


def test_a_look_is_the_same_in_all_frames_and_differs_between_clips() -> None:
    out = restyle_clips(pictures(1).expand(8, -1, -1, -1, -1), rng(2))
    assert torch.equal(out[:, 0], out[:, 1])
    distance = (out[:, None, 0] - out[None, :, 0]).abs().mean((2, 3, 4))
    assert distance[~torch.eye(8, dtype=torch.bool)].min() > 0.01


def test_some_looks_have_no_colours() -> None:
    out = restyle_clips(pictures(600, size=8), rng(2))
    # Tinted light may still colour a grey clip, so its hue is constant instead of its colours equal.
    ratio = out[:, 0] / out[:, 0].sum(1, keepdim=True).clamp_min(1e-3)
    spread = ratio.flatten(2).std(2).mean(1)
    assert 0.01 < (spread < 0.02).float().mean() < 0.25


def test_grain_changes_from_frame_to_frame() -> None:
    video = pictures(60)
    change = degrade_clips(video, rng(0)) - video
    noisy = (change[:, 0] - change[:, 1]).abs().flatten(1).mean(1) > 1e-4
    assert noisy.float().mean() == pytest.approx(0.5, abs=0.2)


def test_a_deformation_moves_frames_and_weights_together() -> None:
    """A bright square and weights that mark it stay on each other."""
    square = torch.zeros(6, 2, 3, 64, 64)
    square[..., 24:40, 24:40] = 1
    weights = square[:, 0, :1] + 0.01
    moved, moved_weights = deform_clips(square, weights / weights.mean((2, 3), keepdim=True), rng(4))
    assert torch.equal(moved[:, 0], moved[:, 1])
    assert_near(moved_weights.mean((2, 3)), torch.ones(6, 1), rounding(64 * 64))
    centres = [
        _centre(picture) for picture in (moved[:, 0, :1], moved_weights - moved_weights.amin((2, 3), True))
    ]
    # Areas beyond the border are mirrored in frames and repeated in weights, which moves a centre slightly.
    assert (centres[0] - centres[1]).abs().max() < 1.0
    assert (centres[0] - 31.5).abs().max() > 2.0


def _centre(picture: Tensor) -> Tensor:
    """Return the centre of mass [B, 2] of [B, 1, H, W], in pixels."""
    mass = picture / picture.sum((1, 2, 3), keepdim=True)
    at = torch.arange(picture.shape[-1], dtype=torch.float32)
    return torch.stack([(mass.sum((1, 2)) * at).sum(1), (mass.sum((1, 3)) * at).sum(1)], 1)
