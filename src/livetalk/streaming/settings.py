"""Settings of a stream: everything that defines it besides weights and inputs, as frozen, checked values.

This module does not import PyTorch, so that a client of the engine can build settings without it.
"""

from dataclasses import dataclass, field
from enum import Enum

from livetalk.streaming.geometry import ChunkGeometry


class AudioMode(Enum):
    """Which audio a frame depends on."""

    STREAM = "stream"  # live audio: the past and the look-ahead
    WHOLE = "whole"  # a complete recording: the future too


class LoudnessMode(Enum):
    """How the level of the audio is adjusted before the speech encoder reads it."""

    OFF = "off"
    # A slow gain that depends on past speech only. Input too faint for speech becomes digital silence.
    RUNNING = "running"
    # One gain per window for the encoder's whole input. It raises hiss without speech to speech level.
    PUBLISHED = "published"


class ReferenceLayout(Enum):
    """Position of the reference in the condition."""

    FIRST_FRAME = "first_frame"  # latents of the image followed by grey frames (published)
    BROADCAST = "broadcast"  # the latent of the image at every latent frame


class SamplerKind(Enum):
    """Sampler of the denoising steps."""

    RENOISE = "renoise"  # fresh noise at every step (published, for few steps)
    EULER = "euler"  # integrates the velocity


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplerConfig:
    """How a window is denoised and its colours are matched."""

    num_steps: int = 4
    shift: float = 5.0  # warp of the schedule towards high noise, positive
    kind: SamplerKind = SamplerKind.RENOISE
    color_strength: float = 1.0  # strength of colour matching to the reference, 0..1

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {self.num_steps}")
        if self.shift <= 0:
            raise ValueError(f"shift must be positive, got {self.shift}")
        if not 0 <= self.color_strength <= 1:
            raise ValueError(f"color_strength must be in 0..1, got {self.color_strength}")


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioConfig:
    """Which audio a window depends on."""

    buffer_seconds: int = 8  # length of the rolling buffer that the speech encoder reads
    context_frames: int = 2  # rows of speech features on each side of a video frame
    lookahead_frames: int = 0  # frames of audio after a chunk's end that it needs; they add to the latency

    def __post_init__(self) -> None:
        if self.buffer_seconds < 1 or self.context_frames < 0 or self.lookahead_frames < 0:
            raise ValueError(f"audio settings below their range: {self}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SeamConfig:
    """Lengths of the seam correction; 0 disables it (published)."""

    color_frames: int = 0  # frames until the coarse part is gone; at most a chunk, or corrections overlap
    detail_frames: int = 0  # frames until the detail is gone

    @property
    def enabled(self) -> bool:
        return self.color_frames > 0 or self.detail_frames > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamSettings:
    """Everything that defines a stream besides weights and inputs."""

    geometry: ChunkGeometry = field(default_factory=ChunkGeometry)
    audio: AudioConfig = field(default_factory=AudioConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    reference_layout: ReferenceLayout = ReferenceLayout.FIRST_FRAME
    # Latent frames of a piece; None decodes the whole window at once. The frames are the same for every
    # number. On a CPU small pieces are faster, because they fit its cache.
    latents_per_decode: int | None = None
    decode_dropped: bool = True  # also decode the hidden frames at the start of a window
    seam: SeamConfig = field(default_factory=SeamConfig)
    loudness: LoudnessMode = LoudnessMode.OFF

    def __post_init__(self) -> None:
        if self.latents_per_decode is not None and self.latents_per_decode < 1:
            raise ValueError(f"latents_per_decode must be at least 1, got {self.latents_per_decode}")
        needed = self.geometry.window_frames + self.audio.lookahead_frames
        if self.audio.buffer_seconds * self.geometry.fps < needed:
            raise ValueError(
                f"buffer_seconds {self.audio.buffer_seconds} cannot hold a window of"
                f" {self.geometry.window_frames} frames and a look-ahead of {self.audio.lookahead_frames}"
            )

    @property
    def skipped_frames(self) -> int:
        """Frames at the start of a window that are not decoded."""
        # The seam correction needs the last hidden frame.
        return 0 if self.decode_dropped else self.geometry.dropped_frames - self.seam.enabled

    @property
    def buffer_samples(self) -> int:
        return self.audio.buffer_seconds * self.geometry.sample_rate

    @property
    def buffer_window_start(self) -> int:
        """Row of the audio buffer's features that belongs to the first frame of a window."""
        rows = self.audio.buffer_seconds * self.geometry.fps
        return rows - self.audio.lookahead_frames - self.geometry.window_frames
