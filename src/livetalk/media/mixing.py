"""One channel from many, so that a voice in any of them is kept.

Shapes: C channels · n samples of a block.
"""

import numpy as np
from numpy.typing import NDArray

_SILENT_CHANNEL_RATIO = 1e-4
"""A channel below this share of the loudest channel's energy (-40 dB) counts as silent."""


_SMALL_OFFSET = 0.002
_FEWEST_SAMPLES = 8000
"""A channel's mean of less (-54 dB), or over fewer samples, is no offset but chance."""


class ChannelStatistics:
    """Sums over audio of C channels from which its means and covariance follow."""

    def __init__(self, num_channels: int) -> None:
        """Start without audio."""
        self._num_samples = 0
        self._sums = np.zeros(num_channels)
        self._products = np.zeros((num_channels, num_channels))

    def add(self, samples: NDArray[np.float32]) -> None:
        """Add a block [C, n]."""
        exact = samples.astype(np.float64)
        self._num_samples += exact.shape[1]
        self._sums += exact.sum(axis=1)
        self._products += exact @ exact.T

    def offsets(self) -> tuple[float, ...]:
        """Return the constant offset of each channel; 0 where it is small."""
        means = self._sums / self._num_samples
        by_chance = (np.abs(means) < _SMALL_OFFSET) | (self._num_samples < _FEWEST_SAMPLES)
        return tuple(np.where(by_chance, 0.0, means).tolist())

    def covariance(self) -> NDArray[np.float64]:
        """Return the covariance [C, C] of the channels; a constant offset contributes nothing."""
        means = self._sums / self._num_samples
        return np.asarray(self._products / self._num_samples - np.outer(means, means))


def find_mix(covariance: NDArray[np.float64]) -> tuple[float, ...]:
    """Return the weight of each channel in the mono mix, given their covariance [C, C].

    Channels that are not silent have equal weights whose magnitudes sum to 1, so that a voice in one of many
    channels keeps its level. A channel that would cancel the louder ones is inverted.
    """
    energy = covariance.diagonal()
    signs = np.zeros(len(energy))
    for channel in np.argsort(-energy, kind="stable"):
        if energy[channel] >= _SILENT_CHANNEL_RATIO * energy.max():
            signs[channel] = -1.0 if covariance[channel] @ signs < 0 else 1.0
    return tuple((signs / np.abs(signs).sum()).tolist())


def remove_offsets(samples: NDArray[np.float32], offsets: tuple[float, ...]) -> NDArray[np.float32]:
    """Return a block [C, n] without the constant offset of each channel."""
    return samples - np.asarray(offsets, dtype=np.float32)[:, None] if any(offsets) else samples


def mix(samples: NDArray[np.float32], weights: tuple[float, ...]) -> NDArray[np.float32]:
    """Return the mono mix [1, n], float32, of a block [C, n]."""
    return np.asarray(weights, dtype=np.float32)[None] @ samples
