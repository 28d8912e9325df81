"""A double of the engine: real timing and numbered frames without networks, for tests and for serving.

It replaces the backend alone; scheduler, loop, processes and client are the real ones. It needs no PyTorch.
"""

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from livetalk.engine.backend import Backend, Made, Preparation
from livetalk.engine.messages import OpenStream, StreamInfo
from livetalk.env import WorkerPlace
from livetalk.errors import InputError
from livetalk.streaming.settings import AudioMode

_STATE = struct.Struct("<qq")
_MARK = struct.Struct("<qq")


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubleConfig:
    """Timing and sizes of a double; the defaults are the published model slightly faster than real time."""

    height: int = 64
    width: int = 64  # of the frames, pixels; at least 16, which hold the frame number
    fps: int = 25
    sample_rate: int = 16_000
    chunk_frames: int = 28
    piece_frames: int = 12  # frames that a progressive stream delivers together
    lookahead_frames: int = 0  # frames of audio that a chunk needs beyond its own end
    prepare_seconds: float = 0.2  # time to encode a portrait
    real_time_factor: float = 0.85  # time to generate a chunk divided by its duration
    first_share: float = 0.85  # share of that time before the first frames; the rest goes with the frames

    def __post_init__(self) -> None:
        """Raise `InputError` for frames that are too small for their number."""
        if self.width < _MARK.size or self.height < 1:
            raise InputError(f"size {self.height}x{self.width}: at least 1x{_MARK.size} is needed")


@dataclass(slots=True)
class _Stream:
    info: StreamInfo
    background: NDArray[np.uint8]
    progressive: bool
    keep: int
    next_frame: int
    oldest: int
    num_cuts: int = 0
    wanted: int = 0
    remaining: int = 0


@dataclass(frozen=True, slots=True)
class _Arrived:
    frames: NDArray[np.uint8]
    arrived: bool = True

    def wait(self) -> NDArray[np.uint8]:
        """Return them at once."""
        return self.frames


class DoubleBackend:
    """Streams of numbered frames over the portrait; see `Backend`."""

    def __init__(
        self, config: DoubleConfig | None = None, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        """Start without streams; `sleep` takes seconds, and tests replace it by a clock of their own."""
        self._config = config or DoubleConfig()
        self._sleep = sleep
        self._streams: dict[int, _Stream] = {}

    @property
    def title(self) -> str:
        """Description in one line."""
        return "double of the engine"

    def prepare(self, request: OpenStream) -> Preparation:
        """See `Backend`; sleeps for the configured time."""
        config, spec = self._config, request.spec
        height, width = spec.size or (config.height, config.width)
        self._sleep(config.prepare_seconds)
        info = StreamInfo(
            fps=config.fps,
            sample_rate=config.sample_rate,
            height=height,
            width=width,
            chunk_frames=config.chunk_frames,
            lookahead_frames=0 if spec.audio_mode is AudioMode.WHOLE else config.lookahead_frames,
            audio_mode=spec.audio_mode,
            cut_frames=config.chunk_frames if spec.cuttable else 0,
        )
        # Nearest-neighbour sampling in NumPy: the double imports neither PyTorch nor an image library.
        rows = np.linspace(0, request.image.shape[0] - 1, height).astype(int)
        columns = np.linspace(0, request.image.shape[1] - 1, width).astype(int)
        return Preparation(info, request.image[rows][:, columns])

    def open(self, request: OpenStream, preparation: Preparation, audio: NDArray[np.float32]) -> None:
        spec, info = request.spec, preparation.info
        pending = spec.max_pending_frames or info.chunk_frames
        stream = _Stream(
            info=info,
            background=preparation.value,
            progressive=spec.progressive,
            # As much as the real table retains, so that both refuse the same cuts.
            keep=pending + info.chunk_frames + info.cut_frames,
            next_frame=0,
            oldest=0,
        )
        if request.snapshot is not None:
            stream.next_frame, stream.num_cuts = _STATE.unpack(request.snapshot.data)
            stream.oldest = stream.next_frame
        self._streams[request.stream] = stream

    def advance(
        self, stream: int, samples: NDArray[np.float32] | None = None, num_frames: int | None = None
    ) -> Made[NDArray[np.uint8]]:
        """See `Backend`; sleeps for the configured time."""
        own, config = self._streams[stream], self._config
        chunk_seconds = config.real_time_factor * own.info.chunk_frames / own.info.fps
        if samples is not None:
            own.wanted = own.remaining = own.info.chunk_frames
            if num_frames is not None:
                own.wanted = num_frames
            self._sleep(config.first_share * chunk_seconds)
        size = min(config.piece_frames if own.progressive else own.info.chunk_frames, own.remaining)
        self._sleep((1 - config.first_share) * chunk_seconds * size / own.info.chunk_frames)
        num_made = min(size, own.wanted)
        frames = None
        if num_made:
            numbers = range(own.next_frame, own.next_frame + num_made)
            frames = np.stack([mark_frame(own.background, n, own.num_cuts) for n in numbers])
        own.next_frame += num_made
        own.wanted -= num_made
        own.remaining -= size
        own.oldest = max(own.oldest, own.next_frame - own.keep)
        return Made(frames, num_made, chunk_ended=own.remaining == 0)

    def start_copy(self, frames: NDArray[np.uint8]) -> _Arrived:
        return _Arrived(frames)

    def cut(self, stream: int, num_frames: int) -> None:
        own = self._streams[stream]
        if not own.oldest <= num_frames <= own.next_frame:
            raise InputError(f"cut to frame {num_frames}: frames {own.oldest} to {own.next_frame} are kept")
        own.next_frame, own.remaining = num_frames, 0
        own.num_cuts += 1

    def snapshot(self, stream: int) -> bytes:
        own = self._streams[stream]
        return _STATE.pack(own.next_frame, own.num_cuts)

    def close(self, stream: int) -> None:
        self._streams.pop(stream, None)


def host_double(
    place: WorkerPlace, lead: Callable[[Backend[NDArray[np.uint8]]], int], config: DoubleConfig | None = None
) -> int:
    """Run the double in a process; see `ProcessTransport`."""
    return lead(DoubleBackend(config))


def mark_frame(background: NDArray[np.uint8], number: int, num_cuts: int) -> NDArray[np.uint8]:
    """Return `[H, W, 3]` with the frame number and the number of cuts written into the top left pixels."""
    frame = background.copy()
    frame[0, : _MARK.size, 0] = np.frombuffer(_MARK.pack(number, num_cuts), np.uint8)
    return frame


def read_mark(frame: NDArray[np.uint8]) -> tuple[int, int]:
    """Return the frame number and the number of cuts that `mark_frame` wrote."""
    number, num_cuts = _MARK.unpack(np.ascontiguousarray(frame[0, : _MARK.size, 0]).tobytes())
    return number, num_cuts
