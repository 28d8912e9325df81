"""Layers of the causal video VAE.

Shapes: B batch · C channels · T frames at the layer's rate · H W height, width. All 5-D activations are
`[B, C, T, H, W]` in channels_last_3d memory, where folding time into the batch is a view.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from livetalk.models.vae_cache import CachePass
from livetalk.ops.attention import attention
from livetalk.ops.norm import channel_rms_norm

FrameChoice = slice | Tensor | None  # frames to keep of a video: a slice, indices `[K]`, or None for all


def fold_time(x_BCTHW: Tensor) -> Tensor:
    """View `[B, C, T, H, W]` as `[B * T, C, H, W]`."""
    return x_BCTHW.transpose(1, 2).flatten(0, 1)


def unfold_time(x: Tensor, batch: int) -> Tensor:
    """View `[B * T, C, H, W]` as `[B, C, T, H, W]`."""
    return x.view(batch, -1, *x.shape[1:]).transpose(1, 2)


class CausalConv(nn.Conv3d):
    """Convolution over `kernel[0] - 1` past frames, the current one and a pixel's neighbourhood."""

    slot: int = -1

    def __init__(
        self, in_channels: int, out_channels: int, kernel: tuple[int, int, int], time_stride: int = 1
    ) -> None:
        padding = (0, kernel[1] // 2, kernel[2] // 2)
        super().__init__(in_channels, out_channels, kernel, stride=(time_stride, 1, 1), padding=padding)

    def forward(self, x: Tensor, cache: CachePass | None = None) -> Tensor:
        """Convolve `[B, C, T, H, W]`, continuing the cached frames or, without any, zeros."""
        if self.kernel_size[0] == 1:
            return self._convolve_frames(x)
        return self.convolve(self.extend(x, cache))

    def extend(self, x: Tensor, cache: CachePass | None) -> Tensor:
        """Prepend the cached frames (zeros if none) to `x`, and cache its last ones."""
        num_past = self.kernel_size[0] - self.stride[0]
        history = None if cache is None else cache.history(self.slot)
        if history is None:
            x = F.pad(x, (0, 0, 0, 0, num_past, 0))
        else:
            x = torch.cat((history.to(x.dtype), x), dim=2)
        if cache is not None:
            cache.keep(self.slot, x[:, :, -num_past:])
        return x

    def convolve(self, x: Tensor) -> Tensor:
        y = F.conv3d(x, self.weight, self.bias, self.stride, self.padding)
        # For small inputs the CPU chooses a kernel that returns another layout; otherwise this is a no-op.
        return y.contiguous(memory_format=torch.channels_last_3d)

    def _convolve_frames(self, x: Tensor) -> Tensor:
        y = F.conv2d(fold_time(x), self.weight.squeeze(2), self.bias, padding=self.padding[1:])
        return unfold_time(y, x.shape[0])


class PointConv(nn.Conv3d):
    """1x1x1 convolution as a matrix product."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x.permute(0, 2, 3, 4, 1), self.weight.flatten(1), self.bias)
        return y.permute(0, 4, 1, 2, 3)


class TemporalConv(CausalConv):
    """Causal convolution over three frames at each position, as one matrix product."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, (3, 1, 1), time_stride=stride)

    def convolve(self, x: Tensor) -> Tensor:
        frames, num_frames = x.permute(0, 2, 3, 4, 1), x.shape[2]
        taps = [frames[:, tap : num_frames - 2 + tap : self.stride[0]] for tap in range(3)]
        weight = self.weight.flatten(2).transpose(1, 2).flatten(1)
        return F.linear(torch.cat(taps, dim=-1), weight, self.bias).permute(0, 4, 1, 2, 3)


class ChannelNorm(nn.Module):
    """Divide each pixel by the RMS of its channels, scale, and optionally apply SiLU.

    Attributes:
        fast_form: computes `forward` with the layer as its first argument; None for the plain form. Other
            layers with this attribute use it in the same way.
    """

    def __init__(self, channels: int, *, silu: bool) -> None:
        super().__init__()
        self.silu = silu
        self.weight = nn.Parameter(torch.ones(channels))
        self.fast_form: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.fast_form is not None:
            fast: Tensor = self.fast_form(self, x)
            return fast
        y = channel_rms_norm(x, self.weight)
        # The in-place form would destroy the value that the backward pass needs.
        return F.silu(y, inplace=not torch.is_grad_enabled()) if self.silu else y


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice, around a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, temporal_kernel: int) -> None:
        super().__init__()
        kernel = (temporal_kernel, 3, 3)
        self.norm1 = ChannelNorm(in_channels, silu=True)
        self.conv1 = CausalConv(in_channels, out_channels, kernel)
        self.norm2 = ChannelNorm(out_channels, silu=True)
        self.conv2 = CausalConv(out_channels, out_channels, kernel)
        self.shortcut = PointConv(in_channels, out_channels) if in_channels != out_channels else None
        self.fast_form: nn.Module | None = None

    def forward(self, x: Tensor, cache: CachePass | None = None) -> Tensor:
        if self.fast_form is not None:
            fast: Tensor = self.fast_form(self, x, cache)
            return fast
        y = self.conv1(self.norm1(x), cache)
        y = self.conv2(self.norm2(y), cache)
        skip = x if self.shortcut is None else self.shortcut(x)
        total: Tensor = y + skip
        return total


class FrameAttention(nn.Module):
    """Single-head attention between all pixels of a frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, silu=False)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, cache: CachePass | None = None) -> Tensor:
        # The cache is unused, because attention is within a frame.
        pixels = fold_time(self.norm(x)).permute(0, 2, 3, 1)
        q, k, v = self.qkv(pixels.flatten(1, 2)).unsqueeze(2).chunk(3, dim=-1)
        y = self.out(attention(q, k, v).flatten(2)).view(pixels.shape)
        return x + unfold_time(y.permute(0, 3, 1, 2), x.shape[0])


def build_middle(channels: int, temporal_kernel: int) -> nn.ModuleList:
    """Build the coarsest layers of encoder or decoder."""
    return nn.ModuleList(
        (
            ResidualBlock(channels, channels, temporal_kernel),
            FrameAttention(channels),
            ResidualBlock(channels, channels, temporal_kernel),
        )
    )


class SpatialDown(nn.Conv3d):
    """Halve height and width by a strided convolution with padding at the right and bottom."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, (1, 3, 3), stride=(1, 2, 2))

    def forward(self, x: Tensor, cache: CachePass | None = None) -> Tensor:
        y = F.conv2d(F.pad(fold_time(x), (0, 1, 0, 1)), self.weight.squeeze(2), self.bias, stride=2)
        return unfold_time(y, x.shape[0])


class SpatialUp(nn.Conv3d):
    """Double height and width by nearest-neighbour upsampling, then convolve to half the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels // 2, (1, 3, 3), padding=(0, 1, 1))
        self.fast_form: nn.Module | None = None

    def forward(self, x: Tensor, cache: CachePass | None = None) -> Tensor:
        if self.fast_form is not None:
            fast: Tensor = self.fast_form(self, x, cache)
            return fast
        y = F.interpolate(fold_time(x), scale_factor=2.0, mode="nearest-exact")
        return unfold_time(F.conv2d(y, self.weight.squeeze(2), self.bias, padding=1), x.shape[0])


class TemporalDown(TemporalConv):
    """Halve the frame rate; the first frame of a video passes unchanged and alone."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, stride=2)

    def forward(self, x: Tensor, cache: CachePass | None = None) -> Tensor:
        """Map 1 + 2 n frames at the start of a video to 1 + n, and later 2 n frames to n."""
        if cache is not None and cache.started:
            return self.convolve(self.extend(x, cache))
        if cache is not None:
            cache.keep(self.slot, x[:, :, -1:])
        if x.shape[2] == 1:
            return x
        return torch.cat((x[:, :, :1], self.convolve(x)), dim=2)


class TemporalUp(TemporalConv):
    """Double the frame rate; the first frame of a video is unchanged and not used by later ones."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 2 * channels)

    def forward(self, x: Tensor, cache: CachePass | None = None) -> Tensor:
        """Map 1 + n frames at the start of a video to 1 + 2 n, and later n frames to 2 n."""
        if cache is not None and cache.started:
            return self._double(x, cache)
        if x.shape[2] == 1:
            return x
        return torch.cat((x[:, :, :1], self._double(x[:, :, 1:], cache)), dim=2)

    def _double(self, x: Tensor, cache: CachePass | None) -> Tensor:
        y = self.convolve(self.extend(x, cache)).permute(0, 2, 3, 4, 1)
        pairs = y.reshape(*y.shape[:-1], 2, -1).permute(0, 1, 4, 2, 3, 5)
        doubled = pairs.flatten(1, 2).permute(0, 4, 1, 2, 3)
        return doubled.contiguous(memory_format=torch.channels_last_3d)


def temporal_convolutions(network: nn.Module) -> list[CausalConv]:
    return [m for m in network.modules() if isinstance(m, CausalConv) and m.kernel_size[0] > 1]


def is_temporal(layer: nn.Module) -> bool:
    """Return whether output frames of a layer depend on earlier frames."""
    return bool(temporal_convolutions(layer))


def assign_slots(network: nn.Module) -> int:
    """Number the temporal convolutions of a network, and return their count."""
    convolutions = temporal_convolutions(network)
    for slot, convolution in enumerate(convolutions):
        convolution.slot = slot
    return len(convolutions)


def pixels_to_channels(video: Tensor, patch_size: int) -> Tensor:
    """Move squares of pixels into channels: `[B, 3, F, H, W] -> [B, 3 * p * p, F, H / p, W / p]`."""
    if patch_size == 1:
        return video
    x = F.pixel_unshuffle(fold_time(video), patch_size)
    return unfold_time(x.contiguous(memory_format=torch.channels_last), video.shape[0])


def channels_to_pixels(x: Tensor, patch_size: int) -> Tensor:
    """Invert `pixels_to_channels`."""
    if patch_size == 1:
        return x
    return unfold_time(F.pixel_shuffle(fold_time(x), patch_size), x.shape[0])
