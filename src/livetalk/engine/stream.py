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
) -> Iterator[VideoChunk]:
    """Make a stream from its beginning to the end of its sound, or until nobody asks for more.

    Args:
        streams: a `Leader`, or a `StreamTable` for one GPU.
        opening: begins the stream.
        pieces: the sound of each chunk.
        progressive: hand over frames as they are decoded, several times a chunk, instead of whole chunks.

    Yields:
        The chunks, or what was decoded of them, each with the frames that its sound covers.
    """
    make = _make_progressively if progressive else _make_at_once
    streams.run(opening)
    try:
        for piece in pieces:
            missing = piece.num_frames
            for chunk in make(streams, opening.stream, torch.from_numpy(piece.samples)):
                frames = chunk.pixels[:, :missing]
                missing -= frames.shape[1]
                if frames.shape[1]:
                    yield replace(chunk, pixels=frames)
    finally:
        streams.run(CloseStream(stream=opening.stream))


def _make_at_once(streams: Streams, stream: int, samples: Tensor) -> Iterator[VideoChunk]:
    with span("engine.chunk"):
        chunk = streams.run(NextChunk(stream=stream, samples=samples))
    assert chunk is not None
    yield chunk


def _make_progressively(streams: Streams, stream: int, samples: Tensor) -> Iterator[VideoChunk]:
    streams.run(BeginChunk(stream=stream, samples=samples))
    while True:
        # Not around the whole chunk: between two pieces the caller is at work.
        with span("engine.piece"):
            chunk = streams.run(NextPiece(stream=stream))
        if chunk is None:
            return
        yield chunk
