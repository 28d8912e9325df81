"""Losses and weights have the stated ranges and react to what they should."""

import torch

from livetalk.datasets.augment import augment_clips
from livetalk.datasets.boxes import box_weights, mirror_boxes
from livetalk.training.losses import (
    color_loss,
    kl_divergence,
    reconstruction_loss,
    weighted_psnr,
)
from tolerance import assert_near, rounding

FACE = torch.tensor([[0.3, 0.2, 0.7, 0.8]])
MOUTH = torch.tensor([[0.4, 0.6, 0.6, 0.72]])


def test_weights_favour_the_mouth_and_average_one() -> None:
    weights = box_weights(FACE, MOUTH, 64, face=1.0, eyes=0.0, mouth=4.0)
    assert weights.shape == (1, 1, 64, 64)
    assert_near(weights.mean(), torch.tensor(1.0), rounding(64 * 64))
    assert weights[0, 0, 42, 32] > 2 * weights[0, 0, 20, 32] > 2 * weights[0, 0, 2, 2]


def test_reconstruction_loss_counts_mouth_errors_more() -> None:
    target = torch.zeros(1, 3, 64, 64)
    weights = box_weights(FACE, MOUTH, 64, face=1.0, eyes=0.0, mouth=4.0)
    at_mouth, at_corner = target.clone(), target.clone()
    at_mouth[..., 40:44, 30:34] = 0.5
    at_corner[..., 4:8, 4:8] = 0.5
    mouth = reconstruction_loss(at_mouth, target, weights, 0.5)
    corner = reconstruction_loss(at_corner, target, weights, 0.5)
    assert mouth > 2 * corner > 0
    assert reconstruction_loss(target, target, weights, 0.5) == 0


def test_color_loss_sees_hue_and_not_texture() -> None:
    target = torch.zeros(1, 3, 32, 32)
    texture = torch.full((1, 3, 32, 32), 0.5)
    texture[..., ::2] = -0.5
    hue = torch.tensor([0.1, -0.1, 0.0]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    assert color_loss(texture, target) < rounding(32 * 32)
    assert_near(color_loss(hue, target), torch.tensor(0.2 / 3), rounding(32 * 32))


def test_kl_is_zero_for_the_prior_only() -> None:
    zero = torch.zeros(4, 4)
    assert kl_divergence(zero, zero) == 0
    assert kl_divergence(zero + 1, zero) > 0
    assert kl_divergence(zero, zero - 1) > 0


def test_psnr_of_a_known_error() -> None:
    target = torch.zeros(2, 3, 8, 8)
    psnr = weighted_psnr(target + 0.02, target, torch.ones(2, 1, 8, 8))
    assert_near(psnr, torch.full((2,), 40.0), rounding(3 * 8 * 8))


def test_augmentation_is_one_draw_per_clip() -> None:
    frame = torch.rand(6, 1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    video = frame.expand(-1, 4, -1, -1, -1)
    out = augment_clips(video, torch.Generator().manual_seed(2))
    assert out.min() >= 0
    assert out.max() <= 1
    assert_near(out, out[:, :1].expand_as(out), rounding(4))
    assert (out[:, 0] - frame[:, 0]).abs().mean() > 0.01


def test_mirrored_boxes_stay_ordered() -> None:
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.6], [0.1, 0.2, 0.5, 0.6]])
    out = mirror_boxes(boxes, torch.tensor([True, False]))
    assert_near(out, torch.tensor([[0.5, 0.2, 0.9, 0.6], [0.1, 0.2, 0.5, 0.6]]), rounding())
