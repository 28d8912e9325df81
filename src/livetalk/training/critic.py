"""Patch discriminator: a small network that scores patches of frames as real or decoded."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COLORS = 3
_SLOPE = 0.2


class UnitConv(nn.Module):
    """Convolution with filters normalized to unit length, which bounds the gradients of a critic."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int) -> None:
        """Build a convolution that roughly keeps the mean square of its input."""
        super().__init__()
        self._stride, self._padding = stride, (kernel - 1) // 2
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor, frozen: bool) -> Tensor:
        """Return `[N, out_channels, H', W']`; a frozen layer has gradients of its input only."""
        weight, bias = (self.weight.detach(), self.bias.detach()) if frozen else (self.weight, self.bias)

        length = weight.flatten(1).norm(dim=1) + 1e-6
        y = F.conv2d(x, weight / length.view(-1, 1, 1, 1), bias, self._stride, self._padding)
        return y.contiguous(memory_format=torch.channels_last)


class PatchCritic(nn.Module):
    """Scores overlapping patches of frames with three layers of stride 2 and two of stride 1."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        widths = [COLORS, width, 2 * width, 4 * width]
        layers = [UnitConv(a, b, 4, 2) for a, b in itertools.pairwise(widths)]
        self.layers = nn.ModuleList([*layers, UnitConv(widths[-1], widths[-1], 3, 1)])
        self.verdict = UnitConv(widths[-1], 1, 3, 1)

    def forward(self, frames: Tensor, *, frozen: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Score frames [N, 3, H, W], -1..1, with H and W multiples of 8.

        `frozen` computes gradients of the frames only. Returns verdicts [N, 1, H / 8, W / 8], above 0 for
        real, and the features of the layers.
        """
        x = frames.contiguous(memory_format=torch.channels_last)
        features = []
        for layer in self.layers:
            # The activation about halves the mean square; the factor restores it.
            x = math.sqrt(2) * F.leaky_relu(layer(x, frozen), _SLOPE)
            features.append(x)
        return self.verdict(x, frozen), features


def critic_loss(critic: PatchCritic, output: Tensor, target: Tensor) -> Tensor:
    """Hinge loss of the critic on decoded and real frames [N, 3, H, W]; the decoder gets no gradient."""
    real, _ = critic(target)
    made, _ = critic(output.detach())
    return F.relu(1 - real.float()).mean() + F.relu(1 + made.float()).mean()


def critic_opinion(critic: PatchCritic, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the decoder's adversarial and feature-matching losses; the critic gets no gradient.

    They are the negative mean verdict on `output` and the mean L1 distance of its features from `target`'s.
    """
    verdict, made = critic(output, frozen=True)
    with torch.no_grad():
        _, real = critic(target)
    distances = [(a.float() - b.float()).abs().mean() for a, b in zip(made, real, strict=True)]
    return -verdict.float().mean(), torch.stack(distances).mean()
