"""What the ranks that share a stream are told to do, one command after the other."""

from dataclasses import dataclass

from torch import Tensor

from livetalk.assembly.session import SessionOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStream:
    """Begin a stream.

    Attributes:
        stream: its number, of the leader's choice.
        picture: `[3, H, W]`, -1..1, the framed portrait in the model's `image_dtype`, on the CPU.
        sound: float32 on the CPU: for "stream" what is heard before the first chunk, for "whole" all.
        options: of the session.
    """

    stream: int
    picture: Tensor
    sound: Tensor
    options: SessionOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkSound:
    """What a command for a stream's next chunk says.

    Attributes:
        stream: its number.
        samples: `[chunk_samples]` float32, -1..1, on the CPU.
    """

    stream: int
    samples: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class NextChunk(ChunkSound):
    """Make the next chunk of a stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginChunk(ChunkSound):
    """Begin the next chunk of a stream, to be made piece by piece; one begun before is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextPiece:
    """Make the next frames of the chunk that was begun, or end it when there are no more.

    Attributes:
        stream: its number.
    """

    stream: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseStream:
    """Forget a stream.

    Attributes:
        stream: its number.
    """

    stream: int


@dataclass(frozen=True, slots=True)
class StopWorkers:
    """End the work."""


StreamCommand = OpenStream | NextChunk | BeginChunk | NextPiece | CloseStream
Command = StreamCommand | StopWorkers
