"""Counts of frames, latent frames and samples of a stream, all derived from five numbers.

A window of frames is denoised at once. It starts with the motion frames, which repeat the end of the previous
window; the remaining frames are the chunk, the only part that is shown. The first window starts with a single
clean latent frame, the reference image, instead; its first `motion_frames` frames are also hidden, so that
every chunk has the same length.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkGeometry:
    """Timeline of a stream."""

    fps: int = 25
    sample_rate: int = 16_000  # audio samples per second; a multiple of `fps`
    window_frames: int = 33  # frames that are denoised together; 1 + a multiple of `latent_stride`
    motion_frames: int = 5  # frames repeated from the previous window; 1 + a multiple of `latent_stride`
    latent_stride: int = 4  # frames per latent frame; the first latent frame stands for one frame

    def __post_init__(self) -> None:
        if self.fps < 1 or self.sample_rate % self.fps:
            raise ValueError(f"sample_rate {self.sample_rate} is not a multiple of fps {self.fps}")
        for name, frames in (("window_frames", self.window_frames), ("motion_frames", self.motion_frames)):
            if frames < 1 or (frames - 1) % self.latent_stride:
                raise ValueError(f"{name} must be 1 + {self.latent_stride} * n, got {frames}")
        if self.motion_frames >= self.window_frames:
            raise ValueError(f"motion_frames {self.motion_frames} leave no new frame in {self.window_frames}")

    @property
    def chunk_frames(self) -> int:
        return self.window_frames - self.motion_frames

    @property
    def samples_per_frame(self) -> int:
        return self.sample_rate // self.fps

    @property
    def chunk_samples(self) -> int:
        return self.chunk_frames * self.samples_per_frame

    @property
    def chunk_seconds(self) -> float:
        return self.chunk_frames / self.fps

    @property
    def window_latents(self) -> int:
        return self.num_latents(self.window_frames)

    @property
    def dropped_frames(self) -> int:
        """Hidden frames at the start of every window, including the first."""
        return self.motion_frames

    def motion_latents(self, chunk_index: int) -> int:
        """Return the number of clean latent frames at the start of a window."""
        # The first window starts with the reference alone.
        return 1 if chunk_index == 0 else self.num_latents(self.motion_frames)

    def num_latents(self, num_frames: int) -> int:
        """Return the number of latent frames for `num_frames` = 1 + stride * n frames."""
        return 1 + (num_frames - 1) // self.latent_stride

    def num_frames(self, num_samples: int) -> int:
        """Return the number of frames that cover the audio, rounded up."""
        return -(-num_samples // self.samples_per_frame)

    def num_chunks(self, num_samples: int) -> int:
        """Return the number of chunks that cover the audio, rounded up."""
        return -(-num_samples // self.chunk_samples)
