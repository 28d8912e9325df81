"""Speaker variation: warps of spectrum and pitch that preserve timing."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]

_FFT_SIZE = 512
_HOP = 128
_CEPSTRUM_CUTOFF = 30


@dataclass(frozen=True, slots=True)
class VoiceWarp:
    """A speaker derived from another."""

    formant_scale: float = 1.0  # stretches the spectrum; 0.78 is a long vocal tract, 1.18 a child's
    pitch_scale: float = 1.0  # multiplies the fundamental frequency
    pitch_range: float = 1.0  # exponent of pitch relative to its median; below 1 is monotone, above 1 lively
    breath_db: float = 0.0  # level of the breathy part
    tilt_db_per_octave: float = 0.0  # spectral slope around 1 kHz; negative is darker


def draw_voice(rng: np.random.Generator, natural_share: float = 0.15) -> VoiceWarp:
    """Draw a speaker whose pitch loosely fits the vocal tract; `natural_share` keep the original voice."""
    if rng.random() < natural_share:
        return VoiceWarp()
    formant = float(rng.uniform(0.78, 1.17))
    return VoiceWarp(
        formant_scale=formant,
        # Short vocal tracts go with high voices.
        pitch_scale=float(np.clip(formant**2.3 * rng.uniform(0.78, 1.25), 0.42, 1.42)),
        pitch_range=float(rng.uniform(0.6, 1.35)),
        breath_db=float(rng.uniform(-4.0, 7.0)),
        tilt_db_per_octave=float(rng.uniform(-2.5, 2.0)),
    )


def warp_rows(matrix: Matrix, scale: float) -> Matrix:
    """Stretch the frequency axis of [bins, F]: row i of the result is row i / scale of the input."""
    source = np.clip(np.arange(matrix.shape[0]) / scale, 0, matrix.shape[0] - 1)
    low = np.floor(source).astype(int)
    high = np.minimum(low + 1, matrix.shape[0] - 1)
    weight = (source - low)[:, None]
    return np.asarray(matrix[low] * (1.0 - weight) + matrix[high] * weight, np.float32)


def warp_pitch(pitch_hz: Matrix, warp: VoiceWarp) -> Matrix:
    """Scale a pitch track [F] and its range around the median; frames below 40 Hz are unvoiced."""
    voiced = pitch_hz > 40.0
    if not voiced.any():
        return pitch_hz
    centre = float(np.median(pitch_hz[voiced]))
    changed = centre * (np.maximum(pitch_hz, 1e-3) / centre) ** warp.pitch_range * warp.pitch_scale
    return np.where(voiced, np.clip(changed, 50.0, 500.0), pitch_hz).astype(np.float32)


def tilt_gain(num_bins: int, sample_rate: int, db_per_octave: float) -> Matrix:
    """Return natural-log gains [num_bins] of a spectral slope around 1 kHz, limited to 15 dB.

    The bins range from 0 Hz to half the sample rate.
    """
    hertz = np.maximum(np.linspace(0.0, sample_rate / 2, num_bins), 60.0)
    decibels = np.clip(db_per_octave * np.log2(hertz / 1000.0), -15.0, 15.0)
    return np.asarray(decibels * np.log(10.0) / 20.0, np.float32)


def warp_waveform(waveform: Matrix, warp: VoiceWarp, sample_rate: int) -> Matrix:
    """Change formants and tilt of audio [samples], float32; pitch and timing are preserved.

    Only `formant_scale` and `tilt_db_per_octave` are used.
    """
    window = np.hanning(_FFT_SIZE + 1)[:-1]
    padded = np.pad(waveform, (_FFT_SIZE, 2 * _FFT_SIZE))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FFT_SIZE)[::_HOP] * window
    spectrum = np.fft.rfft(frames)
    envelope = _log_envelope(spectrum)
    # Only the envelope moves: the harmonics, and with them the pitch, stay.
    moved = warp_rows(envelope.T.astype(np.float32), warp.formant_scale).T
    change = np.clip(moved - envelope, -4.0, 4.0)
    change = change + tilt_gain(spectrum.shape[1], sample_rate, warp.tilt_db_per_octave)
    blocks = np.fft.irfft(spectrum * np.exp(change)) * window
    output = np.zeros(padded.size + _FFT_SIZE)
    for index, block in enumerate(blocks):
        output[index * _HOP : index * _HOP + _FFT_SIZE] += block
    norm = float(np.sum(window**2)) / _HOP
    return (output[_FFT_SIZE : _FFT_SIZE + waveform.size] / norm).astype(np.float32)


def _log_envelope(spectrum: NDArray[np.complex128]) -> NDArray[np.float64]:
    """Return the spectral envelope by cepstral smoothing, [F, bins], natural log."""
    cepstrum = np.fft.irfft(np.log(np.abs(spectrum) + 1e-6))
    lifter = np.zeros(cepstrum.shape[1])
    lifter[0] = 1.0
    lifter[1:_CEPSTRUM_CUTOFF] = lifter[-_CEPSTRUM_CUTOFF + 1 :] = 1.0
    return np.asarray(np.fft.rfft(cepstrum * lifter).real)
