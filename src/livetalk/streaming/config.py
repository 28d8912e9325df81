"""What a stream is defined by besides weights and inputs."""

from dataclasses import dataclass, field
from enum import Enum

from livetalk.streaming.audio import AudioConfig
from livetalk.streaming.conditioning import ReferenceLayout
from livetalk.streaming.geometry import ChunkGeometry
from livetalk.streaming.seams import SeamConfig


class SamplerKind(Enum):
    """RENOISE: fresh noise at every step (published, few steps). EULER: follow the velocity."""

    RENOISE = "renoise"
    EULER = "euler"


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplerConfig:
    """How a window is denoised and finished.

    Attributes:
        num_steps: denoising steps.
        shift: schedule warp towards high noise.
        kind: sampler.
        color_strength: how far frames take the reference's colours, 0..1.
    """

    num_steps: int = 4
    shift: float = 5.0
    kind: SamplerKind = SamplerKind.RENOISE
    color_strength: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamConfig:
    """Everything a stream is defined by besides weights and inputs.

    Attributes:
        geometry: timeline.
        audio: which audio a window sees.
        sampler: how a window is denoised and finished.
        reference_layout: where the reference stands in the condition.
        latents_per_decode: decode a window in pieces of so many latent frames, None for all at once; the
            frames are the same. On a CPU small pieces are faster, for they stay in its cache. Frames can be
            handed over after each piece.
        decode_dropped: decode the frames at the start of a window that are not shown, too.
        seam: how a chunk is joined to the one before.
    """

    geometry: ChunkGeometry = field(default_factory=ChunkGeometry)
    audio: AudioConfig = field(default_factory=AudioConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    reference_layout: ReferenceLayout = ReferenceLayout.FIRST_FRAME
    latents_per_decode: int | None = None
    decode_dropped: bool = True
    seam: SeamConfig = field(default_factory=SeamConfig)

    @property
    def skipped_frames(self) -> int:
        """Frames at the start of a window that no piece of it holds."""
        return 0 if self.decode_dropped else self.geometry.dropped_frames - self.seam.enabled
