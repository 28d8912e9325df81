"""Loudness of the audio for the speech encoder: measured after ITU-R BS.1770 and adjusted to a target.

All functions are pure; the state of the running gain is an argument and a result.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

TARGET_LUFS = -23.0  # loudness at which the published speech features were computed

# ITU-R BS.1770: overlapping blocks of 0.4 s, and the gates below which blocks do not count.
BLOCK_SECONDS = 0.4
HOP_SECONDS = 0.1
OFFSET_DB = -0.691
ABSOLUTE_GATE_LUFS = -70.0
RELATIVE_GATE_DB = -10.0
FILTER_SECONDS = 0.25  # after this time the filters' impulse response is below float64 rounding

# The running gain. A syllable rises at least 8 dB above the quietest of the last 3 s and falls again within
# 1 s; the level of speech is an average over about 3 s of speech. The gain moves by at most 6 dB/s.

FRAME_SECONDS = 0.1
DIGITAL_SILENCE_LUFS = -90.0
MIN_SPEECH_LUFS = -60.0
SYLLABLE_DB = 8.0
FLOOR_FRAMES = 30
SYLLABLE_FRAMES = 10
SPEECH_MEMORY_FRAMES = 30
MAX_STEP_DB = 0.6  # per frame of 0.1 s
MIN_GAIN_DB, MAX_GAIN_DB = -20.0, 24.0


def normalize_published(samples: Tensor, sample_rate: int = 16_000) -> Tensor:
    """Scale audio `[samples]` to the target loudness with one gain, in its own dtype, without clipping."""
    loudness = integrated_loudness(samples, sample_rate)
    # Without any block above the absolute gate, as in silence, the loudness is minus infinity.
    gain = torch.where(loudness.isfinite(), 10 ** ((TARGET_LUFS - loudness) / 20), 1.0)
    return (samples.double() * gain).type_as(samples)


def silence_noise(samples: Tensor, sample_rate: int = 16_000) -> Tensor:
    """Return `[samples]` unchanged, or zeros if its loudness is below that of the faintest speech.

    An encoder that standardises its input would otherwise amplify hiss to the level of speech. One loud block
    of 0.4 s keeps all samples.
    """
    return torch.where(integrated_loudness(samples, sample_rate) >= MIN_SPEECH_LUFS, samples, 0)


def integrated_loudness(samples: Tensor, sample_rate: int = 16_000) -> Tensor:
    """Return the gated loudness of mono audio `[samples]` in LUFS, float64.

    It is minus infinity if all blocks of 0.4 s are below the absolute gate.
    """
    block = round(BLOCK_SECONDS * sample_rate)
    audio = F.pad(samples.double(), (0, max(0, block - samples.shape[0])))
    power = _block_power(_weighted(audio, sample_rate), block, round(HOP_SECONDS * sample_rate))
    above = power > _power(ABSOLUTE_GATE_LUFS)
    relative_gate = _power(RELATIVE_GATE_DB + OFFSET_DB) * _mean_where(power, above)
    return OFFSET_DB + 10 * _mean_where(power, above & (power > relative_gate)).log10()


@dataclass(frozen=True, kw_only=True, slots=True)
class LoudnessState:
    """State of the running gain of a stream."""

    pending: Tensor  # `[samples]` float32, the newest samples, less than a frame of 0.1 s
    last_gain_db: float = 0.0  # gain at the start of the frame that `pending` belongs to
    gain_db: float = 0.0  # gain at its end
    recent_lufs: tuple[float, ...] = ()  # loudness of the last frames that were not digital silence
    rise_lufs: tuple[float, ...] = ()  # loudness of the last frames that may turn out to be speech
    speech_power: float = 0.0  # exponentially weighted sum of the power of past speech frames
    speech_weight: float = 0.0  # sum of the weights in `speech_power`; 0 before the first speech

    @classmethod
    def create(cls) -> "LoudnessState":
        """Return the state of a stream before its first sample."""
        return cls(pending=torch.zeros(0))

    @property
    def num_bytes(self) -> int:
        return self.pending.nbytes


def normalize_running(
    samples: Tensor, state: LoudnessState, sample_rate: int = 16_000
) -> tuple[Tensor, LoudnessState]:
    """Apply the running gain to the next samples of a stream, `[n]` float32, any n, without clipping.

    The gain over a frame of 0.1 s depends only on earlier frames: there is no delay, and the split of the
    stream has no effect. It moves towards the level that brings past speech to the target, by at most 6 dB
    per second; before the first speech it is 0 dB.
    """
    length = round(FRAME_SECONDS * sample_rate)
    audio = torch.cat((state.pending, samples.detach().float().cpu()))
    num_frames = audio.shape[0] // length
    start = state.pending.shape[0]
    gains = [(state.last_gain_db, state.gain_db)]
    whole = audio[: num_frames * length].view(num_frames, length)
    # Sequential on the CPU, because the gain of a frame depends on that of the frame before.
    for loudness in _frame_loudness(whole, sample_rate).tolist():
        state = _update_gain(state, loudness)
        gains.append((state.last_gain_db, state.gain_db))
    before, after = torch.tensor(gains, dtype=torch.float64)[:, :, None].unbind(1)
    # The gain is interpolated in dB over each frame, so that it has no steps.
    ramp = torch.arange(length, dtype=torch.float64) / length
    gain = 10 ** (torch.lerp(before, after, ramp).flatten()[start : audio.shape[0]] / 20)
    return samples * gain.to(samples), replace(state, pending=audio[num_frames * length :].clone())


def _update_gain(state: LoudnessState, loudness: float) -> LoudnessState:
    recent, rise = state.recent_lufs, state.rise_lufs
    power, weight = state.speech_power, state.speech_weight
    if loudness > DIGITAL_SILENCE_LUFS:
        recent = (*recent, loudness)[-FLOOR_FRAMES:]
    # Frames that rise above the noise floor (the quietest recent frame) and fall again within a second are
    # speech: a syllable does so, a noise that is switched on does not.
    if rise and loudness < max(rise) - SYLLABLE_DB:
        for level in rise:
            keep = 1 - 1 / SPEECH_MEMORY_FRAMES
            power, weight = power * keep + _power(level), weight * keep + 1
        rise = ()
    elif recent and loudness > max(MIN_SPEECH_LUFS, min(recent) + SYLLABLE_DB):
        rise = (*rise, loudness)[-SYLLABLE_FRAMES:]
    gain = state.gain_db
    if weight:
        wanted = TARGET_LUFS - (OFFSET_DB + 10 * math.log10(power / weight))
        gain += min(max(wanted - gain, -MAX_STEP_DB), MAX_STEP_DB)
        gain = min(max(gain, MIN_GAIN_DB), MAX_GAIN_DB)
    return replace(
        state,
        last_gain_db=state.gain_db,
        gain_db=gain,
        recent_lufs=recent,
        rise_lufs=rise,
        speech_power=power,
        speech_weight=weight,
    )


def _frame_loudness(frames: Tensor, sample_rate: int) -> Tensor:
    """Measure each of the frames `[frames, samples]` separately: LUFS `[frames]` float64."""
    length = frames.shape[1]
    if not frames.shape[0]:  # Some FFT libraries reject empty input.
        return frames.new_zeros(0)
    spectrum = torch.fft.rfft(frames.double()) * _weighting(length, sample_rate, frames.device)
    # A real FFT stores half of the spectrum: all bins but the first and the last count twice.
    energy = spectrum.abs().square()
    total = 2 * energy.sum(dim=1) - energy[:, 0] - (energy[:, -1] if length % 2 == 0 else 0)
    loudness: Tensor = OFFSET_DB + 10 * (total / length**2).log10()
    return loudness


def _weighted(samples: Tensor, sample_rate: int) -> Tensor:
    """Apply the weighting filters to `[samples]`, assuming silence before them."""
    padded = samples.shape[0] + math.ceil(FILTER_SECONDS * sample_rate)
    spectrum = torch.fft.rfft(samples, padded)
    weighted: Tensor = torch.fft.irfft(spectrum * _weighting(padded, sample_rate, samples.device), padded)
    return weighted[: samples.shape[0]]


def _block_power(weighted: Tensor, block: int, hop: int) -> Tensor:
    num_blocks = round((weighted.shape[0] - block) / hop) + 1
    missing = max(0, block + (num_blocks - 1) * hop - weighted.shape[0])
    squares = F.pad(weighted.square(), (0, missing))
    return squares.unfold(0, block, hop)[:num_blocks].mean(dim=1)


def _weighting(num_samples: int, sample_rate: int, device: torch.device) -> Tensor:
    """Return the complex response of the K-weighting at each frequency of an rfft of `num_samples`."""
    turns = torch.arange(num_samples // 2 + 1, dtype=torch.float64, device=device) / num_samples
    delay = torch.polar(torch.ones_like(turns), -2 * math.pi * turns)
    response = torch.ones_like(delay)
    for (b0, b1, b2), (a0, a1, a2) in (_high_shelf(sample_rate), _high_pass(sample_rate)):
        response *= (b0 + b1 * delay + b2 * delay**2) / (a0 + a1 * delay + a2 * delay**2)
    return response


Biquad = tuple[tuple[float, float, float], tuple[float, float, float]]  # numerator, denominator


def _high_shelf(sample_rate: int, hertz: float = 1500.0, gain_db: float = 4.0) -> Biquad:
    # Models the acoustic effect of the head.
    angle, a = 2 * math.pi * hertz / sample_rate, 10 ** (gain_db / 40)
    cos, slope = math.cos(angle), math.sqrt(a) * math.sin(angle) * math.sqrt(2)
    up, down = (a + 1) + (a - 1) * cos, (a + 1) - (a - 1) * cos
    return (
        (a * (up + slope), -2 * a * ((a - 1) + (a + 1) * cos), a * (up - slope)),
        (down + slope, 2 * ((a - 1) - (a + 1) * cos), down - slope),
    )


def _high_pass(sample_rate: int, hertz: float = 38.0, quality: float = 0.5) -> Biquad:
    # Removes rumble.
    angle = 2 * math.pi * hertz / sample_rate
    cos, alpha = math.cos(angle), math.sin(angle) / (2 * quality)
    return ((1 + cos) / 2, -(1 + cos), (1 + cos) / 2), (1 + alpha, -2 * cos, 1 - alpha)


def _power(lufs: float) -> float:
    return float(10 ** ((lufs - OFFSET_DB) / 10))


def _mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    # 0 if none is selected. A branch on a value of the device would wait for the device.
    return torch.where(chosen, values, 0).sum() / chosen.sum().clamp_min(1)
