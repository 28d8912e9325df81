import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache, partial
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from engine import worker_program
from engine.worker_program import SIZE, build, networks_of, open_request
from livetalk.assembly.model import AvatarModel
from livetalk.avatar import Avatar
from livetalk.engine.backend import Backend
from livetalk.engine.join import ControlChannel
from livetalk.engine.leader import Leader, follow
from livetalk.engine.offline import run_stream
from livetalk.engine.table import StreamTable
from livetalk.engine.worker import (
    choose_worker_device,
    parallelize_model,
    require_gpus,
    require_place,
    share_weights,
)
from livetalk.env import WorkerPlace
from livetalk.errors import InputError, LivetalkError, PeerLostError
from livetalk.numerics.compare import StreamSource, make_inputs, record
from livetalk.parallel.mesh import ParallelConfig
from livetalk.streaming.settings import AudioMode
from livetalk.types import VideoChunk
from parallel.gloo_ranks import run_ranks
from tolerance import assert_near, expect_all, expect_each

PROGRAM = Path(worker_program.__file__)
ENDLESS = "1000000"


def record_stream(model: AvatarModel) -> dict[str, Tensor]:
    """Generate two chunks and return everything on the way."""
    with torch.no_grad():
        return record(model, make_inputs(model, StreamSource(num_chunks=2)), seed=0).results


def recorded_on_ranks(degrees: tuple[int, int]) -> dict[str, Tensor]:
    """Record the stream over ranks."""
    config = ParallelConfig(ulysses_degree=degrees[0], ring_degree=degrees[1])
    return record_stream(parallelize_model(build(), config))


@cache
def recorded_on_one_rank() -> dict[str, tuple[Tensor, float]]:
    """Record the stream with networks that nobody has altered, and the limits for other ranks."""
    model = build()
    return expect_each(lambda: record_stream(model), *networks_of(model))


@pytest.mark.parametrize("degrees", [(1, 1), (2, 1), (3, 1), (1, 3), (4, 1), (2, 2)])
def test_two_chunks_are_those_of_one_rank_at_every_stage(degrees: tuple[int, int]) -> None:
    expected = recorded_on_one_rank()
    ranks = run_ranks(recorded_on_ranks, degrees[0] * degrees[1], degrees)
    for results in ranks:
        assert all(torch.equal(value, ranks[0][stage]) for stage, value in results.items())
    assert {"reference", "chunk 2 velocity 2", "chunk 2 decode", "chunk 2 encode"} <= expected.keys()
    assert ranks[0].keys() == expected.keys()
    for stage, value in ranks[0].items():
        assert_near(value, *expected[stage], stage)


def take_turns(backend: Backend[VideoChunk], model: AvatarModel) -> list[Tensor]:
    """Make chunks of two streams in turns, one of which depends on its future; close one."""
    rng = torch.Generator().manual_seed(9)
    size = model.settings.geometry.chunk_samples
    audio = [(torch.randn(size, generator=rng) / 10).numpy() for _ in range(5)]
    for request, start in (
        (open_request(1, portrait=1, seed=3), audio[0][:0]),
        (open_request(2, portrait=2, seed=4, audio_mode=AudioMode.WHOLE), np.concatenate(audio[3:])),
    ):
        backend.open(request, backend.prepare(request), start)
    made = [backend.advance(stream, audio[stream]).frames for stream in (1, 2, 1)]
    backend.close(1)
    return [chunk.pixels for chunk in made if chunk is not None]


def lead_or_follow() -> list[Tensor]:
    channel = ControlChannel()
    model = build()
    vae = share_weights(model.executor.networks.vae)
    table = StreamTable(parallelize_model(model), vae)
    if not channel.leads:
        follow(table, channel)
        return []
    with Leader(table, channel) as leader:
        with pytest.raises(InputError, match="size"):
            leader.prepare(open_request(5, size=(1024, 4096 + 16)))
        Avatar(leader.model, leader).warm_up(loudness="off")
        return take_turns(leader, leader.model)


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_followers_do_what_the_leader_says_until_it_says_no_more(num_ranks: int) -> None:
    model = build()
    expected = expect_all(lambda: take_turns(StreamTable(model), model), *networks_of(model))
    found = run_ranks(lead_or_follow, num_ranks)
    assert len(expected) == 3 and found[1:] == [[]] * (num_ranks - 1)
    for own, one_rank in zip(found[0], expected, strict=True):
        assert own.shape == (3, 12, SIZE.height, SIZE.width)
        assert_near(own, *one_rank)


def fail_together_or_alone(alone: bool) -> str:
    """Let a command fail on all ranks, and the next one on the leader alone; return how that ended."""
    channel = ControlChannel()
    table = StreamTable(build())
    audio = np.zeros(12 * 640, np.float32)
    try:
        if not channel.leads:
            follow(table, channel)
            return "stopped"
        with Leader(table, channel) as leader:
            with pytest.raises(KeyError):
                leader.advance(9, audio)
            request = open_request(1)
            leader.open(request, leader.prepare(request), np.zeros(0, np.float32))
            if alone:
                table.close(1)
            made = leader.advance(1, audio)
            assert made.num_frames == 12
    except PeerLostError as error:
        return str(error)
    return "stopped"


def test_a_command_that_fails_on_all_ranks_is_survived() -> None:
    assert run_ranks(fail_together_or_alone, 2, False) == ["stopped", "stopped"]


def test_a_command_that_fails_on_one_rank_alone_ends_the_group() -> None:
    found = run_ranks(fail_together_or_alone, 2, True)
    assert found == ["a command has failed on some GPU workers and not on others"] * 2


def build_or_fail(failing: int) -> str:
    """Agree on a model that one rank cannot build, and return what this rank hears."""
    channel = ControlChannel()
    failure = InputError("no room") if dist.get_rank() == failing else None
    with pytest.raises((LivetalkError, PeerLostError)) as caught:
        channel.agree(failure)
    channel.agree(None)
    return str(caught.value)


@pytest.mark.parametrize(("failing", "said"), [(0, "no room"), (2, "GPU worker 3 of 3: no room")])
def test_what_one_rank_cannot_do_the_leader_says_and_none_begins(failing: int, said: str) -> None:
    quiet = "the work cannot begin; the leader says why"
    assert run_ranks(build_or_fail, 3, failing) == [said, quiet, quiet]


@pytest.mark.parametrize("progressive", [False, True])
def test_a_stream_that_is_left_early_is_forgotten(progressive: bool) -> None:
    table = StreamTable(build())
    silence = np.zeros(table.model.settings.geometry.chunk_samples, np.float32)
    request = open_request(1, progressive=progressive, latents_per_decode=1)
    chunks = run_stream(table, request, repeat(silence))
    expected = [0, 4, 8, 12] if progressive else [0, 12, 24]
    assert [next(chunks).first_frame for _ in expected] == expected
    chunks.close()
    with pytest.raises(KeyError):
        table.advance(1)


@contextlib.contextmanager
def started(folder: Path, num_chunks: str) -> Iterator["subprocess.Popen[str]"]:
    """Start the program that launches its own workers; it does not outlive the block."""
    command = [sys.executable, str(PROGRAM), str(folder), num_chunks]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
        try:
            yield program
        finally:
            program.kill()


def finish(program: "subprocess.Popen[str]") -> tuple[int, list[str]]:
    """Wait for a program's end, and return its exit code and what it said."""
    _, said = program.communicate(timeout=120)
    return program.returncode, said.splitlines()


def workers_of(folder: Path) -> list[int]:
    """Wait until a stream is under way, and return the processes at work."""
    end = time.monotonic() + 120
    while not (folder / "chunk0").exists():
        assert time.monotonic() < end, "no chunk was made"
        time.sleep(0.02)
    return [int((folder / f"worker{rank}").read_text()) for rank in range(worker_program.NUM_WORKERS)]


def is_running(pid: int) -> bool:
    """Say whether a process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_a_program_launches_its_workers_and_makes_the_frames_of_one_process(tmp_path: Path) -> None:
    with started(tmp_path, "2") as program:
        assert finish(program) == (0, [])
    found = torch.load(tmp_path / "pixels.pt", weights_only=True)
    for own, alone in zip(found, expected_stream(tmp_path, 2), strict=True):
        assert_near(own, *alone)


def expected_stream(folder: Path, num_chunks: int) -> list[tuple[Tensor, float]]:
    """Return the chunks that one process makes, with the limits for other processes."""
    model = build()
    run = partial(worker_program.make_stream, folder=folder, num_chunks=num_chunks)
    return expect_all(lambda: run(StreamTable(model)), *networks_of(model))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_that_dies_amid_a_stream_gives_one_line_and_ends_all(tmp_path: Path, rank: int) -> None:
    line = f"livetalk: error: GPU worker {rank + 1} of 3 was ended by SIGKILL; the others were stopped"
    with started(tmp_path, ENDLESS) as program:
        workers = workers_of(tmp_path)
        os.kill(workers[rank], signal.SIGKILL)
        code, said = finish(program)
        assert (code, said[-1]) == (2, line)
        # The leader is interrupted so that it can keep what it has finished, unless it has failed before.
        assert said[:-1] in ([], ["livetalk: interrupted"])
    assert not any(is_running(pid) for pid in workers)


@pytest.mark.slow
def test_ctrl_c_ends_all(tmp_path: Path) -> None:
    with started(tmp_path, ENDLESS) as program:
        workers = workers_of(tmp_path)
        program.send_signal(signal.SIGINT)
        code, said = finish(program)
        assert code == 130, said
        # Where the signal falls inside an exchange, PyTorch adds a warning of its own.
        assert [line for line in said if line.startswith("livetalk")] == ["livetalk: interrupted"]
        assert not any("Traceback" in line for line in said)
    assert not any(is_running(pid) for pid in workers)


@pytest.mark.slow
def test_workers_end_when_their_launcher_is_killed(tmp_path: Path) -> None:
    with started(tmp_path, ENDLESS) as program:
        workers = workers_of(tmp_path)
        program.kill()
        assert finish(program)[0] == -signal.SIGKILL
    end = time.monotonic() + 10
    while any(is_running(pid) for pid in workers):
        assert time.monotonic() < end, "a worker was left over"
        time.sleep(0.02)


@pytest.mark.slow
def test_torchrun_launches_them_as_well(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*command, str(PROGRAM), str(tmp_path), "1"], check=True, capture_output=True, timeout=240)
    (found,) = torch.load(tmp_path / "pixels.pt", weights_only=True)
    assert_near(found, *expected_stream(tmp_path, 1)[0])


def test_each_worker_has_the_gpu_of_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    place = WorkerPlace(rank=3, num_ranks=4, local_rank=3, rendezvous="env://")
    assert choose_worker_device("cpu", place) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    # Another launcher gives each worker one GPU to see, which is number 0 in every process.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_worker_device("auto", place) == torch.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(InputError, match="GPU worker 4: this machine has 3 GPUs; use fewer"):
        choose_worker_device("auto", place)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert choose_worker_device("auto", place) == torch.device("cuda:3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    require_gpus(4, "auto")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="gpus 4: this machine has 2"):
        require_gpus(4, "auto")


def test_processes_stand_for_gpus_only_where_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    require_gpus(2, "cpu")
    with pytest.raises(InputError, match="gpus 2: this machine has 0; with --device cpu"):
        require_gpus(2, "auto")


def test_a_process_of_another_number_of_gpus_is_refused() -> None:
    place = WorkerPlace(rank=0, num_ranks=4, local_rank=0, rendezvous="env://")
    require_place(place, 4)
    with pytest.raises(InputError, match="gpus 1: was started as one of 4 processes"):
        require_place(place, 1)
    with pytest.raises(InputError, match="gpus 0: at least 1"):
        require_gpus(0, "auto")
