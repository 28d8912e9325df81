"""A worker's view of its group: rendezvous, the control channel, and detection of lost peers."""

import contextlib
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from livetalk.env import FROM_ENVIRONMENT, WorkerPlace, keep_multicast_off, require_meeting_point
from livetalk.errors import InputError, LivetalkError, PeerLostError
from livetalk.parallel.reach import device_uuid

_PATIENCE = timedelta(days=30)
"""Timeout of followers that wait for the next call: a stream may be idle for days."""

_FAILURE_PATIENCE = timedelta(seconds=30)
"""Time within which a call that failed on one rank must have failed on the others."""

_GONE = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "remote process exit",
)
"""Parts of messages from gloo, the operating system and NCCL after a peer process has ended."""


class ControlChannel:
    """Carries small Python objects from the leader to the followers, apart from the networks' collectives."""

    def __init__(self) -> None:
        """Open a channel between all ranks; collective."""
        self.leads = dist.get_rank() == 0
        # All ranks have completed the same calls so far.
        self.intact = True
        # Gloo instead of NCCL: an NCCL kernel that waits for a command would occupy the GPU, and the objects
        # would have to be copied to it first.
        self._group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        self._failures = dist.new_group(backend="gloo", timeout=_FAILURE_PATIENCE)

    def send(self, message: object) -> None:
        """Send an object to all followers; `PeerLostError` if one was lost."""
        with self.in_step():
            dist.broadcast_object_list([message], src=0, group=self._group)

    def receive(self) -> Any:
        """Wait for the leader's next object; `PeerLostError` if it was lost."""
        box: list[Any] = [None]
        with self.in_step():
            dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def agree(self, failure: Exception | None) -> None:
        """Exchange the outcomes of all ranks; collective.

        Args:
            failure: an error of this rank that the user can fix, or None.

        Raises:
            PeerLostError: on a follower, if any rank has failed; the leader reports the error.
            Exception: on the leader: `failure`, or a `LivetalkError` that names the rank that failed.
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

    def confirm_failure(self, failed: bool) -> None:
        """Check that a call has failed on all ranks; collective.

        Raises:
            PeerLostError: it failed on some ranks only, so that their states differ.
        """
        answers: list[Any] = [None] * dist.get_world_size()
        try:
            dist.all_gather_object(answers, failed, group=self._failures)
        except RuntimeError as error:
            raise PeerLostError("another GPU worker does not answer") from error
        if not all(answers):
            raise PeerLostError("a command has failed on some GPU workers and not on others")

    def wait_for_all(self) -> None:
        """Return when all ranks have called this; `PeerLostError` if one does not."""
        try:
            dist.barrier(group=self._failures)
        except RuntimeError as error:
            raise PeerLostError("another GPU worker does not answer") from error

    @contextlib.contextmanager
    def in_step(self) -> Iterator[None]:
        """Mark a block that all ranks run; `PeerLostError` if a peer is lost in it."""
        try:
            with noticing_loss():
                yield
        except BaseException:
            # The peers may now wait within a collective that this rank has left.
            self.intact = False
            raise


@contextlib.contextmanager
def join_workers(place: WorkerPlace, device: torch.device) -> Iterator[ControlChannel]:
    """Join the worker group for a block, and yield the control channel.

    Args:
        place: rank and rendezvous of this process.
        device: from `choose_worker_device`.

    Raises:
        InputError: two workers have the same GPU; raised on all ranks.
    """
    keep_multicast_off()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with noticing_loss():
        store = _meet(place)
        # NCCL would hang or crash on two ranks with one GPU, so the ranks compare before they initialize it.
        uuids = _tell_all(store, place, device_uuid(device)) if device.type == "cuda" else []
    require_own_gpus(uuids)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore("group", store),
        rank=place.rank,
        world_size=place.num_ranks,
        device_id=device if device.type == "cuda" else None,
    )
    with noticing_loss():
        channel = ControlChannel()
    yield channel
    # With collectives pending, destroying the group would wait for ranks that are elsewhere or gone.
    if channel.intact:
        dist.destroy_process_group()


def require_own_gpus(uuids: Sequence[str]) -> None:
    """Raise `InputError` where two workers, whose GPUs' UUIDs are given by rank, share a GPU."""
    for rank, uuid in enumerate(uuids):
        if (first := uuids.index(uuid)) < rank:
            raise InputError(
                f"gpus {len(uuids)}: workers {first + 1} and {rank + 1} were given the same GPU ({uuid}); "
                "start fewer, or give each a GPU of its own"
            )


def _meet(place: WorkerPlace) -> Store:
    """Return the store that all workers share."""
    if place.rendezvous == FROM_ENVIRONMENT:
        require_meeting_point()
    store, _, _ = next(iter(rendezvous(place.rendezvous, place.rank, place.num_ranks)))
    shared: Store = store
    return shared


def _tell_all(store: Store, place: WorkerPlace, word: str) -> list[str]:
    """Exchange a string with all workers; returns the strings by rank."""
    store.set(f"word{place.rank}", word)
    return [store.get(f"word{rank}").decode() for rank in range(place.num_ranks)]


@contextlib.contextmanager
def noticing_loss() -> Iterator[None]:
    """Convert errors caused by the end of a peer into `PeerLostError`."""
    try:
        yield
    except RuntimeError as error:
        if is_loss(error):
            raise PeerLostError("another GPU worker has gone") from error
        raise


def is_loss(error: Exception) -> bool:
    """Return whether an error means that a peer was lost."""
    # PyTorch's error classes do not single out a lost peer; only the message does.
    said = str(error).lower()
    return isinstance(error, PeerLostError) or (
        isinstance(error, RuntimeError) and any(words in said for words in _GONE)
    )
