"""On a GPU, starting chunks never makes the host wait: PyTorch is told to refuse whatever would."""

from collections.abc import Iterator

import pytest
import torch

from livetalk.assembly.random_model import build_random_model
from livetalk.bench.chunks import draw_picture, hum
from livetalk.engine.commands import NextChunk, OpenStream
from livetalk.engine.host_copy import HostCopy
from livetalk.engine.worker import StreamTable

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode"),
]


@pytest.fixture
def refuse_waiting() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("loudness", ["off", "running", "published"])
def test_chunks_start_without_waiting(loudness: str, refuse_waiting: None) -> None:
    device = torch.device("cuda")
    model = build_random_model("tiny", device=device, dtype=torch.bfloat16)
    geometry = model.settings.geometry
    streams, copy = StreamTable(model), HostCopy(device)
    picture = draw_picture(model.spec.portrait)
    streams.run(OpenStream(stream=0, picture=picture, sound=torch.zeros(0), options={"loudness": loudness}))
    pending = []
    for index in range(4):
        # Each shape is met once before: what is chosen and allocated then may wait.
        if index == 2:
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
        samples = hum(index * geometry.chunk_samples, geometry.chunk_samples, geometry.sample_rate)
        chunk = streams.run(NextChunk(stream=0, samples=samples))
        assert chunk is not None
        pending.append(copy.start(chunk))
    torch.cuda.set_sync_debug_mode("default")
    assert all(frames.wait().any() for frames in pending)
