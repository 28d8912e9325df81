"""Reconstruction losses of the VAE and the pixel weights that favour faces."""

import torch
import torch.nn.functional as F
from torch import Tensor


def box_weights(
    face_box: Tensor, mouth_box: Tensor, size: int, face: float, eyes: float, mouth: float
) -> Tensor:
    """Build a weight map that favours face, eyes and mouth.

    Args:
        face_box: [B, 4], left, top, right, bottom as shares of the picture, 0..1.
        mouth_box: [B, 4], likewise.
        size: height and width of the map.
        face: extra weight inside the face box.
        eyes: extra weight in the eye band (20 to 50 % of the face box's height).
        mouth: extra weight inside the mouth box.

    Returns:
        [B, 1, size, size], float32, mean 1 per sample.
    """
    left, top, right, bottom = face_box.unbind(1)
    height = bottom - top
    eye_box = torch.stack([left, top + 0.2 * height, right, top + 0.5 * height], 1)
    weights = 1.0 + face * _soft_box(face_box, size) + eyes * _soft_box(eye_box, size)
    weights = weights + mouth * _soft_box(mouth_box, size)
    return weights / weights.mean((2, 3), keepdim=True)


def _soft_box(box: Tensor, size: int, softness: float = 0.02) -> Tensor:
    grid = (torch.arange(size, device=box.device, dtype=torch.float32) + 0.5) / size
    left, top, right, bottom = (edge[:, None] for edge in box.float().unbind(1))
    across = torch.sigmoid((grid - left) / softness) * torch.sigmoid((right - grid) / softness)
    down = torch.sigmoid((grid - top) / softness) * torch.sigmoid((bottom - grid) / softness)
    return (down[:, :, None] * across[:, None, :])[:, None]


def reconstruction_loss(output: Tensor, target: Tensor, weights: Tensor, gradient_weight: float) -> Tensor:
    """Weighted L1 plus multi-scale L1 of image gradients, which keeps edges sharp.

    Args:
        output: [N, 3, H, W], -1..1.
        target: [N, 3, H, W], -1..1.
        weights: [N, 1, H, W], mean 1.
        gradient_weight: weight of the gradient part.

    Returns:
        Scalar loss.
    """
    difference = output - target
    loss = (difference.abs() * weights).mean()
    for scale in range(3):
        if scale:
            difference = F.avg_pool2d(difference, 2)
            weights = F.avg_pool2d(weights, 2)
        across = (difference[..., 1:] - difference[..., :-1]).abs() * weights[..., 1:]
        down = (difference[..., 1:, :] - difference[..., :-1, :]).abs() * weights[..., 1:, :]
        loss = loss + gradient_weight * (across.mean() + down.mean())
    return loss


def color_loss(output: Tensor, target: Tensor, cell: int = 16) -> Tensor:
    """L1 distance of colours averaged over square cells, everywhere alike.

    The other losses look at the face and at edges, and leave saturated clothes and backgrounds grey.

    Args:
        output: [N, 3, H, W], -1..1.
        target: [N, 3, H, W], -1..1.
        cell: side of a cell, pixels.
    """
    return F.avg_pool2d(output - target, cell).abs().mean()


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Mean KL divergence per element of N(mean, exp(log_variance)) against N(0, 1)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()


def weighted_psnr(output: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """PSNR in dB under pixel weights.

    Args:
        output: [N, 3, H, W], -1..1.
        target: [N, 3, H, W], -1..1.
        weights: [N, 1, H, W], non-negative.

    Returns:
        [N], dB against a peak-to-peak range of 2.
    """
    error = (output.clamp(-1, 1) - target).square() * weights
    mse = error.sum((1, 2, 3)) / (3.0 * weights.sum((1, 2, 3)))
    return 10.0 * torch.log10(4.0 / mse.clamp_min(1e-10))
