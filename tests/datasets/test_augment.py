"""Photographic augmentation: how many clips change, alike in time, and each effect does what it says."""

import pytest
import torch
from torch import Tensor

from livetalk.datasets import augment
from livetalk.datasets.augment import CHANGED_SHARE, augment_clips
from tolerance import assert_near, rounding


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(batch: int, size: int = 32) -> Tensor:
    """Smooth random clips of two equal frames: [B, 2, 3, size, size]."""
    noise = torch.rand(batch, 3, 4, 4, generator=rng(1))
    frames = torch.nn.functional.interpolate(noise, size=(size, size), mode="bilinear")
    return frames[:, None].expand(-1, 2, -1, -1, -1).clamp(0, 1)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_four_clips_in_ten_stay_untouched() -> None:
    video = pictures(400)
    out = augment_clips(video, rng(2))
    same = (out == video).flatten(1).all(1)
    assert 1 - same.float().mean() == pytest.approx(CHANGED_SHARE, abs=0.07)
    assert (out - video).abs().flatten(1).mean(1)[~same].min() > 1e-3
    assert out.shape == video.shape
    assert out.min() >= 0
    assert out.max() <= 1
    assert out.dtype == torch.float32


def test_all_frames_of_a_clip_change_alike() -> None:
    out = augment_clips(pictures(60), rng(3))
    assert_near(out[:, 0], out[:, 1], rounding(4))


def test_one_seed_one_result_and_the_input_is_kept() -> None:
    video = pictures(8)
    before = video.clone()
    assert torch.equal(augment_clips(video, rng(4)), augment_clips(video, rng(4)))
    assert not torch.equal(augment_clips(video, rng(4)), augment_clips(video, rng(5)))
    assert torch.equal(video, before)


def test_identities_survive() -> None:
    """What an altered clip shows stays closer to its own picture than to any other one."""
    video = pictures(40)
    out = augment_clips(video, rng(6))[:, 0].flatten(1)
    own = video[:, 0].flatten(1)

    def standard(rows: Tensor) -> Tensor:
        centred = rows - rows.mean(1, keepdim=True)
        return torch.nn.functional.normalize(centred, dim=1)

    likeness = standard(out) @ standard(own).T
    assert (likeness.argmax(1) == torch.arange(40)).all()


def test_sizes_need_not_be_whole_blocks() -> None:
    video = torch.rand(12, 1, 3, 21, 37, generator=rng(7))
    out = augment_clips(video, rng(8))
    assert out.shape == video.shape
    assert torch.isfinite(out).all()


def test_light_is_a_gain_with_ramps_across_the_picture() -> None:
    gains = augment._light(pictures(200, 64), rng(9), texture=True)
    assert gains.min() > 0.2
    assert gains.max() < 4.0
    sides = gains[:, 0, 1].mean(1)[:, :8].mean(1) / gains[:, 0, 1].mean(1)[:, -8:].mean(1)
    assert (sides.log().abs() > 0.2).float().mean() > 0.2


def test_light_without_texture_has_no_fine_detail() -> None:
    flat = torch.full((100, 1, 3, 64, 64), 0.5)
    bends = [
        augment._light(flat, rng(12), texture=texture).log().diff(n=2, dim=-1).abs().mean()
        for texture in (True, False)
    ]
    assert 0 < bends[1] < 0.1 * bends[0]


def test_compression_keeps_flat_areas_and_drops_faint_detail() -> None:
    flat = torch.full((1, 1, 3, 16, 16), 0.5)
    assert (augment._compress(flat, rng()) - flat).abs().max() < 0.01
    checks = flat + 0.002 * (torch.arange(16) % 2 * 2 - 1)
    assert augment._compress(checks, rng()).std() < 0.2 * checks.std()


def test_sharpness_goes_both_ways() -> None:
    noise = torch.rand(100, 1, 3, 16, 16, generator=rng(10))
    ratio = (augment._sharpness(noise, rng(11)) - 0.5).flatten(1).std(1) / (noise - 0.5).flatten(1).std(1)
    assert ratio.min() < 0.6
    assert ratio.max() > 1.3
    assert 0.35 < (ratio == 1).float().mean() < 0.65
