"""A stream from its beginning to its end, as commands to whatever runs it."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from livetalk.engine.audio_feed import AudioPiece
from livetalk.engine.commands import (
    BeginChunk,
    CloseStream,
    NextChunk,
    NextPiece,
    OpenStream,
    StreamCommand,
)
from livetalk.tracing import span
from livetalk.types import VideoChunk


class Streams(Protocol):
    """Runs commands: on one rank or on all."""

    def run(self, command: StreamCommand) -> VideoChunk | None:
        """Do what a command says, see `StreamTable.run`."""


def generate_stream(
    streams: Streams,
    opening: OpenStream,
    pieces: Iterable[AudioPiece],
    *,
    progressive: bool = False,
    ahead: bool = False,
) -> Iterator[VideoChunk]:
    """Make a stream from its beginning to the end of its sound, or until nobody asks for more.

    Args:
        streams: a `Leader`, or a `StreamTable` for one GPU.
        opening: begins the stream.
        pieces: the sound of each chunk.
        progressive: hand over frames as they are decoded, several times a chunk, instead of whole chunks.
        ahead: ask for the sound of the next chunk before a chunk is made, and let it be heard meanwhile; for
            sound that nobody has to wait for.

    Yields:
        The chunks, or what was decoded of them, each with the frames that its sound covers.
    """
    make = _make_progressively if progressive else _make_at_once
    streams.run(opening)
    try:
        for piece, following in _look_ahead(pieces) if ahead else _one_by_one(pieces):
            missing = piece.num_frames
            samples = torch.from_numpy(piece.samples)
            after = None if following is None else torch.from_numpy(following.samples)
            for chunk in make(streams, opening.stream, samples, after):
                frames = chunk.pixels[:, :missing]
                missing -= frames.shape[1]
                if frames.shape[1]:
                    yield replace(chunk, pixels=frames)
    finally:
        streams.run(CloseStream(stream=opening.stream))


def _one_by_one(pieces: Iterable[AudioPiece]) -> Iterator[tuple[AudioPiece, AudioPiece | None]]:
    """Yield each piece as soon as it is there."""
    for piece in pieces:
        yield piece, None


def _look_ahead(pieces: Iterable[AudioPiece]) -> Iterator[tuple[AudioPiece, AudioPiece | None]]:
    """Yield each piece with the one after it, the last with None."""
    waiting = iter(pieces)
    piece = next(waiting, None)
    while piece is not None:
        following = next(waiting, None)
        yield piece, following
        piece = following


def _make_at_once(
    streams: Streams, stream: int, samples: Tensor, ahead: Tensor | None
) -> Iterator[VideoChunk]:
    with span("runtime.chunk"):
        chunk = streams.run(NextChunk(stream=stream, samples=samples, ahead=ahead))
    assert chunk is not None
    yield chunk


def _make_progressively(
    streams: Streams, stream: int, samples: Tensor, ahead: Tensor | None
) -> Iterator[VideoChunk]:
    streams.run(BeginChunk(stream=stream, samples=samples, ahead=ahead))
    while True:
        # Not around the whole chunk: between two pieces the caller is at work.
        with span("runtime.piece"):
            chunk = streams.run(NextPiece(stream=stream))
        if chunk is None:
            return
        yield chunk
