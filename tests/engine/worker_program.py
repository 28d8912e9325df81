"""A program that starts its own workers and makes a stream: give it a folder and a number of chunks."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from livetalk.assembly.model import AvatarModel
from livetalk.assembly.random_model import build_random_model
from livetalk.assembly.spec import PortraitConfig
from livetalk.engine.backend import Backend
from livetalk.engine.group import WorkerGroup, end_worker
from livetalk.engine.leader import Leader
from livetalk.engine.messages import OpenStream, Snapshot
from livetalk.engine.offline import run_stream
from livetalk.engine.worker import run_worker
from livetalk.env import WorkerPlace, worker_place
from livetalk.errors import LivetalkError
from livetalk.streaming.geometry import ChunkGeometry
from livetalk.streaming.settings import LoudnessMode
from livetalk.streaming.spec import StreamSpec
from livetalk.types import VideoChunk

SIZE = PortraitConfig(height=16, width=112)
"""With 5 latent frames 35 tokens and 14 columns of latents, which 2, 3 and 4 ranks cannot share evenly."""

NUM_WORKERS = 3


def build() -> AvatarModel:
    """Build the tiny model with the same weights every time."""
    model = build_random_model("tiny", device=torch.device("cpu"), dtype=torch.float32, portrait=SIZE)
    settings = replace(model.settings, geometry=ChunkGeometry(window_frames=17))
    return replace(model, spec=replace(model.spec, settings=settings))


def networks_of(model: AvatarModel) -> list[nn.Module]:
    """Return the networks whose rounding may differ from process to process."""
    networks = model.executor.networks
    parts = (networks.dit, networks.vae, networks.audio_encoder)
    return [part for part in parts if isinstance(part, nn.Module)]


def open_request(
    stream: int, portrait: int = 0, *, snapshot: Snapshot | None = None, **spec: Any
) -> OpenStream:
    """Ask for a stream of a drawn portrait."""
    image = np.random.default_rng(portrait).integers(0, 256, (SIZE.height, SIZE.width, 3), dtype=np.uint8)
    return OpenStream(
        stream=stream,
        image=image,
        snapshot=snapshot,
        spec=StreamSpec(**{"seed": 1, "crop": "none", "loudness": LoudnessMode.OFF, **spec}),
    )


def make_stream(backend: Backend[VideoChunk], folder: Path, num_chunks: int) -> list[torch.Tensor]:
    """Make the chunks of a stream, leaving a trace of each."""
    rng = torch.Generator().manual_seed(0)
    blocks = ((torch.randn(12 * 640, generator=rng) / 10).numpy() for _ in range(num_chunks))
    pixels = []
    for index, chunk in enumerate(run_stream(backend, open_request(0), blocks)):
        pixels.append(chunk.pixels)
        (folder / f"chunk{index}").touch()
    return pixels


def main(folder: Path, num_chunks: int) -> int:
    """Start the workers, or be one of them where torchrun has started them."""
    place = worker_place()
    if place is not None:
        code = run_rank(place, folder, num_chunks)
        if code:
            end_worker(code)
        return code
    try:
        with WorkerGroup.start(run_rank, [(folder, num_chunks)] * NUM_WORKERS) as group:
            return group.wait()
    except LivetalkError as error:
        sys.stderr.write(f"livetalk: error: {error}\n")
        return 2


def run_rank(place: WorkerPlace, folder: Path, num_chunks: int) -> int:
    """Be one of the workers."""
    torch.set_num_threads(1)
    (folder / f"worker{place.rank}").write_text(str(os.getpid()))

    def lead(leader: Leader) -> int:
        try:
            torch.save(make_stream(leader, folder, num_chunks), folder / "pixels.pt")
        except KeyboardInterrupt:
            sys.stderr.write("livetalk: interrupted\n")
            return 130
        return 0

    return run_worker(place, torch.device("cpu"), build, lead)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
