"""Engines for the contract: each a backend that misbehaves on request, run in a thread or in a process."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.worker_program import build
from livetalk.engine.backend import Backend, HostFrames, Made, Preparation
from livetalk.engine.double import DoubleBackend, DoubleConfig
from livetalk.engine.messages import OpenStream
from livetalk.engine.table import StreamTable
from livetalk.engine.worker import run_worker
from livetalk.env import WorkerPlace

FAULT = np.float32(0.911)
"""A sample at the start of a chunk's audio that makes its computation fail."""

DEATH = np.float32(0.912)
"""A sample that ends the process."""

DOUBLE = DoubleConfig(
    chunk_frames=12, piece_frames=5, lookahead_frames=0, prepare_seconds=0.02, real_time_factor=0.1
)


class Faulty:
    """A backend that fails where its audio asks it to."""

    def __init__(self, backend: Backend[Any]) -> None:
        """Pass everything on to `backend`."""
        self._backend = backend

    @property
    def title(self) -> str:
        """The model."""
        return self._backend.title

    def prepare(self, request: OpenStream) -> Preparation:
        """Fail for a black portrait."""
        if not request.image.any():
            raise ArithmeticError("a black portrait")
        return self._backend.prepare(request)

    def open(self, request: OpenStream, preparation: Preparation, audio: NDArray[np.float32]) -> None:
        """Pass on."""
        self._backend.open(request, preparation, audio)

    def advance(
        self, stream: int, samples: NDArray[np.float32] | None = None, num_frames: int | None = None
    ) -> Made[Any]:
        """Fail, die or pass on."""
        if samples is not None and samples[0] == FAULT:
            raise ArithmeticError("a fault on request")
        if samples is not None and samples[0] == DEATH:
            os._exit(9)
        return self._backend.advance(stream, samples, num_frames)

    def start_copy(self, frames: Any) -> HostFrames:
        """Pass on."""
        return self._backend.start_copy(frames)

    def cut(self, stream: int, num_frames: int) -> None:
        """Pass on."""
        self._backend.cut(stream, num_frames)

    def snapshot(self, stream: int) -> bytes:
        """Pass on."""
        return self._backend.snapshot(stream)

    def close(self, stream: int) -> None:
        """Pass on."""
        self._backend.close(stream)


def faulty_double() -> Backend[Any]:
    """Return a fast double."""
    return Faulty(DoubleBackend(DOUBLE))


def faulty_model() -> Backend[Any]:
    """Return the engine of a tiny model."""
    torch.set_num_threads(1)
    return Faulty(StreamTable(build(), beside=True))


def host_faulty_model(place: WorkerPlace, lead: Callable[[Backend[Any]], int]) -> int:
    """Run the engine of a tiny model in a process, or in several that share the work."""
    torch.set_num_threads(1)
    if place.num_ranks == 1:
        return lead(faulty_model())
    return run_worker(place, torch.device("cpu"), build, lambda leader: lead(Faulty(leader)), beside=True)


def host_faulty_double(place: WorkerPlace, lead: Callable[[Backend[Any]], int]) -> int:
    """Run the fast double in a process."""
    return lead(faulty_double())
