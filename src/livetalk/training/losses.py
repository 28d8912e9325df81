"""Reconstruction losses and measures of the VAE; frames are [N, 3, H, W], -1..1, unless said otherwise."""

import torch
import torch.nn.functional as F
from torch import Tensor


def reconstruction_loss(output: Tensor, target: Tensor, weights: Tensor, gradient_weight: float) -> Tensor:
    """Scalar L1 plus L1 of image gradients at three scales, weighted by `weights` [N, 1, H, W], mean 1."""
    difference = output - target
    loss = (difference.abs() * weights).mean()
    for scale in range(3):
        if scale:
            difference = F.avg_pool2d(difference, 2)
            weights = F.avg_pool2d(weights, 2)
        # L1 alone prefers blurred edges; the gradients keep them sharp.
        across = (difference[..., 1:] - difference[..., :-1]).abs() * weights[..., 1:]
        down = (difference[..., 1:, :] - difference[..., :-1, :]).abs() * weights[..., 1:, :]
        loss = loss + gradient_weight * (across.mean() + down.mean())
    return loss


def color_loss(output: Tensor, target: Tensor, cell: int = 16) -> Tensor:
    """L1 distance of colours averaged over cells of `cell` x `cell` pixels, without pixel weights."""
    # The other losses emphasise faces and edges; with them alone, saturated clothes and backgrounds turn
    # grey.
    return F.avg_pool2d(output - target, cell).abs().mean()


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Mean KL divergence per element of N(mean, exp(log_variance)) against N(0, 1)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()


def laplacian_variance(pictures: Tensor, mask: Tensor) -> Tensor:
    """Variance over all frames of the Laplacian of the mean colour inside `mask` [1, 1, H, W] of 0 and 1.

    Larger is sharper; values are comparable for one frame size and motif only.
    """
    grey = pictures.mean(1, keepdim=True)
    centre = grey[..., 1:-1, 1:-1]
    beside = grey[..., 1:-1, :-2] + grey[..., 1:-1, 2:] + grey[..., :-2, 1:-1] + grey[..., 2:, 1:-1]
    inside = mask[..., 1:-1, 1:-1].expand_as(centre) > 0
    return (beside - 4 * centre)[inside].var()


def weighted_psnr(output: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """PSNR [N] in dB with pixel weights [N, 1, H, W] >= 0, for a peak-to-peak range of 2."""
    error = (output.clamp(-1, 1) - target).square() * weights
    mse = error.sum((1, 2, 3)) / (3.0 * weights.sum((1, 2, 3)))
    return 10.0 * torch.log10(4.0 / mse.clamp_min(1e-10))
