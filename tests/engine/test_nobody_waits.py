"""On a GPU, starting chunks never makes the host wait: PyTorch is told to refuse whatever would."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from livetalk.assembly.random_model import build_random_model
from livetalk.bench.chunks import draw_picture, hum
from livetalk.engine.messages import OpenStream
from livetalk.engine.table import StreamTable
from livetalk.streaming.settings import LoudnessMode
from livetalk.streaming.spec import StreamSpec

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
    table = StreamTable(model)
    spec = StreamSpec(crop="none", loudness=LoudnessMode(loudness))
    request = OpenStream(stream=0, image=draw_picture(model.spec.portrait), spec=spec)
    table.open(request, table.prepare(request), np.zeros(0, np.float32))
    pending = []
    for index in range(4):
        # Each shape is met once before: what is chosen and allocated then may wait.
        if index == 2:
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
        samples = hum(index * geometry.chunk_samples, geometry.chunk_samples, geometry.sample_rate)
        chunk = table.advance(0, samples.numpy()).frames
        assert chunk is not None
        pending.append(table.start_copy(chunk))
    torch.cuda.set_sync_debug_mode("default")
    assert all(frames.wait().any() for frames in pending)
