"""A worker's view of its group: rendezvous, the control channel, and detection of lost peers."""

import contextlib
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from livetalk.env import WorkerPlace, keep_multicast_off
from livetalk.errors import InputError, LivetalkError, PeerLostError
from livetalk.parallel.reach import device_uuid

_PATIENCE = timedelta(days=30)
"""How long followers wait for the next call: a stream may be idle for days."""

_FAILURE_PATIENCE = timedelta(seconds=30)
"""How long after its failure on one rank a call may take to fail on the others."""

_GONE = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "remote process exit",
)
"""Messages of gloo, the system and NCCL when the process at the other end has ended."""


class ControlChannel:
    """Carries small Python objects from the leader to the followers, apart from the networks' collectives.

    Attributes:
        leads: this is the leader.
        intact: all ranks have run the same calls until now.
    """

    def __init__(self) -> None:
        """Open a channel between all ranks; every rank must do so."""
        self.leads = dist.get_rank() == 0
        self.intact = True
        # On the host, so that waiting for a command keeps no GPU busy and no copy stands between.
        self._group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        self._failures = dist.new_group(backend="gloo", timeout=_FAILURE_PATIENCE)

    def send(self, message: object) -> None:
        """Send an object to all followers.

        Raises:
            PeerLostError: a follower was lost.
        """
        with self.in_step():
            dist.broadcast_object_list([message], src=0, group=self._group)

    def receive(self) -> Any:
        """Wait for the leader's next object.

        Raises:
            PeerLostError: the leader was lost.
        """
        box: list[Any] = [None]
        with self.in_step():
            dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def agree(self, failure: Exception | None) -> None:
        """Exchange the outcome of every rank; every rank must call this.

        Args:
            failure: an error of this rank that the user can fix, or None.

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

    def confirm_failure(self, failed: bool) -> None:
        """Check that a call has failed on all ranks; every rank must call this.

        Args:
            failed: whether it failed on this rank.

        Raises:
            PeerLostError: it failed on some ranks only, whose states now differ.
        """
        answers: list[Any] = [None] * dist.get_world_size()
        try:
            dist.all_gather_object(answers, failed, group=self._failures)
        except RuntimeError as error:
            raise PeerLostError("another GPU worker does not answer") from error
        if not all(answers):
            raise PeerLostError("a command has failed on some GPU workers and not on others")

    def wait_for_all(self) -> None:
        """Return when all ranks have called this.

        Raises:
            PeerLostError: a rank does not.
        """
        try:
            dist.barrier(group=self._failures)
        except RuntimeError as error:
            raise PeerLostError("another GPU worker does not answer") from error

    @contextlib.contextmanager
    def in_step(self) -> Iterator[None]:
        """Run a block that all ranks run. An interruption leaves the peers waiting, and marks the channel.

        Raises:
            PeerLostError: a peer was lost.
        """
        try:
            with noticing_loss():
                yield
        except BaseException:
            self.intact = False
            raise


@contextlib.contextmanager
def join_workers(place: WorkerPlace, device: torch.device) -> Iterator[ControlChannel]:
    """Join the worker group for the duration of a block.

    Args:
        place: of this process.
        device: where it computes, see `choose_worker_device`.

    Yields:
        The control channel between leader and followers.

    Raises:
        InputError: two workers were given the same GPU; raised on all of them.
    """
    keep_multicast_off()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with noticing_loss():
        store = _meet(place)
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
    # With exchanges under way this would wait for ranks that do something else, or are gone.
    if channel.intact:
        dist.destroy_process_group()


def require_own_gpus(uuids: Sequence[str]) -> None:
    """Raise an error where two workers were given the same GPU.

    Args:
        uuids: of the workers' GPUs, by rank.

    Raises:
        InputError: two of them are equal.
    """
    for rank, uuid in enumerate(uuids):
        if (first := uuids.index(uuid)) < rank:
            raise InputError(
                f"gpus {len(uuids)}: workers {first + 1} and {rank + 1} were given the same GPU ({uuid}); "
                "start fewer, or give each a GPU of its own"
            )


def _meet(place: WorkerPlace) -> Store:
    """Return the store that all workers share."""
    store, _, _ = next(iter(rendezvous(place.rendezvous, place.rank, place.num_ranks)))
    shared: Store = store
    return shared


def _tell_all(store: Store, place: WorkerPlace, word: str) -> list[str]:
    """Exchange a string with all workers, and return the strings by rank."""
    store.set(f"word{place.rank}", word)
    return [store.get(f"word{rank}").decode() for rank in range(place.num_ranks)]


@contextlib.contextmanager
def noticing_loss() -> Iterator[None]:
    """Turn errors caused by the end of a peer into `PeerLostError`."""
    try:
        yield
    except RuntimeError as error:
        if is_loss(error):
            raise PeerLostError("another GPU worker has gone") from error
        raise


def is_loss(error: Exception) -> bool:
    """Return whether an error means that a peer was lost."""
    said = str(error).lower()
    return isinstance(error, PeerLostError) or (
        isinstance(error, RuntimeError) and any(words in said for words in _GONE)
    )
