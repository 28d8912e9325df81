"""Augmentation of speech spectrograms: noise, reverberation, band limit, level."""

import numpy as np
from numpy.typing import NDArray

Mel = NDArray[np.float32]

_LOWEST_DECADE = -7.2


def augment_log_mel(log_mel: Mel, rng: np.random.Generator) -> Mel:
    """Degrade a spectrogram [M, bins], decades of mel power at 100 Hz, like rooms and microphones do.

    Power is additive, so noise and reverberation can be applied to the mel spectrogram directly; only the
    phase, which the encoder does not use, is not modelled.
    """
    power = 10.0 ** log_mel.astype(np.float64)
    if rng.random() < 0.5:
        power = _reverberate(power, rng)
    if rng.random() < 0.35:
        power = _limit_band(power, rng)
    if rng.random() < 0.7:
        power += _noise(power, rng)
    level = rng.uniform(-1.8, 0.5)
    return np.asarray(np.maximum(np.log10(power + 1e-12) + level, _LOWEST_DECADE), np.float32)


def _reverberate(power: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Spread energy forward in time; low bins decay a little more slowly."""
    decay_seconds = rng.uniform(0.15, 0.6) * np.linspace(1.15, 0.75, power.shape[1])
    # The decay time is that of 60 dB, 6 decades of power, at 100 frames per second.
    kept = 10.0 ** (-6.0 / (100.0 * decay_seconds))
    tail = np.zeros_like(power)
    for frame in range(1, power.shape[0]):
        tail[frame] = kept * (tail[frame - 1] + power[frame - 1])
    share = 10.0 ** rng.uniform(-2.2, -0.6)
    return np.asarray(power + share * tail * (1.0 - kept))


def _limit_band(power: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Attenuate high bins like a telephone or a lossy codec, sometimes low bins too."""
    bins = np.arange(power.shape[1])
    top = rng.uniform(0.62, 0.95) * power.shape[1]
    decades = -np.clip((bins - top) * rng.uniform(0.3, 1.5), 0.0, 5.0)
    if rng.random() < 0.5:
        decades -= np.clip((rng.uniform(1.0, 6.0) - bins) * 0.5, 0.0, 3.0)
    decades += np.linspace(0.0, rng.uniform(-0.6, 0.6), bins.size)
    return np.asarray(power * 10.0**decades)


def _noise(power: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return stationary coloured noise, 8..45 dB below the loud parts, with a slowly drifting level."""
    num_mels, num_bins = power.shape
    loud = max(float(np.percentile(power.mean(1), 95)), 1e-3)
    slope = np.linspace(0.0, rng.uniform(-2.5, 0.6), num_bins)
    bumps = np.interp(np.arange(num_bins), np.linspace(0, num_bins - 1, 6), rng.normal(0.0, 0.3, 6))
    colour = 10.0 ** (slope + bumps)
    drift = np.interp(np.arange(num_mels), np.linspace(0, num_mels - 1, 8), rng.normal(0.0, 0.12, 8))
    level = loud * 10.0 ** (-rng.uniform(0.8, 4.5)) / colour.mean()
    # A low mel bin sums few Fourier bins, so its noise power fluctuates more.
    shape = np.linspace(1.2, 6.0, num_bins)
    flutter = rng.gamma(shape, 1.0 / shape, (num_mels, num_bins))
    return np.asarray(level * colour * flutter * 10.0 ** drift[:, None])
