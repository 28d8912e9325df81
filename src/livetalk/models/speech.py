"""Interface of speech encoders."""

from typing import Protocol

from torch import Tensor


class AudioEncoder(Protocol):
    """Encodes audio to speech features at video rate, one row per frame."""

    @property
    def num_blocks(self) -> int:
        """Stacked layers of features per frame."""

    @property
    def channels(self) -> int:
        """Width of each layer of features."""

    def __call__(self, samples: Tensor) -> Tensor:
        """Encode `[B, samples]` float32, -1..1, 16 kHz, to `[B, samples // 640, num_blocks, channels]`."""
