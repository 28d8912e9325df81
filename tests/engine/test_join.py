import ast
import os
from pathlib import Path

import pytest

import livetalk
from livetalk.engine.join import noticing_loss, require_own_gpus
from livetalk.env import WorkerPlace, worker_place
from livetalk.errors import InputError, PeerLostError

SOURCE = Path(livetalk.__file__).parent


def test_a_process_that_was_started_alone_has_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert worker_place() is None


def test_torchrun_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert worker_place() == WorkerPlace(rank=3, num_ranks=4, local_rank=1, rendezvous="env://")


def test_workers_with_one_gpu_between_them_are_refused() -> None:
    require_own_gpus(["GPU-a", "GPU-b", "GPU-c"])
    with pytest.raises(InputError, match=r"gpus 3: workers 1 and 3 were given the same GPU \(GPU-a\)"):
        require_own_gpus(["GPU-a", "GPU-b", "GPU-a"])


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
