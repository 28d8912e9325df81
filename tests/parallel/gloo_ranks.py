"""Run a function on several processes that exchange tensors, and collect what each returns."""

import multiprocessing
import pickle
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from livetalk.env import keep_multicast_off

TIMEOUT_SECONDS = 120.0

_PRELOADED = [
    "torch",
    "torch.distributed",
    "torch._dynamo",
    "livetalk.numerics.compare",
    "livetalk.parallel.vae",
]
"""Imported once by the fork server; custom operators need PyTorch's compiler."""


def run_ranks(function: Callable[..., Any], num_ranks: int, *args: Any, backend: str = "gloo") -> list[Any]:
    """Call `function(*args)` on every rank of a new process group.

    Args:
        function: of a module; it finds its rank by `torch.distributed`.
        num_ranks: processes.
        *args: picklable.
        backend: "gloo" for the CPU, "nccl" for one GPU per rank.

    Returns:
        The ranks' results, in order.

    Raises:
        AssertionError: a rank failed; the message has its traceback.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        # Sent as bytes: torch would send tensors as shared memory that is freed when its process ends.
        call = pickle.dumps((function, args))
        store = (Path(folder) / "store").as_uri()
        pipes = [context.Pipe(duplex=False) for _ in range(num_ranks)]
        ranks = [
            context.Process(target=_run_rank, args=(pipe[1], rank, num_ranks, (backend, store), call))
            for rank, pipe in enumerate(pipes)
        ]
        for rank in ranks:
            rank.start()
        try:
            return [_receive(pipe[0], rank) for rank, pipe in enumerate(pipes)]
        finally:
            for rank in ranks:
                rank.join(timeout=1)
                if rank.is_alive():
                    rank.kill()
                    rank.join()


def _receive(pipe: Connection, rank: int) -> Any:
    assert pipe.poll(TIMEOUT_SECONDS), f"rank {rank} did not answer"
    failure, result = pickle.loads(pipe.recv_bytes())
    assert failure is None, f"rank {rank}: {failure}"
    return result


def _run_rank(pipe: Connection, rank: int, num_ranks: int, rendezvous: tuple[str, str], call: bytes) -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    backend, store = rendezvous
    if backend == "nccl":
        keep_multicast_off()
        torch.cuda.set_device(rank)
    dist.init_process_group(backend, init_method=store, rank=rank, world_size=num_ranks)
    try:
        function, args = pickle.loads(call)
        answer = (None, function(*args))
    except Exception:  # noqa: BLE001  any failure is reported by the test
        answer = (traceback.format_exc(), None)
    pipe.send_bytes(pickle.dumps(answer))
    dist.destroy_process_group()
