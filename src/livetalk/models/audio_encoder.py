"""Audio -> speech features at video rate: log-mel front end and a small frozen transformer encoder.

Shapes: B batch · M log-mel frames (100 Hz) · S speech tokens (50 Hz) · F video frames (25 Hz) · N heads ·
E head width · D width.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from livetalk.errors import WeightsError
from livetalk.ops.finite import is_finite

SAMPLE_RATE = 16_000
SAMPLES_PER_FRAME = 640  # at 25 video frames per second
MELS_PER_FRAME = 4

_LOG10_FLOOR = -10.0
_DYNAMIC_RANGE_DECADES = 8.0
_PEAK_FLOOR_DECADES = 1.0
_GROUP = 48


@dataclass(frozen=True)
class SpeechEncoderConfig:
    """Sizes of a `SpeechEncoder`."""

    num_layers: int = 3
    width: int = 384  # width D of a 50 Hz token; a video frame carries two of them
    num_heads: int = 6  # attention heads; must divide `width`
    num_mel_bins: int = 80
    max_seconds: float = 30.0  # longest window the sinusoidal positions were trained for


class LogMel(nn.Module):
    """Log-mel spectrogram on a fixed 10 ms grid: 25 ms Hann windows, Slaney-spaced triangular filters.

    Frame m is centred on sample 160 m + 160, so the two tokens of a video frame lie symmetrically about its
    middle. Only analysis windows wholly inside the samples are computed; the first frame and the last two
    repeat their neighbour. Therefore a stored spectrogram can be cut for training (`cut_log_mel`) and equals
    that of the cut samples, which a live stream computes.
    """

    filters: Tensor
    hann: Tensor

    def __init__(self, num_mel_bins: int = 80) -> None:
        super().__init__()
        self.register_buffer("filters", _mel_filters(num_mel_bins), persistent=False)
        self.register_buffer("hann", torch.hann_window(400, dtype=torch.float32), persistent=False)

    def forward(self, samples: Tensor) -> Tensor:
        """Compute log10 of mel power, `[B, 4 * (samples // 640), bins]` float32, from `[B, samples]`, -1..1.

        Samples past the last whole video frame are dropped; values that are not finite count as silence.
        """
        num_frames = samples.shape[-1] // SAMPLES_PER_FRAME
        num_mels = num_frames * MELS_PER_FRAME
        if num_frames == 0:
            return samples.new_zeros(samples.shape[0], 0, self.filters.shape[0])
        whole = (
            samples[:, : num_frames * SAMPLES_PER_FRAME].float().nan_to_num(0.0, 0.0, 0.0).clamp(-4.0, 4.0)
        )
        # The window of frame 1 starts at sample 120; frame num_mels - 3 is the last to end inside.
        spectrum = torch.stft(
            whole[:, 120:], n_fft=400, hop_length=160, window=self.hann, center=False, return_complex=True
        )
        power = spectrum.real.square() + spectrum.imag.square()
        mel = (self.filters @ power).clamp_min(10.0**_LOG10_FLOOR).log10().transpose(1, 2)
        return cut_log_mel(F.pad(mel, (0, 0, 1, 0)), 0, num_mels)


class SpeechEncoder(nn.Module):
    """First layers of a speech recognition encoder at 25 frames per second.

    Two convolutions and `num_layers` pre-norm transformer layers turn log-mel frames into 50 Hz tokens. The
    two tokens of a video frame are concatenated and standardised by constants, so that features have about
    zero mean and unit variance on speech. Positions count from the start of the window.
    """

    feature_mean: Tensor
    feature_scale: Tensor

    def __init__(self, config: SpeechEncoderConfig = SpeechEncoderConfig()) -> None:
        super().__init__()
        if config.width % (2 * config.num_heads):
            raise ValueError(f"width {config.width} must be a multiple of twice num_heads {config.num_heads}")
        self.config = config
        self.log_mel = LogMel(config.num_mel_bins)
        self.conv1 = nn.Conv1d(config.num_mel_bins, config.width, 3, padding=1)
        self.conv2 = nn.Conv1d(config.width, config.width, 3, stride=2, padding=1)
        self.layers = nn.ModuleList(
            _EncoderLayer(config.width, config.num_heads) for _ in range(config.num_layers)
        )
        self.register_buffer("feature_mean", torch.zeros(config.width))
        self.register_buffer("feature_scale", torch.ones(config.width))

    @property
    def num_blocks(self) -> int:
        # Only the last layer is read out.
        return 1

    @property
    def channels(self) -> int:
        # Two 50 Hz tokens.
        return 2 * self.config.width

    def forward(self, samples: Tensor) -> Tensor:
        """Encode `[B, samples]` float32, -1..1, 16 kHz, to `[B, samples // 640, 1, channels]`.

        Frame f describes samples 640 f .. 640 f + 639. `ValueError` for more than `max_seconds`.
        """
        return self.encode_log_mel(self.log_mel(samples))

    def encode_log_mel(self, log_mel: Tensor) -> Tensor:
        """Encode `[B, M, bins]` of `LogMel` or `cut_log_mel` to `[B, M // 4, 1, channels]`."""
        batch, num_mels, _ = log_mel.shape
        if num_mels % MELS_PER_FRAME:
            raise ValueError(f"{num_mels} log-mel frames are not a whole number of video frames (4 each)")
        if num_mels > self.config.max_seconds * 100:
            raise ValueError(f"a window of {num_mels / 100:g} s is longer than {self.config.max_seconds:g} s")
        if num_mels == 0:
            return log_mel.new_zeros(batch, 0, self.num_blocks, self.channels)
        x_BDM = _normalise_level(log_mel).to(self.conv1.weight.dtype).transpose(1, 2)
        x_BSD = F.gelu(self.conv2(F.gelu(self.conv1(x_BDM)))).transpose(1, 2)
        x_BSD = x_BSD + _sinusoids(x_BSD.shape[1], self.config.width, x_BSD.device).to(x_BSD.dtype)
        for layer in self.layers:
            x_BSD = layer(x_BSD)
        x_BSD = (x_BSD - self.feature_mean) * self.feature_scale
        return x_BSD.reshape(batch, num_mels // MELS_PER_FRAME, self.num_blocks, self.channels)


class _EncoderLayer(nn.Module):
    """Pre-norm self-attention and feed-forward over the whole window."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward_in = nn.Linear(width, 4 * width)
        self.feed_forward_out = nn.Linear(4 * width, width)

    def forward(self, x_BSD: Tensor) -> Tensor:
        batch, length, width = x_BSD.shape
        qkv = self.qkv(self.attention_norm(x_BSD)).view(
            batch, length, 3, self.num_heads, width // self.num_heads
        )
        q_BNSE, k_BNSE, v_BNSE = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q_BNSE, k_BNSE, v_BNSE).transpose(1, 2).reshape(x_BSD.shape)
        x_BSD = x_BSD + self.attention_out(mixed)
        hidden = F.gelu(self.feed_forward_in(self.feed_forward_norm(x_BSD)))
        output: Tensor = x_BSD + self.feed_forward_out(hidden)
        return output


def cut_log_mel(log_mel: Tensor, start: int, num_mels: int) -> Tensor:
    """Cut `[B, num_mels, bins]` out of the output of `LogMel` as if the audio had been cut.

    `start` and `num_mels` are multiples of 4, which aligns the window with video frames.
    """
    # The analysis windows of the first frame and the last two reach outside the cut: repeat neighbours.
    last = start + num_mels - 3
    index = torch.arange(start, start + num_mels, device=log_mel.device).clamp(start + 1, last)
    return log_mel.index_select(1, index)


def load_speech_encoder(path: Path) -> SpeechEncoder:
    """Load a file of `scripts/pack_speech_encoder.py` into a frozen float32 encoder on the CPU.

    Raises:
        WeightsError: the file is missing, damaged or of another network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            packed = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    except FileNotFoundError as error:
        raise WeightsError(
            f"{path}: no such weights file; reinstall livetalk or pass another path"
        ) from error
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: cannot be read as safetensors ({error}); reinstall livetalk") from error
    if metadata.get("sha256") != packed_digest(packed):
        raise WeightsError(f"{path}: contents do not match their own checksum; reinstall livetalk")
    try:
        encoder = SpeechEncoder(SpeechEncoderConfig(**json.loads(metadata["config"])))
        state = unpack_tensors(packed)
        if strange := [name for name, tensor in state.items() if not is_finite(tensor)]:
            raise WeightsError(f"{path}: {strange[0]} holds NaN or infinite values; reinstall livetalk")
        encoder.load_state_dict(state, strict=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path}: does not hold a speech encoder of this version ({error})") from error
    return encoder.requires_grad_(False).eval()


def pack_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Quantise a state dict for storage: matrices to int8 in groups of 48 inputs, the rest to float32.

    A matrix `name` becomes `name.int8` of its shape and `name.scale`, `[out, inputs / 48]` float16.
    """
    # With one scale per output channel a few outliers cost 2 % of relative feature error; groups nearly halve
    # that for a quarter of a megabyte.
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if tensor.ndim < 2:
            packed[name] = tensor.float().contiguous()
            continue
        groups = tensor.float().reshape(tensor.shape[0], -1, _GROUP)
        scale = (groups.abs().amax(2) / 127.0).clamp_min(1e-7).half()
        levels = (groups / scale.float()[..., None]).round().clamp(-127, 127)
        packed[f"{name}.scale"] = scale
        packed[f"{name}.int8"] = levels.to(torch.int8).view(tensor.shape).contiguous()
    return packed


def unpack_tensors(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Restore the float32 tensors that `pack_tensors` quantised; `KeyError` if a scale is missing."""
    state: dict[str, Tensor] = {}
    for name, tensor in packed.items():
        if name.endswith(".int8"):
            base = name.removesuffix(".int8")
            groups = tensor.float().reshape(tensor.shape[0], -1, _GROUP)
            state[base] = (groups * packed[f"{base}.scale"].float()[..., None]).view(tensor.shape)
        elif not name.endswith(".scale"):
            state[name] = tensor.float()
    return state


def packed_digest(packed: Mapping[str, Tensor]) -> str:
    """Return the sha256 (hex) over names and bytes of packed tensors, in name order."""
    digest = hashlib.sha256()
    for name in sorted(packed):
        digest.update(name.encode())
        digest.update(packed[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def packed_metadata(config: SpeechEncoderConfig, packed: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the header that `load_speech_encoder` checks: configuration and checksum."""
    return {"config": json.dumps(asdict(config)), "sha256": packed_digest(packed)}


def _normalise_level(log_mel: Tensor) -> Tensor:
    # Power is clamped at 8 decades under the window's peak, as in the training of the weights, but the peak
    # counts as at least 1.0 (speech that peaks near -6 dBFS). Without this floor the clamp would follow a
    # quiet window down and show the hiss of a muted microphone in full contrast. With it, white hiss under
    # about -76 dBFS equals digital silence, and speech that peaks at -40 dBFS keeps five of eight decades.
    peak = log_mel.amax((1, 2), keepdim=True).clamp_min(_PEAK_FLOOR_DECADES)
    return (torch.maximum(log_mel, peak - _DYNAMIC_RANGE_DECADES) + 4.0) / 4.0


def _sinusoids(length: int, width: int, device: torch.device) -> Tensor:
    half = width // 2
    rates = torch.exp(torch.arange(half, device=device) * (-math.log(10_000.0) / (half - 1)))
    angles = torch.arange(length, device=device)[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), 1)


def _mel_filters(num_bins: int) -> Tensor:
    """Return triangular filters `[bins, 201]` of unit area: linear to 1 kHz, then logarithmic (Slaney)."""
    step, knee_mel, log_step = 200.0 / 3.0, 15.0, math.log(6.4) / 27.0
    top = knee_mel + math.log(SAMPLE_RATE / 2000.0) / log_step
    mels = torch.linspace(0.0, top, num_bins + 2, dtype=torch.float64)
    edges = torch.where(mels < knee_mel, mels * step, 1000.0 * torch.exp(log_step * (mels - knee_mel)))
    hertz = torch.linspace(0.0, SAMPLE_RATE / 2, 201, dtype=torch.float64)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (hertz - low) / (centre - low), (high - hertz) / (high - centre)
    return (torch.minimum(rising, falling).clamp_min(0.0) * 2.0 / (high - low)).float()
