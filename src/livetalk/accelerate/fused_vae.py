"""The VAE on fused kernels: norms, residual blocks, upsampling.

A layer keeps its weights, hooks and state dict, and gains a fast form beside its plain `forward`. Results
change by rounding only.

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
    """The fast form of a norm and its SiLU: one kernel."""

    def __init__(self, kernels: FusedKernels) -> None:
        super().__init__()
        self._kernels = kernels

    def forward(self, norm: ChannelNorm, x: Tensor) -> Tensor:
        """Normalise `x`, `[B, C, T, H, W]` or `[B, C, H, W]`."""
        if x.ndim == 4:
            return self._kernels.channel_norm(x.unsqueeze(2), norm.weight, silu=norm.silu).squeeze(2)
        return self._kernels.channel_norm(x, norm.weight, silu=norm.silu)


class FusedResidualBlock(nn.Module):
    """The fast form of a residual block: norms add the preceding bias and write into the padded input."""

    def __init__(self, block: ResidualBlock, kernels: FusedKernels, min_channels: int = 0) -> None:
        """Prepare padded weights for convolutions that `min_channels` makes faster; see `fuse_vae`."""
        super().__init__()
        self._kernels = kernels
        self.padded1: Tensor | None
        self.padded2: Tensor | None
        for name, conv in (("padded1", block.conv1), ("padded2", block.conv2)):
            self.register_buffer(name, pad_outputs(conv, min_channels), persistent=False)

    def forward(self, block: ResidualBlock, x: Tensor, cache: CachePass | None = None) -> Tensor:
        y = self._norm(block.norm1, x, None, block.conv1, cache)
        y = convolve_without_bias(block.conv1, y, self.padded1)
        y = self._norm(block.norm2, y, block.conv1.bias, block.conv2, cache)
        y = convolve_without_bias(block.conv2, y, self.padded2)
        bias = block.conv2.bias
        assert bias is not None
        return self._kernels.add_channels(y, bias, x if block.shortcut is None else block.shortcut(x))

    def _norm(
        self, norm: ChannelNorm, x: Tensor, bias: Tensor | None, conv: CausalConv, cache: CachePass | None
    ) -> Tensor:
        """Return the norm of `x + bias`, preceded by the past frames in the receptive field of `conv`."""
        num_past = conv.kernel_size[0] - conv.stride[0]
        if not num_past:
            return self._kernels.channel_norm(x, norm.weight, silu=norm.silu, bias=bias)
        batch, channels, num_frames, height, width = x.shape
        # Past and new frames in one buffer: the convolution reads them without a concatenation.
        memory = x.new_empty((batch, num_past + num_frames, height, width, channels))
        padded = memory.permute(0, 4, 1, 2, 3)
        history = None if cache is None else cache.history(conv.slot)
        if history is None:
            padded[:, :, :num_past].zero_()
        else:
            padded[:, :, :num_past].copy_(history)
        self._kernels.channel_norm(x, norm.weight, silu=norm.silu, bias=bias, out=padded[:, :, num_past:])
        if cache is not None:
            cache.keep(conv.slot, padded[:, :, -num_past:])
        return padded


class FusedSpatialUp(nn.Module):
    """The fast form of nearest-neighbour upsampling and a 3x3 convolution: one convolution before upsampling.

    A 3x3 window of the upsampled frame covers 2x2 distinct pixels, in one of four arrangements (phases) that
    depend on whether the output row and column are even or odd. Four 2x2 kernels, whose weights are sums of
    the original ones, take 4/9 of the operations, and the upsampled frame is never stored.
    """

    phases: Tensor

    def __init__(self, layer: SpatialUp, kernels: FusedKernels) -> None:
        super().__init__()
        self._kernels = kernels
        self.register_buffer("phases", phase_weight(layer.weight.detach()), persistent=False)

    def forward(self, layer: SpatialUp, x: Tensor, cache: CachePass | None = None) -> Tensor:
        """Return `[B, C / 2, T, 2 H, 2 W]`; the cache is unused, because the layer is within a frame."""
        assert layer.bias is not None
        phases = F.conv2d(fold_time(x), self.phases, padding=1)
        return unfold_time(self._kernels.join_phases(phases, layer.bias), x.shape[0])


def phase_weight(weight: Tensor) -> Tensor:
    """Sum the weights `[C', C, 1, 3, 3]` that upsampling applies to the same input pixel.

    Returns `[4 * C', C, 2, 2]` in channels_last memory: kernels for even and odd rows, and for even and odd
    columns of each. See `FusedKernels.join_phases`.
    """
    # Summed in float32 and rounded once.
    kernel = weight.squeeze(2).float()
    phases = [phase for row in _add_equal(kernel, 2) for phase in _add_equal(row, 3)]
    return torch.cat(phases).to(weight.dtype).contiguous(memory_format=torch.channels_last)


def _add_equal(kernel: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Reduce three weights along `dim` to two, for even and for odd output pixels."""
    first, middle, last = kernel.unbind(dim)
    return torch.stack((first, middle + last), dim), torch.stack((first + middle, last), dim)


def pad_outputs(conv: CausalConv, min_channels: int) -> Tensor | None:
    """Return a convolution's weight zero-padded to `min_channels` outputs, or None if that is slower."""
    # Half a tile computes up to half as many outputs, for which padding to a full one would cost time.
    if not min_channels // 2 < conv.out_channels < min_channels:
        return None
    extra = min_channels - conv.out_channels
    padded = torch.cat((conv.weight.detach(), conv.weight.new_zeros(extra, *conv.weight.shape[1:])))
    return padded.contiguous(memory_format=torch.channels_last_3d)


def convolve_without_bias(conv: CausalConv, x: Tensor, padded: Tensor | None = None) -> Tensor:
    """Convolve frames `[B, C, T, H, W]` that include their past, and add no bias.

    With a weight from `pad_outputs` the result is a view of the first channels of a wider tensor.
    """
    weight = conv.weight if padded is None else padded
    if conv.kernel_size[0] == 1:
        y = F.conv2d(fold_time(x), weight.squeeze(2), padding=conv.padding[1:])
        y = unfold_time(y, x.shape[0])
    else:
        y = F.conv3d(x, weight, None, conv.stride, conv.padding)
    return y.contiguous(memory_format=torch.channels_last_3d)[:, : conv.out_channels]


def fuse_vae(network: nn.Module, kernels: FusedKernels, min_channels: int = 0) -> int:
    """Give the layers of a VAE fast forms for inference; returns the number of layers.

    On devices whose tiles have `min_channels` outputs, convolutions with fewer, but more than half as many,
    are padded to them; 0 pads none.
    """
    fused = 0
    for child in network.children():
        form = _fast_form(child, kernels, min_channels)
        if form is not None:
            child.fast_form = form
            fused += 1
        else:
            fused += fuse_vae(child, kernels, min_channels)
    return fused


def _fast_form(layer: nn.Module, kernels: FusedKernels, min_channels: int) -> nn.Module | None:
    if isinstance(layer, ResidualBlock):
        return FusedResidualBlock(layer, kernels, min_channels)
    if isinstance(layer, SpatialUp):
        return FusedSpatialUp(layer, kernels)
    if isinstance(layer, ChannelNorm):
        return FusedChannelNorm(kernels)
    return None
