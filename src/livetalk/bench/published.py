"""Times that the authors of SoulX-FlashTalk published, for comparison with our records."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedTiming:
    """A row of a published table; None where the table has no value."""

    source: str  # paper and table
    gpu: str
    num_gpus: int  # GPUs per stream
    speech_ms: float | None = None  # speech encoding of a chunk
    step_ms: float
    decode_ms: float  # decoding of a window
    encode_ms: float  # encoding of the motion frames
    chunk_ms: float | None = None  # a whole chunk of 28 frames

    @property
    def fps(self) -> float | None:
        """Frames per second."""
        return None if self.chunk_ms is None else 28 * 1000 / self.chunk_ms


PAPER = "SoulX-FlashTalk, arXiv 2512.23379"

TABLE_4 = (
    PublishedTiming(
        source=f"{PAPER}, table 4", gpu="H800", num_gpus=1, step_ms=1070, decode_ms=988, encode_ms=97
    ),
    PublishedTiming(
        source=f"{PAPER}, table 4", gpu="H800", num_gpus=8, step_ms=193, decode_ms=192, encode_ms=21
    ),
)
"""Measured without FlashAttention 3. The rows for 2 and 4 GPUs are not included."""

FIGURE_6 = PublishedTiming(
    source=f"{PAPER}, figure 6",
    gpu="H800",
    num_gpus=8,
    speech_ms=33,
    step_ms=154,
    decode_ms=187,
    encode_ms=14,
    chunk_ms=876,
)
"""Measured with FlashAttention 3."""

PUBLISHED = (*TABLE_4, FIGURE_6)
