"""Everything that a stream carries from chunk to chunk, as a value."""

from dataclasses import dataclass

import torch
from torch import Tensor

from livetalk.streaming.audio import AudioBuffer, Recording
from livetalk.streaming.color import ColorStatistics
from livetalk.streaming.loudness import LoudnessState


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamState:
    """State of one stream; a step returns a new one, and continuing an old one repeats it bit for bit.

    Attributes:
        motion_latents: `[1, C, M, h, w]` float32, clean latents that start the next window.
        audio: the last seconds of audio, or the place in a whole recording.
        rng_state: state of the random generator, uint8 on the CPU.
        color: colours of the reference image.
        chunk_index: chunks generated so far.
        last_frame: `[1, 3, H, W]`, -1..1, the frame shown last, where seams are hidden.
        loudness: what a running gain remembers; None where there is none.
    """

    motion_latents: Tensor
    audio: AudioBuffer | Recording
    rng_state: Tensor
    color: ColorStatistics
    chunk_index: int
    last_frame: Tensor | None = None
    loudness: LoudnessState | None = None

    @property
    def num_bytes(self) -> int:
        """Size in bytes."""
        shown = 0 if self.last_frame is None else self.last_frame.nbytes
        heard = 0 if self.loudness is None else self.loudness.num_bytes
        parts = (
            self.motion_latents.nbytes,
            self.audio.num_bytes,
            self.rng_state.nbytes,
            self.color.num_bytes,
        )
        return sum(parts) + shown + heard


def seeded_rng_state(seed: int, device: torch.device) -> Tensor:
    """Return the state of a generator on `device` freshly seeded with `seed`."""
    return torch.Generator(device).manual_seed(seed).get_state()


def restore_rng(rng_state: Tensor, device: torch.device) -> torch.Generator:
    """Return a generator on `device` in a given state."""
    rng = torch.Generator(device)
    rng.set_state(rng_state)
    return rng
