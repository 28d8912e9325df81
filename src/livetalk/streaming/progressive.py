"""One chunk, handed over in pieces: frames leave as soon as they are decoded.

The frames are those of `livetalk.streaming.step.generate_chunk`: the VAE sees no frame's future, colours are
matched by the mean and deviation of each frame alone, and a seam is hidden by one difference, that of the
frame before the chunk's first. Only the motion frames of the next window must wait for the last frame.

Shapes: C channels · F frames · T latent frames · H W frame height, width · h w latent height, width. A stream
is a batch of one.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from livetalk.streaming.hearing import Heard, begin_window
from livetalk.streaming.models import Models
from livetalk.streaming.seams import Seam, measure_seam
from livetalk.streaming.state import StreamState
from livetalk.streaming.step import (
    decode_pieces,
    denoise_next,
    encode_motion,
    end_window,
)
from livetalk.tracing import span
from livetalk.types import Conditioning, VideoChunk


@torch.no_grad()
def generate_pieces(
    models: Models, conditioning: Conditioning, audio: Tensor | Heard, state: StreamState
) -> Generator[VideoChunk, None, StreamState]:
    """Generate the next chunk of a stream, and hand over its frames as they are decoded.

    Nothing runs before the first piece is asked for, and then no more than what that piece needs. A generator
    that is left early leaves nothing behind: the stream goes on from `state`, as if it had not been there.

    Args:
        models: networks and settings; `latents_per_decode` says how large the pieces are. Without it there
            is one, which still leaves before its motion frames are encoded.
        conditioning: of the stream.
        audio: the next `chunk_samples` samples, `[n]` float32, -1..1, or what `hear_chunk` heard of them.
        state: from `create_state` or from the chunk before; it is not changed.

    Yields:
        New frames of the chunk, in order, at least one at a time; the caller may change them.

    Returns:
        The state for the next chunk, once the last piece was taken and its frames are encoded.

    Raises:
        ValueError: the number of samples is wrong; raised when the first piece is asked for.
    """
    geometry = models.config.geometry
    speech, heard = begin_window(models, audio, state)
    latents, denoised = denoise_next(models, conditioning, speech, heard)
    recent: tuple[Tensor, ...] = ()
    for piece in _finish_pieces(models, latents, state):
        # Copied: what the caller does to its frames must not reach the next window.
        newest = torch.cat((*recent, piece.pixels[:, :, -geometry.motion_frames :]), dim=2)
        recent = (newest[:, :, -geometry.motion_frames :],)
        if piece.num_new:
            yield VideoChunk(
                pixels=piece.pixels[0, :, -piece.num_new :],
                first_frame=state.chunk_index * geometry.chunk_frames + max(piece.index, 0),
            )
    (last,) = recent
    return end_window(models, denoised, last[:, :, -1], encode_motion(models, last))


@dataclass(frozen=True, slots=True)
class _Piece:
    """Finished frames.

    Attributes:
        pixels: `[1, 3, F, H, W]` float32, -1..1.
        index: of the first of them among the chunk's new frames; those below 0 are not shown.
    """

    pixels: Tensor
    index: int

    @property
    def num_new(self) -> int:
        """Frames that are shown, the last ones."""
        return max(0, self.pixels.shape[2] + min(self.index, 0))

    @property
    def holds_border(self) -> bool:
        """Whether the frame before the chunk's first is among these."""
        return self.index < 0 <= self.index + self.pixels.shape[2]


def _finish_pieces(models: Models, latents: Tensor, state: StreamState) -> Iterator[_Piece]:
    """Decode a window and finish each piece as `decode_window` finishes the whole."""
    config = models.config
    pieces = decode_pieces(models, latents)
    index = config.skipped_frames - config.geometry.dropped_frames
    seam = None
    while True:
        with span("step.decode"):
            pixels = next(pieces, None)
        if pixels is None:
            return
        with span("step.color"):
            matched = models.match_color(pixels, state.color, config.sampler.color_strength)
            piece = _Piece(matched, index)
            if piece.holds_border and state.last_frame is not None and config.seam.enabled:
                before = piece.pixels[:, :, -piece.index - 1]
                seam = measure_seam(before, state.last_frame, config.geometry.chunk_frames, config.seam)
            if seam is not None:
                piece = _hide(seam, piece)
        yield piece
        index += pixels.shape[2]


def _hide(seam: Seam, piece: _Piece) -> _Piece:
    num_old = piece.pixels.shape[2] - piece.num_new
    new = seam.hide(piece.pixels[:, :, num_old:], max(piece.index, 0))
    return _Piece(torch.cat((piece.pixels[:, :, :num_old], new), dim=2), piece.index)
