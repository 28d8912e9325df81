"""A decoder that warps a reference picture and paints only what the picture lacks.

The portrait is known in advance, so hair, clothes, skin and background need not be decoded from latents. The
coarse layers are those of the published decoder. They predict a flow that warps the picture and its features;
finer layers paint a picture and a mask that blends both.

Shapes: B batch · C channels · T latent frames · F frames · h w and H W height and width of latents and
frames · s side of a flow cell in pixels.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from livetalk.models.vae_blocks import (
    CausalConv,
    ChannelNorm,
    FrameChoice,
    PointConv,
    ResidualBlock,
    SpatialUp,
    TemporalUp,
    build_middle,
    fold_time,
    unfold_time,
)
from livetalk.models.vae_cache import CachePass

COLORS = 3
FLOW_AXES = 2

# Initial mask of 0.27; with a mask near 1 the painting layers would receive no gradient.
MASK_BIAS = -1.0

_FRAME_KERNEL = (1, 3, 3)
_FINE_PATCH = 2  # side in pixels of one position of the finest layers


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceDecoderConfig:
    """Widths of the layers that are not in the published decoder."""

    feature_channels: int = 32  # channels of the reference's features that are warped
    width: int = 48  # channels of the layers at the flow's resolution
    fine_width: int = 16  # channels of the layers at half of the frames' resolution
    reference_width: int = 64  # channels of the layers that encode the reference picture, once per stream


@dataclass(frozen=True, slots=True)
class TrunkLevel:
    """A coarse level of the decoder."""

    dim: int
    kernel: int  # temporal kernel size of its convolutions
    doubles_rate: bool  # whether it ends with twice the frame rate


@dataclass(frozen=True, slots=True)
class DecoderReference:
    """The encoded reference picture."""

    picture: Tensor  # `[B, 3, H, W]`, float32, -1..1, in the size of decoded frames
    features: Tensor  # `[B, feature_channels, H / s, W / s]`, float32, warped like the picture
    first: Tensor  # `[B, C, 1, h, w]`, added to the input of the coarsest layers
    last: Tensor  # `[B, C, 1, H / 2s, W / 2s]`, added to their output


@dataclass(frozen=True, slots=True)
class WarpedFrames:
    """Decoded frames and their parts, float32.

    Attributes:
        flow: `[B, 2, F, H / s, W / s]`, displacement to the right and down into the reference, in half widths
            and half heights of the picture.
    """

    video: Tensor  # `[B, 3, F, H, W]`, not clamped
    flow: Tensor
    mask: Tensor  # `[B, 1, F, H, W]`, weight of the warped picture, 0..1
    painted: Tensor  # `[B, 3, F, H, W]`
    warped: Tensor  # `[B, 3, F, H, W]`


class ReferenceDecoder(nn.Module):
    """Decodes latents to frames with a reference."""

    def __init__(
        self,
        config: ReferenceDecoderConfig,
        latent_channels: int,
        trunk: tuple[TrunkLevel, ...],
        num_blocks: int,
        cell: int,
    ) -> None:
        """Build a decoder with zero flow and a constant mask.

        `trunk` starts with the coarsest level, `num_blocks` counts the residual blocks per level, and `cell`
        is the side of a flow cell in pixels of the small picture; even.
        """
        super().__init__()
        self._fine_factor = cell // _FINE_PATCH
        channels = trunk[0].dim
        self.conv_in = CausalConv(latent_channels, channels, (trunk[0].kernel, 3, 3))
        self.middle = build_middle(channels, trunk[0].kernel)
        self.levels = nn.ModuleList()
        for index, level in enumerate(trunk):
            layers: list[nn.Module] = []
            for _ in range(num_blocks):
                layers.append(ResidualBlock(channels, level.dim, level.kernel))
                channels = level.dim
            if level.doubles_rate:
                layers.append(TemporalUp(channels))
            if index < len(trunk) - 1:
                layers.append(SpatialUp(channels))
                channels //= 2
            self.levels.append(nn.ModuleList(layers))
        self.reference = ReferenceEncoder(config, cell, (latent_channels, trunk[0].dim), channels)
        self.norm_trunk = ChannelNorm(channels, silu=True)
        self.flow = CausalConv(channels, 4 * FLOW_AXES, _FRAME_KERNEL)
        self.fuse = PointConv(channels // 4 + config.feature_channels, config.width)
        self.fused = ResidualBlock(config.width, config.width, 1)
        self.fine_in = PointConv(config.width, self._fine_factor**2 * config.fine_width)
        self.fine = ResidualBlock(config.fine_width, config.fine_width, 1)
        self.norm_out = ChannelNorm(config.fine_width, silu=True)
        self.conv_out = CausalConv(config.fine_width, (COLORS + 1) * _FINE_PATCH**2, _FRAME_KERNEL)
        self._init_identity()

    def encode_reference(self, picture: Tensor, small: Tensor, latents: Tensor) -> DecoderReference:
        """Encode a reference `picture`, `[B, 3, H, W]` float32, -1..1, in the size of decoded frames.

        `small` is the picture in the size that the latents represent, `latents` its latents as input of the
        first layer, `[B, C, 1, h, w]`.
        """
        features, first, last = self.reference(small, latents)
        return DecoderReference(picture, features, first, last)

    def forward(
        self,
        latents: Tensor,
        reference: DecoderReference,
        cache: CachePass | None = None,
        keep: FrameChoice = None,
    ) -> WarpedFrames:
        """Decode `[B, C, T, h, w]`, or only the frames `keep`."""
        x = self.conv_in(latents, cache) + reference.first
        for layer in self._trunk():
            x = layer(x, cache)
        if keep is not None:
            x = x[:, :, keep].contiguous(memory_format=torch.channels_last_3d)
        x = self.norm_trunk(x + reference.last)
        flow = shuffle(self.flow(x), 2).float()
        features = warp(reference.features, flow)
        x = torch.cat((shuffle(x, 2), features.to(x.dtype)), dim=1)
        x = self.fused(self.fuse(x.contiguous(memory_format=torch.channels_last_3d)))
        return self._blend(x, flow, reference.picture)

    def _blend(self, x: Tensor, flow: Tensor, picture: Tensor) -> WarpedFrames:
        x = self.fine(shuffle(self.fine_in(x), self._fine_factor))
        planes = shuffle(self.conv_out(self.norm_out(x)), _FINE_PATCH).float()
        planes = resize(planes, picture.shape[2], picture.shape[3])
        painted, mask = planes[:, :COLORS], torch.sigmoid(planes[:, COLORS:])
        warped = warp(picture, flow)
        return WarpedFrames(torch.lerp(painted, warped, mask), flow, mask, painted, warped)

    def _trunk(self) -> list[nn.Module]:
        return [layer for group in (self.middle, *self.levels) for layer in group]

    def _init_identity(self) -> None:
        # An untrained decoder shows the reference unmoved.
        for parameter in self.flow.parameters():
            nn.init.zeros_(parameter)
        bias = self.conv_out.bias
        assert bias is not None
        nn.init.constant_(bias[-(_FINE_PATCH**2) :], MASK_BIAS)


class ReferenceEncoder(nn.Module):
    """Encodes the reference picture and its latents, once per stream."""

    def __init__(self, config: ReferenceDecoderConfig, cell: int, first: tuple[int, int], last: int) -> None:
        """Build layers; `first` are the channels of latents and trunk input, `last` those of its output."""
        super().__init__()
        self._cell = cell
        width = config.reference_width
        self.conv_in = CausalConv(COLORS * cell**2, width, _FRAME_KERNEL)
        self.blocks = nn.ModuleList(ResidualBlock(width, width, 1) for _ in range(2))
        self.features = CausalConv(width, config.feature_channels, _FRAME_KERNEL)
        self.first = CausalConv(*first, _FRAME_KERNEL)
        self.last_in = CausalConv(4 * width, last, _FRAME_KERNEL)
        self.last = ResidualBlock(last, last, 1)
        self.last_out = CausalConv(last, last, _FRAME_KERNEL)
        # Until they are trained, the layers add nothing to the trunk.
        for layer in (self.first, self.last_out):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, picture: Tensor, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return `features`, `first` and `last` of a `DecoderReference`."""
        x = F.pixel_unshuffle(picture, self._cell)[:, :, None].to(self.conv_in.weight.dtype)
        x = self.conv_in(x.contiguous(memory_format=torch.channels_last_3d))
        for block in self.blocks:
            x = block(x)
        features = self.features(x)[:, :, 0].float()
        y = F.pixel_unshuffle(x[:, :, 0], 2)[:, :, None]
        y = self.last_in(y.contiguous(memory_format=torch.channels_last_3d))
        return features, self.first(latents), self.last_out(self.last(y))


def shuffle(x: Tensor, factor: int) -> Tensor:
    """Move channels into squares of positions: `[B, C, F, H, W] -> [B, C / f^2, F, f H, f W]`."""
    if factor == 1:
        return x
    y = F.pixel_shuffle(fold_time(x), factor).contiguous(memory_format=torch.channels_last)
    return unfold_time(y, x.shape[0])


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """Interpolate the pictures of `[B, C, F, h, w]` linearly to `[B, C, F, height, width]`."""
    if x.shape[3:] == (height, width):
        return x
    y = F.interpolate(fold_time(x), size=(height, width), mode="bilinear", align_corners=False)
    return unfold_time(y, x.shape[0])


def warp(picture: Tensor, flow: Tensor) -> Tensor:
    """Sample `picture`, `[B, C, H, W]`, at the positions of a flow, to `[B, C, F, H, W]`; all float32.

    `flow`, `[B, 2, F, h, w]`, points to the right and down, in half widths and half heights. It is
    interpolated to the size of the picture; positions outside are clamped to the border.
    """
    batch, channels, height, width = picture.shape
    num_frames = flow.shape[2]
    down, across = (
        (torch.arange(size, device=flow.device, dtype=torch.float32) * 2 + 1) / size - 1
        for size in (height, width)
    )
    grid = torch.stack((across.expand(height, width), down[:, None].expand(height, width)), dim=-1)
    points = grid + resize(flow, height, width).permute(0, 2, 3, 4, 1)
    # Frames are stacked vertically, so that the picture is not repeated for each of them.
    column = points.reshape(batch, num_frames * height, width, 2)
    pixels = F.grid_sample(picture, column, mode="bilinear", padding_mode="border", align_corners=False)
    return pixels.view(batch, channels, num_frames, height, width)
