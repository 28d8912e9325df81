"""Work of a device that need not wait its turn among the main work, and does not make it wait."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

Mark = torch.cuda.Event | None
"""A place among the work of a lane; None on a lane that is none."""


class Lane:
    """Where work goes that runs beside the main work of a device, in the order in which it is started.

    On a GPU it is a CUDA stream of its own, whose short kernels are let in between the long ones of the main
    stream. Elsewhere there is one thing at a time: work is done when it is started, and all methods do
    nothing.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        """Open a lane beside the main work of `device`; none beside None."""
        self._stream: torch.cuda.Stream | None = None
        if device is not None and device.type == "cuda":
            self._stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """Start the work of a block on the lane. It may read what the lane made, and see `follow`."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield

    def follow(self) -> None:
        """Let the lane's next work wait for all that the main work was given so far, to read what that makes.

        Outside of `beside`.
        """
        if self._stream is not None:
            self._stream.wait_stream(self._main)

    def mark(self) -> Mark:
        """Return what stands behind all that the lane was given so far."""
        return None if self._stream is None else self._stream.record_event()

    def join(self, mark: Mark, *made: Tensor) -> None:
        """Let the main work's next work wait for what stands before a mark.

        Outside of `beside`.

        Args:
            mark: of this lane.
            made: on the lane, for the main work: what is kept of it there is not written over here.
        """
        if mark is None:
            return
        self._main.wait_event(mark)
        for x in made:
            x.record_stream(self._main)

    def keep(self, x: Tensor) -> None:
        """Keep the memory of what the main work made from its later work until the lane has read it."""
        if self._stream is not None:
            x.record_stream(self._stream)

    @property
    def _main(self) -> torch.cuda.Stream:
        assert self._stream is not None
        return torch.cuda.current_stream(self._stream.device)
