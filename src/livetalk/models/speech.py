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
        """Width of each of them."""

    def __call__(self, samples: Tensor) -> Tensor:
        """Encode audio.

        Args:
            samples: `[B, samples]` float32, -1..1, at the stream's sample rate (16 kHz).

        Returns:
            `[B, samples // 640, num_blocks, channels]`: one row per video frame at 25 fps.
        """
