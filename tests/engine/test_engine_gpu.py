"""The engine on GPUs: portraits beside chunks, several GPUs, launchers that show each worker one GPU."""

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.gpu_hosts import build_on, host_on_gpus, stream_with_one_visible
from engine.worker_program import make_stream, networks_of, open_request
from livetalk.engine.engine import Engine
from livetalk.engine.group import WorkerGroup
from livetalk.engine.messages import FramesReady, StreamEnded
from livetalk.engine.table import StreamTable
from livetalk.errors import WorkerError
from tolerance import assert_near, expect_all

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
TWO = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
HOST = f"{host_on_gpus.__module__}:{host_on_gpus.__name__}"


def frames_of(engine: Engine, num_streams: int) -> list[np.ndarray]:
    """Make streams of different portraits at the same time, and return their frames."""
    rng = np.random.default_rng(0)
    audio = rng.normal(0, 0.1, 40 * 640).astype(np.float32)
    streams = []
    for index in range(num_streams):
        request = open_request(0, index)
        streams.append(engine.open(request.image, request.spec))
        streams[-1].push_audio(audio)
        streams[-1].end_audio()
    made = []
    for stream in streams:
        frames = []
        while not isinstance(event := stream.next_event(120), StreamEnded):
            if isinstance(event, FramesReady):
                frames.append(event.frames)
        made.append(np.concatenate(frames))
        assert made[-1].shape[0] == 40
    return made


@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=TWO)])
def test_streams_side_by_side_are_those_of_one_alone(num_workers: int) -> None:
    with Engine.in_process(HOST, num_workers=num_workers) as engine:
        engine.wait_ready(180)
        together = frames_of(engine, 3)
        alone = frames_of(engine, 1)
    with Engine.in_thread(StreamTable(build_on(torch.device("cuda", 0)))) as engine:
        expected = frames_of(engine, 3)
    assert engine.failure is None
    # A level apart where a value lies at its border and sums are rounded another way.
    assert all(
        np.abs(a.astype(int) - b.astype(int)).max() <= 1 for a, b in zip(together, expected, strict=True)
    )
    assert np.array_equal(alone[0], together[0])


@TWO
def test_a_launcher_may_show_each_worker_one_gpu(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with WorkerGroup.start(stream_with_one_visible, [(tmp_path, "0"), (tmp_path, "1")]) as group:
        assert group.wait() == 0
    assert [(tmp_path / f"device{rank}").read_text() for rank in (0, 1)] == ["cuda:0 1"] * 2
    model = build_on(torch.device("cuda", 0))
    expected = expect_all(
        lambda: [x.cpu() for x in make_stream(StreamTable(model), tmp_path, 2)], *networks_of(model)
    )
    for own, one_rank in zip(torch.load(tmp_path / "pixels.pt", weights_only=True), expected, strict=True):
        assert_near(own, *one_rank)


@TWO
def test_workers_that_were_given_the_same_gpu_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        pytest.raises(WorkerError, match="GPU worker 1 of 2 failed"),
        WorkerGroup.start(stream_with_one_visible, [(tmp_path, "1"), (tmp_path, "1")]) as group,
    ):
        group.wait()
    assert "workers 1 and 2 were given the same GPU" in capfd.readouterr().err
