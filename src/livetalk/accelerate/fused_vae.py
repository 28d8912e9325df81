"""The VAE on fused kernels, put in place from outside: norms, residual blocks, the doubling of pictures.

A layer stays where it is, with its weights, hooks and state dict, and has its fast form beside its plain
`forward`. Numbers change by rounding only.

Shapes: B batch · C channels · T frames at the layer's rate · H W height, width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from livetalk.models.vae_blocks import (
    CausalConv,
    ChannelNorm,
    ResidualBlock,
    SpatialUp,
    fold_time,
    unfold_time,
)
from livetalk.models.vae_cache import CachePass
from livetalk.ops.kernels.interface import FusedKernels


class FusedChannelNorm(nn.Module):
    """The fast form of a norm of the VAE with its SiLU: one kernel."""

    def __init__(self, kernels: FusedKernels) -> None:
        """Compute on `kernels`."""
        super().__init__()
        self._kernels = kernels

    def forward(self, norm: ChannelNorm, x: Tensor) -> Tensor:
        """Return a tensor of the shape and dtype of `x`, `[B, C, T, H, W]` or `[B, C, H, W]`."""
        if x.ndim == 4:
            return self._kernels.channel_norm(x.unsqueeze(2), norm.weight, silu=norm.silu).squeeze(2)
        return self._kernels.channel_norm(x, norm.weight, silu=norm.silu)


class FusedResidualBlock(nn.Module):
    """The fast form of a residual block: norms write where a convolution reads, and biases cost no pass."""

    def __init__(self, block: ResidualBlock, kernels: FusedKernels, least_outputs: int = 0) -> None:
        """Widen the convolutions of `block` where that is faster; for `least_outputs` see `fuse_vae`."""
        super().__init__()
        self._kernels = kernels
        self.wide1: Tensor | None
        self.wide2: Tensor | None
        for name, conv in (("wide1", block.conv1), ("wide2", block.conv2)):
            self.register_buffer(name, widen(conv, least_outputs), persistent=False)

    def forward(self, block: ResidualBlock, x: Tensor, cache: CachePass | None = None) -> Tensor:
        """Return `[B, out_channels, T, H, W]`."""
        y = self._norm(block.norm1, x, None, block.conv1, cache)
        y = convolve_without_bias(block.conv1, y, self.wide1)
        y = self._norm(block.norm2, y, block.conv1.bias, block.conv2, cache)
        y = convolve_without_bias(block.conv2, y, self.wide2)
        bias = block.conv2.bias
        assert bias is not None
        return self._kernels.add_channels(y, bias, x if block.shortcut is None else block.shortcut(x))

    def _norm(
        self, norm: ChannelNorm, x: Tensor, bias: Tensor | None, conv: CausalConv, cache: CachePass | None
    ) -> Tensor:
        """Return the norm of `x + bias` behind the frames that `conv` sees before it."""
        num_past = conv.kernel_size[0] - conv.stride[0]
        if not num_past:
            return self._kernels.channel_norm(x, norm.weight, silu=norm.silu, bias=bias)
        batch, channels, num_frames, height, width = x.shape
        room = x.new_empty((batch, num_past + num_frames, height, width, channels))
        buffer = room.permute(0, 4, 1, 2, 3)
        history = None if cache is None else cache.history(conv.slot)
        if history is None:
            buffer[:, :, :num_past].zero_()
        else:
            buffer[:, :, :num_past].copy_(history)
        self._kernels.channel_norm(x, norm.weight, silu=norm.silu, bias=bias, out=buffer[:, :, num_past:])
        if cache is not None:
            cache.keep(conv.slot, buffer[:, :, -num_past:])
        return buffer


class FusedSpatialUp(nn.Module):
    """The fast form of doubling by repetition and a convolution: one convolution of the small picture.

    A pixel of the large picture sees 3x3 pixels of it, which are copies of 2x2 pixels of the small one: which
    2x2 depends on whether its row and its column are even or odd. Four kernels, one for each case, with the
    weights of equal pixels added up, take 4/9 of the work, and the repeated picture is never in memory.
    """

    phases: Tensor

    def __init__(self, layer: SpatialUp, kernels: FusedKernels) -> None:
        """Add up the weights of `layer`, once: this is for inference."""
        super().__init__()
        self._kernels = kernels
        self.register_buffer("phases", phase_weight(layer.weight.detach()), persistent=False)

    def forward(self, layer: SpatialUp, x: Tensor, cache: CachePass | None = None) -> Tensor:
        """Return `[B, C / 2, T, 2 H, 2 W]`; the cache is not used."""
        assert layer.bias is not None
        phases = F.conv2d(fold_time(x), self.phases, padding=1)
        return unfold_time(self._kernels.join_phases(phases, layer.bias), x.shape[0])


def phase_weight(weight: Tensor) -> Tensor:
    """Add up the weights of pixels that repetition makes equal.

    Args:
        weight: `[C', C, 1, 3, 3]`, of a convolution of pictures doubled by repetition.

    Returns:
        `[4 * C', C, 2, 2]` in channels_last memory: kernels of even and odd rows, and of even and odd
        columns, for the picture as it was. See `FusedKernels.join_phases`.
    """
    kernel = weight.squeeze(2).float()
    phases = [phase for row in _add_equal(kernel, 2) for phase in _add_equal(row, 3)]
    return torch.cat(phases).to(weight.dtype).contiguous(memory_format=torch.channels_last)


def _add_equal(kernel: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return two weights in place of three along `dim`, for even and for odd pixels."""
    first, middle, last = kernel.unbind(dim)
    return torch.stack((first, middle + last), dim), torch.stack((first + middle, last), dim)


def widen(conv: CausalConv, least_outputs: int) -> Tensor | None:
    """Return the weight of a convolution with zeros for more outputs, or None where that brings nothing.

    Args:
        conv: any.
        least_outputs: that a tile of the device makes in the time of any fewer; half a tile is one, too.
    """
    if not least_outputs // 2 < conv.out_channels < least_outputs:
        return None
    more = least_outputs - conv.out_channels
    wide = torch.cat((conv.weight.detach(), conv.weight.new_zeros(more, *conv.weight.shape[1:])))
    return wide.contiguous(memory_format=torch.channels_last_3d)


def convolve_without_bias(conv: CausalConv, x: Tensor, wide: Tensor | None = None) -> Tensor:
    """Convolve frames that already carry their past, and add no bias.

    Args:
        conv: the convolution.
        x: `[B, C, T, H, W]`.
        wide: from `widen`, to be used in place of its weight.

    Returns:
        `[B, C', T', H, W]`; with `wide`, the first channels of pixels that have more.
    """
    weight = conv.weight if wide is None else wide
    if conv.kernel_size[0] == 1:
        y = F.conv2d(fold_time(x), weight.squeeze(2), padding=conv.padding[1:])
        y = unfold_time(y, x.shape[0])
    else:
        y = F.conv3d(x, weight, None, conv.stride, conv.padding)
    return y.contiguous(memory_format=torch.channels_last_3d)[:, : conv.out_channels]


def fuse_vae(network: nn.Module, kernels: FusedKernels, least_outputs: int = 0) -> int:
    """Run the elementwise work inside a VAE on fused kernels.

    Args:
        network: changed in place, for inference; its parameters and state dict stay.
        kernels: from `livetalk.accelerate.selection`.
        least_outputs: convolutions that make fewer channels, but more than half of them, make so many: a
            device may be slower at fewer. 0 for none.

    Returns:
        The layers that have a fast form now.
    """
    fused = 0
    for child in network.children():
        form = _fast_form(child, kernels, least_outputs)
        if form is not None:
            child.fast_form = form
            fused += 1
        else:
            fused += fuse_vae(child, kernels, least_outputs)
    return fused


def _fast_form(layer: nn.Module, kernels: FusedKernels, least_outputs: int) -> nn.Module | None:
    if isinstance(layer, ResidualBlock):
        return FusedResidualBlock(layer, kernels, least_outputs)
    if isinstance(layer, SpatialUp):
        return FusedSpatialUp(layer, kernels)
    if isinstance(layer, ChannelNorm):
        return FusedChannelNorm(kernels)
    return None
