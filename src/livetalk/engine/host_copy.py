"""Frames from the device to the host, beside the work that follows them."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from livetalk.tracing import span
from livetalk.types import VideoChunk


@dataclass(frozen=True, slots=True)
class PendingFrames:
    """Frames on their way to the host.

    Attributes:
        first_frame: index of the first of them in the stream.
        num_frames: how many.
    """

    first_frame: int
    num_frames: int
    _frames: Tensor
    _done: torch.cuda.Event | None

    @property
    def arrived(self) -> bool:
        """`wait` returns at once."""
        return self._done is None or bool(self._done.query())  # type: ignore[no-untyped-call]

    def wait(self) -> NDArray[np.uint8]:
        """Wait until they are there; any thread may.

        Returns:
            `[F, H, W, 3]` uint8, RGB.
        """
        if self._done is not None:
            self._done.synchronize()
        frames: NDArray[np.uint8] = self._frames.numpy()
        return frames


class HostCopy:
    """Copies chunks from a device to the host.

    From a GPU the copies run on a side stream, into pinned memory: neither the next chunk's kernels nor the
    thread that starts a copy wait for it. Elsewhere a copy is done when it is started.
    """

    def __init__(self, device: torch.device) -> None:
        """Prepare to copy from `device`."""
        self._side_stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._side_stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]

    def start(self, chunk: VideoChunk) -> PendingFrames:
        """Start copying a chunk after the kernels that compute it."""
        if self._side_stream is None:
            with span("engine.copy"):
                frames = chunk.to_uint8().cpu()
            return PendingFrames(chunk.first_frame, frames.shape[0], frames, None)
        return self._start_on(self._side_stream, chunk)

    def _start_on(self, side_stream: torch.cuda.Stream, chunk: VideoChunk) -> PendingFrames:
        frames = chunk.to_uint8().contiguous()
        # PyTorch keeps freed pinned memory, so after the first chunks this allocates nothing.
        arrived = torch.empty(frames.shape, dtype=frames.dtype, pin_memory=True)
        side_stream.wait_stream(torch.cuda.current_stream(frames.device))
        with torch.cuda.stream(side_stream), span("engine.copy"):
            arrived.copy_(frames, non_blocking=True)
        # Later kernels of the main stream must not reuse the memory before it is read.
        frames.record_stream(side_stream)
        done = side_stream.record_event()
        return PendingFrames(chunk.first_frame, frames.shape[0], arrived, done)
