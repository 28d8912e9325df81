"""A worker's side of the work: meet the others, pass on what to do next, notice when they are gone."""

import contextlib
import os
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from livetalk.engine.launch import EXIT_LOST
from livetalk.env import WorkerPlace, keep_multicast_off
from livetalk.errors import InputError, LivetalkError

_PATIENCE = timedelta(days=30)
"""Followers wait so long for the next thing to do."""

_GONE = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "remote process exit",
)
"""What gloo, the system and NCCL say when a process at the other end has ended."""


class PeerLostError(Exception):
    """Another worker has gone. Whoever started the workers knows which, and why."""


class ControlLine:
    """Passes small Python objects from the leader to the followers, beside the exchanges of the networks.

    Attributes:
        leads: this is the leader.
        intact: all ranks have done the same until now.
    """

    def __init__(self) -> None:
        """Open a line between all ranks; every rank must do so."""
        self.leads = dist.get_rank() == 0
        self.intact = True
        # On the host, so that waiting for a command keeps no GPU busy and no copy stands between.
        self._group = dist.new_group(backend="gloo", timeout=_PATIENCE)

    def send(self, message: object) -> None:
        """Pass an object to all followers.

        Raises:
            PeerLostError: a follower has gone.
        """
        with self.in_step():
            dist.broadcast_object_list([message], src=0, group=self._group)

    def receive(self) -> Any:
        """Wait for the leader's next object.

        Raises:
            PeerLostError: the leader has gone.
        """
        box: list[Any] = [None]
        with self.in_step():
            dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def agree(self, failure: Exception | None) -> None:
        """Tell all ranks how each has fared; every rank must call this.

        Args:
            failure: this rank's, which the user can mend; None for none.

        Raises:
            PeerLostError: on a follower, when any rank has failed: the leader says so, once for all.
            Exception: on the leader, `failure` itself, or a `LivetalkError` that names the rank that failed.
        """
        words: list[Any] = [None] * dist.get_world_size()
        with self.in_step():
            dist.all_gather_object(words, None if failure is None else str(failure), group=self._group)
        failed = [rank for rank, word in enumerate(words) if word is not None]
        if failed and not self.leads:
            raise PeerLostError("the work cannot begin; the leader says why")
        if failure is not None:
            raise failure
        if failed:
            raise LivetalkError(f"GPU worker {failed[0] + 1} of {len(words)}: {words[failed[0]]}")

    @contextlib.contextmanager
    def in_step(self) -> Iterator[None]:
        """Do something that all ranks do. Cut short, even by Ctrl-C, it leaves the others waiting for ever.

        Raises:
            PeerLostError: another worker has gone.
        """
        try:
            with noticing_loss():
                yield
        except BaseException:
            self.intact = False
            raise


@contextlib.contextmanager
def join_workers(place: WorkerPlace, device: torch.device) -> Iterator[ControlLine]:
    """Meet the other workers, for the length of a block.

    Args:
        place: of this process.
        device: where it computes.

    Yields:
        The line between leader and followers.

    Raises:
        InputError: there are fewer GPUs than workers.
    """
    # Asked alike on all ranks, so that all of them see the same fault.
    if device.type == "cuda" and torch.cuda.device_count() < place.num_ranks:
        raise InputError(f"gpus {place.num_ranks}: this machine has {torch.cuda.device_count()}; use fewer")
    if place.lifeline is not None:
        threading.Thread(target=_end_with, args=(place.lifeline,), daemon=True).start()
    keep_multicast_off()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=place.rendezvous,
        rank=place.rank,
        world_size=place.num_ranks,
        device_id=device if device.type == "cuda" else None,
    )
    with noticing_loss():
        line = ControlLine()
    yield line
    # With exchanges under way this would wait for ranks that do something else, or are gone.
    if line.intact:
        dist.destroy_process_group()


@contextlib.contextmanager
def noticing_loss() -> Iterator[None]:
    """Turn the errors that the end of another worker causes into `PeerLostError`."""
    try:
        yield
    except RuntimeError as error:
        if any(word in str(error).lower() for word in _GONE):
            raise PeerLostError("another GPU worker has gone") from error
        raise


def _end_with(lifeline: int) -> None:
    """End this process, whatever it is at, when the one that started it ends."""
    os.read(lifeline, 1)
    os._exit(EXIT_LOST)
