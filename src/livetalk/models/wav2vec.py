"""wav2vec 2.0 speech encoder (base layout), read out at video rate.

Shapes: B batch · C convolution channels · S convolution frames (about 50 Hz) · F video frames (25 Hz) ·
N heads · E head width · D width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from livetalk.ops.attention import attention

SAMPLES_PER_FRAME = 640  # 16 kHz audio at 25 video frames per second
VARIANCE_FLOOR = 1e-7


@dataclass(frozen=True, kw_only=True, slots=True)
class Wav2Vec2Config:
    """Sizes of a `Wav2Vec2Encoder`.

    Attributes:
        conv_kernels: kernel size of each of them, in samples (then frames).
    """

    width: int  # width D of a feature vector
    num_layers: int  # transformer layers; each gives one feature vector per video frame
    num_heads: int  # attention heads N; D / N is a whole number
    ffn_dim: int
    conv_dims: tuple[int, ...]  # channels of each convolution of the front end
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)  # stride of each of them, in samples (then frames)
    position_kernel: int = 128  # kernel size of the positional convolution, in video frames
    position_groups: int = 16  # groups of channels in that convolution
    eps: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("num_heads", "position_groups"):
            if self.width % getattr(self, name):
                raise ValueError(f"width {self.width} is not a multiple of {name} {getattr(self, name)}")
        if not len(self.conv_dims) == len(self.conv_kernels) == len(self.conv_strides):
            raise ValueError("conv_dims, conv_kernels and conv_strides must have one entry per convolution")


def wav2vec2_base() -> Wav2Vec2Config:
    """Return the size of the published speech encoder (94 million parameters, 12 x 768 features)."""
    return Wav2Vec2Config(width=768, num_layers=12, num_heads=12, ffn_dim=3072, conv_dims=(512,) * 7)


class Wav2Vec2Encoder(nn.Module):
    """Encodes audio to the output of every transformer layer at each video frame.

    The convolutional features (50 Hz) are resampled to video rate before the transformer.
    """

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.config = config
        self.front_end = ConvolutionalFrontEnd(config)
        self.feature_norm = nn.LayerNorm(config.conv_dims[-1], eps=config.eps)
        self.feature_projection = nn.Linear(config.conv_dims[-1], config.width)
        self.position = PositionConvolution(config)
        self.input_norm = nn.LayerNorm(config.width, eps=config.eps)
        self.layers = nn.ModuleList(Wav2Vec2Layer(config) for _ in range(config.num_layers))

    @property
    def num_blocks(self) -> int:
        return self.config.num_layers

    @property
    def channels(self) -> int:
        return self.config.width

    def forward(self, samples: Tensor) -> Tensor:
        """Encode `[B, samples]`, 16 kHz, any level, to `[B, samples // 640, num_layers, width]`."""
        num_frames = samples.shape[-1] // SAMPLES_PER_FRAME
        if num_frames == 0:
            return samples.new_zeros(samples.shape[0], 0, self.num_blocks, self.channels)
        features = self.front_end(normalize_samples(samples))
        return torch.stack(self.encode_frames(resample_features(features, num_frames))[1:], dim=2)

    def encode_frames(self, features_BFC: Tensor) -> list[Tensor]:
        """Return the input of the first layer and the output of each layer, `[B, F, D]`."""
        x = self.feature_projection(self.feature_norm(features_BFC))
        states = [self.input_norm(x + self.position(x))]
        for layer in self.layers:
            states.append(layer(states[-1]))
        return states


class ConvolutionalFrontEnd(nn.Module):
    """Strided convolutions from samples to features; only the first is normalised."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        inputs = (1, *config.conv_dims[:-1])
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, kernel, stride, bias=False)
            for before, after, kernel, stride in zip(
                inputs, config.conv_dims, config.conv_kernels, config.conv_strides, strict=True
            )
        )
        # One group per channel: each channel is standardised over the whole audio.
        self.norm = nn.GroupNorm(config.conv_dims[0], config.conv_dims[0], eps=config.eps)

    def forward(self, samples: Tensor) -> Tensor:
        """Return `[B, C, S]` from `[B, samples]`."""
        x = samples[:, None].to(self.norm.weight.dtype)
        for index, convolution in enumerate(self.convolutions):
            x = convolution(x)
            x = F.gelu(self.norm(x) if index == 0 else x)
        return x


class PositionConvolution(nn.Module):
    """Grouped convolution over time as a position embedding, with a learned gain per tap."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.groups = config.position_groups
        width, kernel = config.width, config.position_kernel
        self.gain = nn.Parameter(torch.ones(1, 1, kernel))
        self.direction = nn.Parameter(torch.randn(width, width // self.groups, kernel))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x_BFD: Tensor) -> Tensor:
        # The weight is `direction`, scaled to length `gain`, in float32. The gains are per tap, so the norm
        # spans both channel dimensions.
        length = torch.linalg.vector_norm(self.direction.float(), dim=(0, 1), keepdim=True)
        weight = (self.gain.float() * self.direction.float() / length).type_as(self.direction)
        kernel = weight.shape[2]
        x = F.conv1d(x_BFD.transpose(1, 2), weight, self.bias, padding=kernel // 2, groups=self.groups)
        # An even kernel gives one frame too many.
        return F.gelu(x[..., : x_BFD.shape[1]]).transpose(1, 2)


class Wav2Vec2Layer(nn.Module):
    """Post-norm self-attention and feed-forward."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q = nn.Linear(config.width, config.width)
        self.k = nn.Linear(config.width, config.width)
        self.v = nn.Linear(config.width, config.width)
        self.out = nn.Linear(config.width, config.width)
        self.attention_norm = nn.LayerNorm(config.width, eps=config.eps)
        self.ffn_in = nn.Linear(config.width, config.ffn_dim)
        self.ffn_out = nn.Linear(config.ffn_dim, config.width)
        self.ffn_norm = nn.LayerNorm(config.width, eps=config.eps)

    def forward(self, x_BFD: Tensor) -> Tensor:
        q, k, v = (layer(x_BFD).unflatten(2, (self.num_heads, -1)) for layer in (self.q, self.k, self.v))
        x = self.attention_norm(x_BFD + self.out(attention(q, k, v).flatten(2)))
        y: Tensor = self.ffn_norm(x + self.ffn_out(F.gelu(self.ffn_in(x))))
        return y


def normalize_samples(samples: Tensor) -> Tensor:
    """Normalise audio `[B, samples]` to mean 0 and deviation 1 in float32; silence stays 0."""
    x = samples.float()
    variance, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
    return (x - mean) / (variance + VARIANCE_FLOOR).sqrt()


def resample_features(features_BCS: Tensor, num_frames: int) -> Tensor:
    """Interpolate features `[B, C, S]` linearly to `[B, F, C]`, with the first and last positions aligned."""
    return F.interpolate(features_BCS, num_frames, mode="linear", align_corners=True).transpose(1, 2)
