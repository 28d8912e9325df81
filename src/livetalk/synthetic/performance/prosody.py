"""Loudness and pitch of a voice at video rate, which drive head, eyebrows and mouth opening."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from livetalk.synthetic.performance.visemes import FRAMES_PER_SECOND

SAMPLE_RATE = 16_000

_WINDOW_SAMPLES = 1024
_SILENCE_DB = -90.0
_VOICED_CORRELATION = 0.45
_MIN_PITCH_HZ, _MAX_PITCH_HZ = 60.0, 450.0


@dataclass(frozen=True, slots=True)
class Prosody:
    """Loudness and pitch of one clip at 25 frames per second.

    Attributes:
        energy_db: [F], float32, root mean square of each frame in dB of full scale, at least -90.
    """

    energy_db: NDArray[np.float32]
    pitch_hz: NDArray[np.float32]  # [F], float32, fundamental frequency, 0 where unvoiced

    def level(self) -> NDArray[np.float32]:
        """Return loudness relative to the clip's loud speech: [F], 0 is silence, 1 its 92nd percentile."""
        loud = float(np.percentile(self.energy_db, 92)) if self.energy_db.size else _SILENCE_DB
        loud = max(loud, -60.0)  # Nothing this quiet is speech; hiss must not count as a voice.
        return np.clip((self.energy_db - (loud - 36.0)) / 36.0, 0.0, 1.15).astype(np.float32)


def measure_prosody(waveform: NDArray[np.float32], num_frames: int) -> Prosody:
    """Measure audio [samples], float32, -1..1, 16 kHz, padded with silence to `num_frames` frames.

    Loudness covers the 640 samples of a frame, pitch the 64 ms around its centre.
    """
    hop = SAMPLE_RATE // FRAMES_PER_SECOND
    half = _WINDOW_SAMPLES // 2
    padded = np.zeros(num_frames * hop + 2 * half, np.float32)
    used = min(waveform.size, num_frames * hop)
    padded[half : half + used] = waveform[:used]
    frames = padded[half : half + num_frames * hop].reshape(num_frames, hop)
    power = np.maximum(np.mean(frames.astype(np.float64) ** 2, axis=1), 1e-12)
    energy = np.maximum(10.0 * np.log10(power), _SILENCE_DB)
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW_SAMPLES)[hop // 2 :: hop][:num_frames]
    return Prosody(energy.astype(np.float32), _pitch(windows, energy))


def _pitch(windows: NDArray[np.float32], energy_db: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the frequency of the best normalised autocorrelation lag, [F] in Hz, 0 if unvoiced."""
    shaped = (windows - windows.mean(1, keepdims=True)) * np.hanning(_WINDOW_SAMPLES)
    spectrum = np.abs(np.fft.rfft(shaped, 2 * _WINDOW_SAMPLES)) ** 2
    # Above 1 kHz the harmonics of a breathy voice are noise.
    spectrum[:, 2 * _WINDOW_SAMPLES * 1000 // SAMPLE_RATE :] = 0.0
    correlation = np.fft.irfft(spectrum)[:, :_WINDOW_SAMPLES]
    taper = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(_WINDOW_SAMPLES), 2 * _WINDOW_SAMPLES)) ** 2)
    low, high = int(SAMPLE_RATE / _MAX_PITCH_HZ), int(SAMPLE_RATE / _MIN_PITCH_HZ)
    peak = np.maximum(correlation[:, :1], 1e-12)
    curve = correlation[:, low:high] / peak * (taper[0] / taper[low:high])
    # A small penalty on long lags prevents octave errors when two lags fit equally well.
    best = np.argmax(curve - np.linspace(0.0, 0.1, high - low), axis=1)
    strength = curve[np.arange(len(best)), best]
    voiced = (strength > _VOICED_CORRELATION) & (energy_db > -55.0)
    return np.where(voiced, SAMPLE_RATE / (best + low), 0.0).astype(np.float32)
