"""Engines on GPUs, for tests: under livetalk's own workers, and under a launcher that shows each one GPU."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from engine.worker_program import SIZE, make_stream
from livetalk.assembly.model import AvatarModel
from livetalk.assembly.random_model import build_random_model
from livetalk.engine.backend import Backend
from livetalk.engine.table import StreamTable
from livetalk.engine.worker import choose_worker_device, run_worker
from livetalk.env import WorkerPlace
from livetalk.streaming.geometry import ChunkGeometry


def build_on(device: torch.device) -> AvatarModel:
    """Build the tiny model on a GPU with the same weights every time."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    model = build_random_model("tiny", device=device, dtype=torch.float32, portrait=SIZE)
    settings = replace(model.settings, geometry=ChunkGeometry(window_frames=17))
    return replace(model, spec=replace(model.spec, settings=settings))


def host_on_gpus(place: WorkerPlace, lead: Callable[[Backend[Any]], int]) -> int:
    """Run the engine of the tiny model on as many GPUs as there are workers."""
    device = choose_worker_device("cuda", place)
    if place.num_ranks == 1:
        return lead(StreamTable(build_on(device), beside=True))
    return run_worker(place, device, lambda: build_on(device), lead, beside=True)


def stream_with_one_visible(place: WorkerPlace, folder: Path, shown: str) -> int:
    """Make a stream as a worker to which its launcher shows one GPU."""
    os.environ["CUDA_VISIBLE_DEVICES"] = shown
    device = choose_worker_device("cuda", place)
    (folder / f"device{place.rank}").write_text(f"{device} {torch.cuda.device_count()}")

    def lead(backend: Backend[Any]) -> int:
        torch.save([x.cpu() for x in make_stream(backend, folder, 2)], folder / "pixels.pt")
        return 0

    return run_worker(place, device, lambda: build_on(device), lead)
