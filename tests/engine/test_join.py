import ast
import os
from pathlib import Path

import pytest
import torch

import livetalk
from livetalk.engine.join import PeerLostError, join_workers, noticing_loss
from livetalk.env import WorkerPlace, worker_environment, worker_place
from livetalk.errors import InputError

SOURCE = Path(livetalk.__file__).parent


def test_a_process_that_was_started_alone_has_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert worker_place() is None


def test_a_place_survives_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    place = WorkerPlace(rank=2, num_ranks=4, local_rank=2, rendezvous="file:///somewhere", lifeline=7)
    for name, value in worker_environment(place).items():
        monkeypatch.setenv(name, value)
    assert worker_place() == place


def test_torchrun_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert worker_place() == WorkerPlace(rank=3, num_ranks=4, local_rank=1, rendezvous="env://")


def test_more_workers_than_gpus_are_refused() -> None:
    num_ranks = torch.cuda.device_count() + 1
    place = WorkerPlace(rank=0, num_ranks=num_ranks, local_rank=0, rendezvous="file:///nowhere")
    with (
        pytest.raises(InputError, match=f"gpus {num_ranks}: this machine has {num_ranks - 1}; use fewer"),
        join_workers(place, torch.device("cuda", 0)),
    ):
        raise AssertionError("they must not meet")


@pytest.mark.parametrize(
    "words", ["Connection closed by peer [127.0.0.1]:1", "NCCL error: remote process exited"]
)
def test_the_loss_of_a_peer_is_told_from_other_errors(words: str) -> None:
    with pytest.raises(PeerLostError), noticing_loss():
        raise RuntimeError(words)
    with pytest.raises(RuntimeError, match="NCCL"), noticing_loss():
        raise RuntimeError("NCCL error: invalid usage")


def test_only_one_module_reads_the_environment() -> None:
    # ruff's ban is lifted, with others, where torch.distributed may be used.
    assert "PATH" in os.environ
    readers = [
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "putenv")
    ]
    assert set(readers) == {"env.py"}


def test_ranks_exist_in_few_places() -> None:
    users = {
        path.relative_to(SOURCE).parts[0]
        for path in SOURCE.rglob("*.py")
        if "torch.distributed" in path.read_text(encoding="utf-8")
    }
    assert users <= {"parallel", "engine", "bench", "training"}
