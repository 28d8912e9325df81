"""Frames from the device to the host, beside the work that follows them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from livetalk.ops.lanes import Lane
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
    _arrive: Callable[[], None]

    def wait(self) -> NDArray[np.uint8]:
        """Wait until they are there; any thread may.

        Returns:
            `[F, H, W, 3]` uint8, RGB.
        """
        self._arrive()
        frames: NDArray[np.uint8] = self._frames.numpy()
        return frames


class HostCopy:
    """Takes chunks from a device to the host.

    From a GPU they travel on a stream of their own, into memory that the GPU writes by itself: neither the
    next chunk's work nor the thread that starts it waits for them. Elsewhere there is nothing to wait for.
    """

    def __init__(self, device: torch.device) -> None:
        """Prepare to copy from `device`."""
        self._lane = Lane(device) if device.type == "cuda" else None

    def start(self, chunk: VideoChunk) -> PendingFrames:
        """Begin to copy a chunk, once the work that makes it is done."""
        if self._lane is None:
            with span("runtime.copy"):
                frames = chunk.to_uint8().cpu()
            return PendingFrames(chunk.first_frame, frames.shape[0], frames, _nothing)
        return self._start_on_lane(chunk, self._lane)

    def _start_on_lane(self, chunk: VideoChunk, lane: Lane) -> PendingFrames:
        frames = chunk.to_uint8().contiguous()
        # PyTorch keeps freed pinned memory, so after the first chunks this allocates nothing.
        arrived = torch.empty(frames.shape, dtype=frames.dtype, pin_memory=True)
        lane.follow()
        with lane.beside(), span("runtime.copy"):
            arrived.copy_(frames, non_blocking=True)
        lane.keep(frames)
        done = lane.mark()
        assert done is not None
        return PendingFrames(chunk.first_frame, frames.shape[0], arrived, done.synchronize)


def _nothing() -> None:
    """Wait for nothing."""
