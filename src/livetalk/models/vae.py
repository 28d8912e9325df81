"""Causal video VAE: the first frame becomes one latent frame, each later group of frames another.

Shapes: B batch · C latent channels · F frames · T latent frames · H W and h w height and width of frames and
latents.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from livetalk.models.reference_decoder import (
    DecoderReference,
    ReferenceDecoder,
    ReferenceDecoderConfig,
    TrunkLevel,
    WarpedFrames,
)
from livetalk.models.vae_blocks import (
    CausalConv,
    ChannelNorm,
    FrameChoice,
    PointConv,
    ResidualBlock,
    SpatialDown,
    SpatialUp,
    TemporalDown,
    TemporalUp,
    assign_slots,
    build_middle,
    channels_to_pixels,
    is_temporal,
    pixels_to_channels,
)
from livetalk.models.vae_cache import CachePass, VAECache
from livetalk.ops.transfer import to_device

COLORS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class VAEConfig:
    """Sizes of the VAE. Levels are counted from the finest (the pixels) to the coarsest (the latents).

    Attributes:
        temporal_downsample: whether the step from each level to the next halves the frame rate.
        temporal_kernels: frames seen by the convolutions of each level, 1 or 3; empty means 3 everywhere.
        reference: sizes of a decoder that warps a reference picture; None is the published decoder, which
            paints every frame out of the latents alone.
    """

    base_dim: int  # channels for a multiplier of 1
    latent_channels: int
    dim_multipliers: tuple[int, ...]  # channels of each level, in multiples of `base_dim`
    num_res_blocks: int  # residual blocks per level of the encoder; the decoder has one more
    temporal_downsample: tuple[bool, ...]
    temporal_kernels: tuple[int, ...] = ()
    patch_size: int = 1  # side of the pixel square per position of the finest level
    latents_mean: tuple[float, ...] = ()  # mean of each raw latent channel; empty means 0
    latents_std: tuple[float, ...] = ()  # standard deviation of each raw latent channel; empty means 1
    reference: ReferenceDecoderConfig | None = None

    def __post_init__(self) -> None:
        levels = len(self.dim_multipliers)
        if len(self.temporal_downsample) != levels - 1:
            raise ValueError(
                f"temporal_downsample needs {levels - 1} entries, got {len(self.temporal_downsample)}"
            )
        if self.temporal_kernels and len(self.temporal_kernels) != levels:
            raise ValueError(f"temporal_kernels needs {levels} entries, got {len(self.temporal_kernels)}")
        for name, values in (("latents_mean", self.latents_mean), ("latents_std", self.latents_std)):
            if values and len(values) != self.latent_channels:
                raise ValueError(f"{name} needs {self.latent_channels} entries, got {len(values)}")
        if self.reference is not None and not any(self.temporal_downsample):
            raise ValueError("reference needs latents of a lower frame rate than the video's")
        if self.reference is not None and self.flow_cell % 2:
            raise ValueError(f"reference needs flow cells of an even number of pixels, got {self.flow_cell}")

    @property
    def trunk_levels(self) -> tuple[TrunkLevel, ...]:
        """Levels that a decoder with a reference shares with the published one, the coarsest first."""
        # The last one reaches the frame rate of the video.
        upsample = self.temporal_downsample[::-1]
        count = max((level + 1 for level, doubled in enumerate(upsample) if doubled), default=0)
        dims, kernels = self.level_dims[::-1], self.level_kernels[::-1]
        return tuple(TrunkLevel(dims[level], kernels[level], upsample[level]) for level in range(count))

    @property
    def flow_cell(self) -> int:
        """Side in pixels of one flow cell of a decoder with a reference."""
        return self.spatial_stride // int(2 ** len(self.trunk_levels))

    @property
    def level_dims(self) -> tuple[int, ...]:
        return tuple(self.base_dim * multiplier for multiplier in self.dim_multipliers)

    @property
    def level_kernels(self) -> tuple[int, ...]:
        return self.temporal_kernels or (3,) * len(self.dim_multipliers)

    @property
    def temporal_stride(self) -> int:
        """Frames per latent frame, except the first."""
        return int(2 ** sum(self.temporal_downsample))

    @property
    def spatial_stride(self) -> int:
        """Side of the pixel square per latent position."""
        return int(self.patch_size * 2 ** len(self.temporal_downsample))


class CausalVideoVAE(nn.Module):
    """Encode video to normalised latents and decode it, in one call or several.

    Each call continues the cache of the one before. The first encodes 1 + stride * n frames, later ones
    stride * n, in any split; the results equal those of one call.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        moments = 2 * config.latent_channels
        self.encoder = Encoder(config)
        self.moments_conv = PointConv(moments, moments)
        self.latents_conv = PointConv(config.latent_channels, config.latent_channels)
        self.decoder: Decoder | ReferenceDecoder
        if config.reference is None:
            self.decoder = Decoder(config)
        else:
            sizes = config.latent_channels, config.trunk_levels, config.num_res_blocks + 1, config.flow_cell
            self.decoder = ReferenceDecoder(config.reference, *sizes)
        self._num_encoder_slots = assign_slots(self.encoder)
        self._num_decoder_slots = assign_slots(self.decoder)
        self.use_channels_last()

    def encode(self, video: Tensor, cache: VAECache | None = None) -> tuple[Tensor, VAECache]:
        """Encode a video `[B, 3, F, H, W]`, -1..1, or its next frames with the cache of the call before.

        Returns the normalised mean `[B, C, T, h, w]` (no sampling) and the next cache. `ValueError` if the
        number of frames or their size does not fit the strides.
        """
        step = CachePass(cache or VAECache.create(self._num_encoder_slots))
        mean, _ = self._encode_moments(video, step)
        return self.normalize(mean), step.finish()

    def encode_moments(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a whole video to mean and log variance, `[B, C, T, h, w]`, not normalised."""
        return self._encode_moments(video, None)

    def decode(
        self,
        latents: Tensor,
        cache: VAECache | None = None,
        skip_frames: int = 0,
        reference: DecoderReference | None = None,
    ) -> tuple[Tensor, VAECache]:
        """Decode normalised latents `[B, C, T, h, w]`, or the next ones with the cache of the call before.

        Returns the video `[B, 3, F - skip_frames, H, W]`, clamped to -1..1, and the next cache. Skipped
        frames enter the cache, but layers without temporal context do not compute them. `reference`, from
        `encode_reference`, is required exactly if the decoder warps one; frames then have its size, in
        float32.
        """
        step = CachePass(cache or VAECache.create(self._num_decoder_slots))
        keep = slice(skip_frames, None) if skip_frames else None
        return self._decode(latents, step, keep, reference).clamp(-1, 1), step.finish()

    def decode_raw(self, latents: Tensor, frames: Tensor | None = None) -> Tensor:
        """Decode a whole video for training, without clamping and cache; `frames`, `[K]`, selects some."""
        return self._decode(latents, None, frames, None)

    def encode_reference(self, picture: Tensor, scale: int = 1) -> DecoderReference:
        """Encode a portrait `[B, 3, scale * H, scale * W]`, -1..1, for latents of H x W frames.

        Decoded frames have the size of `picture`: warped areas with its detail, painted areas with that of
        H x W. `ValueError` if the decoder warps no reference, or for a size that does not fit the stride.
        """
        decoder = self._reference_decoder()
        side = scale * self.config.spatial_stride
        if picture.shape[2] % side or picture.shape[3] % side:
            raise ValueError(f"reference size {list(picture.shape[2:])} is not a multiple of {side}")
        small = F.avg_pool2d(picture.float(), scale) if scale > 1 else picture.float()
        mean, _ = self._encode_moments(small[:, :, None], None)
        return decoder.encode_reference(picture.float(), small, self._prepare_latents(self.normalize(mean)))

    def decode_parts(
        self, latents: Tensor, reference: DecoderReference, frames: Tensor | None = None
    ) -> WarpedFrames:
        """Decode a whole video, or its frames `[K]`, to blended, warped and painted parts."""
        parts: WarpedFrames = self._reference_decoder()(
            self._prepare_latents(latents), reference, None, frames
        )
        return parts

    def normalize(self, latents: Tensor) -> Tensor:
        """Normalise raw latents `[B, C, T, h, w]` to mean 0 and deviation 1 per channel."""
        mean, std = self._statistics(latents)
        return (latents - mean) / std

    def denormalize(self, latents: Tensor) -> Tensor:
        """Invert `normalize`."""
        mean, std = self._statistics(latents)
        return latents * std + mean

    def use_channels_last(self) -> None:
        """Store the weights channels last, the fastest layout for all convolutions here."""
        for parameter in self.parameters():
            if parameter.ndim == 5:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)

    def _encode_moments(self, video: Tensor, step: CachePass | None) -> tuple[Tensor, Tensor]:
        stride, side = self.config.temporal_stride, self.config.spatial_stride
        first = 0 if step is not None and step.started else 1
        if video.shape[2] < 1 or (video.shape[2] - first) % stride:
            raise ValueError(f"expected {first} + {stride} * n frames, got {video.shape[2]}")
        if video.shape[3] % side or video.shape[4] % side:
            raise ValueError(f"frame size {list(video.shape[3:])} is not a multiple of {side}")
        x = video.to(self.moments_conv.weight.dtype).contiguous(memory_format=torch.channels_last_3d)
        mean, log_variance = self.moments_conv(self.encoder(x, step)).chunk(2, dim=1)
        return mean, log_variance

    def _decode(
        self,
        latents: Tensor,
        step: CachePass | None,
        keep: FrameChoice,
        reference: DecoderReference | None,
    ) -> Tensor:
        if (reference is None) != (self.config.reference is None):
            raise ValueError("a reference is needed by a decoder that warps one, and by no other")
        x = self._prepare_latents(latents)
        if reference is not None:
            parts: WarpedFrames = self.decoder(x, reference, step, keep)
            return parts.video
        video: Tensor = self.decoder(x, step, keep)
        return video

    def _prepare_latents(self, latents: Tensor) -> Tensor:
        x = self.denormalize(latents).to(self.latents_conv.weight.dtype)
        prepared: Tensor = self.latents_conv(x.contiguous(memory_format=torch.channels_last_3d))
        return prepared

    def _reference_decoder(self) -> ReferenceDecoder:
        if not isinstance(self.decoder, ReferenceDecoder):
            raise ValueError("this VAE has no decoder that warps a reference")
        return self.decoder

    def _statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        channels = self.config.latent_channels
        mean = self.config.latents_mean or (0.0,) * channels
        std = self.config.latents_std or (1.0,) * channels
        statistics = to_device(torch.tensor((mean, std), dtype=torch.float32, device="cpu"), latents.device)
        return statistics[0].view(-1, 1, 1, 1), statistics[1].view(-1, 1, 1, 1)


class Encoder(nn.Module):
    """Frames `[B, 3, F, H, W]` -> moments of the latents `[B, 2 C, T, h, w]`."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        dims, kernels = config.level_dims, config.level_kernels
        channels = config.base_dim if config.patch_size == 1 else dims[0]
        self.conv_in = CausalConv(COLORS * config.patch_size**2, channels, (kernels[0], 3, 3))
        self.levels = nn.ModuleList()
        for level, dim in enumerate(dims):
            layers: list[nn.Module] = []
            for _ in range(config.num_res_blocks):
                layers.append(ResidualBlock(channels, dim, kernels[level]))
                channels = dim
            if level < len(dims) - 1:
                layers.append(SpatialDown(dim))
                if config.temporal_downsample[level]:
                    layers.append(TemporalDown(dim))
            self.levels.append(nn.ModuleList(layers))
        self.middle = build_middle(channels, kernels[-1])
        self.norm_out = ChannelNorm(channels, silu=True)
        self.conv_out = CausalConv(channels, 2 * config.latent_channels, (kernels[-1], 3, 3))

    def forward(self, video: Tensor, cache: CachePass | None = None) -> Tensor:
        x = self.conv_in(pixels_to_channels(video, self.patch_size), cache)
        for layers in [*self.levels, self.middle]:
            for layer in layers:
                x = layer(x, cache)
        y: Tensor = self.conv_out(self.norm_out(x), cache)
        return y


class Decoder(nn.Module):
    """Latents `[B, C, T, h, w]` -> frames `[B, 3, F, H, W]`, or only those of `keep`."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        dims, kernels = config.level_dims[::-1], config.level_kernels[::-1]
        upsample = config.temporal_downsample[::-1]
        channels = dims[0]
        self.conv_in = CausalConv(config.latent_channels, channels, (kernels[0], 3, 3))
        self.middle = build_middle(channels, kernels[0])
        self.levels = nn.ModuleList()
        for level, dim in enumerate(dims):
            layers: list[nn.Module] = []
            for _ in range(config.num_res_blocks + 1):
                layers.append(ResidualBlock(channels, dim, kernels[level]))
                channels = dim
            if level < len(dims) - 1:
                if upsample[level]:
                    layers.append(TemporalUp(dim))
                layers.append(SpatialUp(dim))
                channels = dim // 2
            self.levels.append(nn.ModuleList(layers))
        self.norm_out = ChannelNorm(channels, silu=True)
        self.conv_out = CausalConv(channels, COLORS * config.patch_size**2, (kernels[-1], 3, 3))
        temporal = [index for index, layer in enumerate(self._layers()) if is_temporal(layer)]
        # Later layers need only the frames to keep; None if the last convolution is temporal.
        self._last_temporal = None if is_temporal(self.conv_out) or not temporal else temporal[-1]

    def forward(self, latents: Tensor, cache: CachePass | None = None, keep: FrameChoice = None) -> Tensor:
        x = self.conv_in(latents, cache)
        for index, layer in enumerate(self._layers()):
            x = layer(x, cache)
            if keep is not None and index == self._last_temporal:
                x = x[:, :, keep].contiguous(memory_format=torch.channels_last_3d)
        x = self.conv_out(self.norm_out(x), cache)
        if keep is not None and self._last_temporal is None:
            x = x[:, :, keep]
        return channels_to_pixels(x, self.patch_size)

    def _layers(self) -> list[nn.Module]:
        return [layer for group in (self.middle, *self.levels) for layer in group]
