"""Copies of frames from the device to the host, in parallel with later work."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from livetalk.tracing import span
from livetalk.types import VideoChunk


@dataclass(frozen=True, slots=True)
class PendingFrames:
    """Frames on their way to the host; `first_frame` is the index of the first in the stream."""

    first_frame: int
    num_frames: int
    _frames: Tensor
    _done: torch.cuda.Event | None

    @property
    def arrived(self) -> bool:
        """Whether `wait` returns at once."""
        return self._done is None or bool(self._done.query())  # type: ignore[no-untyped-call]

    def wait(self) -> NDArray[np.uint8]:
        """Return `[F, H, W, 3]` uint8 RGB once they have arrived; safe from any thread."""
        if self._done is not None:
            self._done.synchronize()
        frames: NDArray[np.uint8] = self._frames.numpy()
        return frames


class HostCopy:
    """Copies chunks from a device to the host.

    Copies from a GPU run on a side stream into pinned memory: neither the next chunk's kernels nor the
    calling thread wait for them. On other devices `start` copies synchronously.
    """

    def __init__(self, device: torch.device) -> None:
        self._side_stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            # High priority: the copy is short, and a client waits for it.
            self._side_stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]

    def start(self, chunk: VideoChunk) -> PendingFrames:
        """Start to copy a chunk once the queued kernels have computed it."""
        if self._side_stream is None:
            with span("engine.copy"):
                frames = chunk.to_uint8().cpu()
            return PendingFrames(chunk.first_frame, frames.shape[0], frames, None)
        return self._start_on(self._side_stream, chunk)

    def _start_on(self, side_stream: torch.cuda.Stream, chunk: VideoChunk) -> PendingFrames:
        frames = chunk.to_uint8().contiguous()
        # PyTorch caches pinned memory, so only the first chunks allocate.
        arrived = torch.empty(frames.shape, dtype=frames.dtype, pin_memory=True)
        side_stream.wait_stream(torch.cuda.current_stream(frames.device))
        with torch.cuda.stream(side_stream), span("engine.copy"):
            arrived.copy_(frames, non_blocking=True)
        # The allocator must not give the memory to later kernels of the main stream before it was read.
        frames.record_stream(side_stream)
        done = side_stream.record_event()
        return PendingFrames(chunk.first_frame, frames.shape[0], arrived, done)
