"""What a stream is defined by besides weights and inputs: frozen, checked values.

This module needs no PyTorch, so that a client of the engine can name settings without loading it.
"""

from dataclasses import dataclass, field
from enum import Enum

from livetalk.streaming.geometry import ChunkGeometry


class AudioMode(Enum):
    """STREAM: audio as it arrives, the past only. WHOLE: a finished recording, the future too."""

    STREAM = "stream"
    WHOLE = "whole"


class LoudnessMode(Enum):
    """What is done to the level of the audio before the speech encoder reads it.

    OFF: nothing.
    RUNNING: a gain that follows the speaker slowly, depends on the past only and leaves noise alone. Where
        everything that the encoder is about to read is too faint for speech, it reads digital silence.
    PUBLISHED: everything that the encoder is about to read gets one gain, anew each time, as the published
        code does. It lifts hiss without speech to the loudness of speech.
    """

    OFF = "off"
    RUNNING = "running"
    PUBLISHED = "published"


class ReferenceLayout(Enum):
    """Where the reference stands in the condition.

    FIRST_FRAME: the latents of the image followed by grey frames (published).
    BROADCAST: the latent of the image at every latent frame.
    """

    FIRST_FRAME = "first_frame"
    BROADCAST = "broadcast"


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

    def __post_init__(self) -> None:
        """Refuse numbers that make no schedule."""
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {self.num_steps}")
        if self.shift <= 0:
            raise ValueError(f"shift must be positive, got {self.shift}")
        if not 0 <= self.color_strength <= 1:
            raise ValueError(f"color_strength must be in 0..1, got {self.color_strength}")


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioConfig:
    """Which audio a window sees.

    Attributes:
        buffer_seconds: length of the rolling buffer that the speech encoder reads.
        context_frames: speech features read on each side of a video frame.
        lookahead_frames: frames of audio after a chunk's end that the encoder already reads; the stream
            answers that much later.
    """

    buffer_seconds: int = 8
    context_frames: int = 2
    lookahead_frames: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers below their range."""
        if self.buffer_seconds < 1 or self.context_frames < 0 or self.lookahead_frames < 0:
            raise ValueError(f"audio settings below their range: {self}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SeamConfig:
    """How long the difference between two decodings of a chunk border is faded; 0 does nothing (published).

    Attributes:
        color_frames: frames until the coarse part is gone; at most a chunk, or borders add up.
        detail_frames: frames until the fine part is gone.
    """

    color_frames: int = 0
    detail_frames: int = 0

    @property
    def enabled(self) -> bool:
        """Whether anything is done."""
        return self.color_frames > 0 or self.detail_frames > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamSettings:
    """Everything that a stream is defined by besides weights and inputs.

    Attributes:
        geometry: timeline.
        audio: which audio a window sees.
        sampler: how a window is denoised and finished.
        reference_layout: where the reference stands in the condition.
        latents_per_decode: latent frames that are decoded together, None for the whole window; the frames
            are the same. On a CPU small pieces are faster, because they stay in its cache. Frames can be
            delivered after each piece.
        decode_dropped: decode also the frames at the start of a window that are not shown.
        seam: how a chunk is joined to the one before.
        loudness: what is done to the level of the audio.
    """

    geometry: ChunkGeometry = field(default_factory=ChunkGeometry)
    audio: AudioConfig = field(default_factory=AudioConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    reference_layout: ReferenceLayout = ReferenceLayout.FIRST_FRAME
    latents_per_decode: int | None = None
    decode_dropped: bool = True
    seam: SeamConfig = field(default_factory=SeamConfig)
    loudness: LoudnessMode = LoudnessMode.OFF

    def __post_init__(self) -> None:
        """Refuse settings that do not fit together."""
        if self.latents_per_decode is not None and self.latents_per_decode < 1:
            raise ValueError(f"latents_per_decode must be at least 1, got {self.latents_per_decode}")
        seen = self.geometry.window_frames + self.audio.lookahead_frames
        if self.audio.buffer_seconds * self.geometry.fps < seen:
            raise ValueError(
                f"buffer_seconds {self.audio.buffer_seconds} cannot hold a window of"
                f" {self.geometry.window_frames} frames and a look-ahead of {self.audio.lookahead_frames}"
            )

    @property
    def skipped_frames(self) -> int:
        """Frames at the start of a window that are not decoded."""
        return 0 if self.decode_dropped else self.geometry.dropped_frames - self.seam.enabled

    @property
    def buffer_samples(self) -> int:
        """Samples of the rolling audio buffer."""
        return self.audio.buffer_seconds * self.geometry.sample_rate

    @property
    def buffer_window_start(self) -> int:
        """Row of the rolling buffer's features that belongs to the first frame of a window."""
        rows = self.audio.buffer_seconds * self.geometry.fps
        return rows - self.audio.lookahead_frames - self.geometry.window_frames
