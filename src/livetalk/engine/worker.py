"""Streams on several GPUs: rank 0 decides what to do next, all ranks do it.

Every rank runs the whole of `livetalk.streaming.chunk`, with the same state and the same noise. Only the
transformer and the VAE, which `spread_model` has altered, share the work and exchange data. So the ranks stay
together, and nothing but sound travels from chunk to chunk.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import torch
import torch.distributed as dist

from livetalk.accelerate.graphs import graph_blocks
from livetalk.assembly.model import AvatarModel, prepare_portrait
from livetalk.assembly.session import plan_session
from livetalk.device import choose_device
from livetalk.engine.commands import (
    BeginChunk,
    CloseStream,
    NextChunk,
    NextPiece,
    OpenStream,
    StopWorkers,
    StreamCommand,
)
from livetalk.engine.group import EXIT_LOST
from livetalk.engine.join import ControlLine, PeerLostError, join_workers
from livetalk.env import WorkerPlace, debug_enabled
from livetalk.errors import InputError, LivetalkError
from livetalk.parallel.mesh import ParallelConfig, build_mesh, choose_degrees
from livetalk.parallel.sequence import meets_in_memory, parallelize_dit
from livetalk.parallel.vae import parallelize_vae
from livetalk.streaming.chunk import create_recorded_state, create_state, generate_chunk, generate_pieces
from livetalk.streaming.conditioning import Prepared
from livetalk.streaming.settings import AudioMode, StreamSettings
from livetalk.streaming.state import StreamState
from livetalk.types import VideoChunk


@dataclass(frozen=True, slots=True)
class _Stream:
    settings: StreamSettings
    prepared: Prepared
    state: StreamState
    pieces: Generator[VideoChunk, None, StreamState] | None = None


class StreamTable:
    """The streams of one model on one rank."""

    def __init__(self, model: AvatarModel) -> None:
        """Start with no stream."""
        self.model = model
        self._streams: dict[int, _Stream] = {}

    @torch.no_grad()
    def run(self, command: StreamCommand) -> VideoChunk | None:
        """Do what a command says.

        Returns:
            The frames of `NextChunk` and of `NextPiece`, on the model's device; None for the others, and for
            `NextPiece` when the chunk has no more.

        Raises:
            InputError: an option cannot be used with this model.
            KeyError: there is no such stream.
            ValueError: `NextPiece` of a chunk that was not begun, or has failed or ended; or the number of
                samples is wrong.
        """
        if isinstance(command, OpenStream):
            self._streams[command.stream] = self._open(command)
        elif isinstance(command, CloseStream):
            del self._streams[command.stream]
        elif isinstance(command, NextPiece):
            return self._next_piece(command.stream)
        else:
            return self._make(command)
        return None

    def _make(self, command: NextChunk | BeginChunk) -> VideoChunk | None:
        stream = self._streams[command.stream]
        inputs = (self.model.executor, stream.settings, stream.prepared, command.samples, stream.state)
        if isinstance(command, BeginChunk):
            self._streams[command.stream] = replace(stream, pieces=generate_pieces(*inputs))
            return None
        chunk, state = generate_chunk(*inputs)
        self._streams[command.stream] = replace(stream, state=state, pieces=None)
        return chunk

    def _next_piece(self, number: int) -> VideoChunk | None:
        stream = self._streams[number]
        if stream.pieces is None:
            raise ValueError(f"stream {number} is not amid a chunk")
        # Not in the table while it runs: one that has failed would say that the chunk has ended.
        self._streams[number] = replace(stream, pieces=None)
        try:
            piece = next(stream.pieces)
        except StopIteration as end:
            self._streams[number] = replace(stream, state=end.value, pieces=None)
            return None
        self._streams[number] = stream
        return piece

    def _open(self, command: OpenStream) -> _Stream:
        session = plan_session(self.model, command.options)
        prepared = prepare_portrait(self.model, session.settings, command.picture, session.prompt)
        create = create_state if session.audio_mode is AudioMode.STREAM else create_recorded_state
        state = create(self.model.executor, session.settings, prepared, session.seed, command.sound)
        return _Stream(session.settings, prepared, state)


class Leader:
    """Rank 0: runs commands on all ranks. As a context manager it sends the others home at the end."""

    def __init__(self, streams: StreamTable, line: ControlLine) -> None:
        """Lead the followers at the other end of a line."""
        self._streams = streams
        self._line = line

    @property
    def model(self) -> AvatarModel:
        """The model of this rank."""
        return self._streams.model

    def run(self, command: StreamCommand) -> VideoChunk | None:
        """Do what a command says on all ranks; see `StreamTable.run`.

        Raises:
            InputError: an option cannot be used with this model; no rank has begun.
            PeerLostError: a follower has gone.
        """
        if isinstance(command, OpenStream):
            plan_session(self._streams.model, command.options)
        if isinstance(command, CloseStream) and not self._line.intact:
            # Nobody listens any more, and the streams end with the processes.
            return None
        with self._line.in_step():
            self._line.send(command)
            return self._streams.run(command)

    def __enter__(self) -> Self:
        """Return the leader."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the followers, if they listen; if not, whoever started them stops them."""
        if self._line.intact:
            self._line.send(StopWorkers())


def follow(streams: StreamTable, line: ControlLine) -> None:
    """Do what the leader says until it says no more.

    Raises:
        PeerLostError: another worker has gone.
    """
    while not isinstance(command := line.receive(), StopWorkers):
        with line.in_step():
            streams.run(command)


def spread_model(model: AvatarModel, config: ParallelConfig | None = None) -> AvatarModel:
    """Let all ranks share the work of a model's transformer and VAE; every rank must call this.

    Args:
        model: with the same weights on every rank; its networks are altered in place. Not used yet: what is
            compiled at its first use would be compiled for one rank.
        config: degrees, or None for those that `choose_degrees` takes.

    Returns:
        The model, whose plan says which tokens this rank computes.

    Raises:
        InputError: the degrees do not fit the number of ranks or of heads.
    """
    networks = model.executor.networks
    dit = networks.dit
    config = config or choose_degrees(dist.get_world_size(), dit.config.num_heads)
    mesh = build_mesh(config, networks.device)
    graphs = model.acceleration is not None and model.acceleration.graphs
    # Collectives in a graph are not tried.
    if graphs and mesh.everyone.size > 1 and meets_in_memory(mesh, dit.config.num_heads):
        graph_blocks(dit)
    tokens = parallelize_dit(dit, mesh)
    parallelize_vae(networks.vae, mesh.everyone)
    if model.executor.plan is None:
        return model
    plan = replace(model.executor.plan, tokens=tokens)
    return replace(model, executor=replace(model.executor, plan=plan))


def choose_worker_device(name: str, place: WorkerPlace | None) -> torch.device:
    """Return the device of this process: with several GPUs, the one of its place.

    Args:
        name: as for `choose_device`.
        place: of this process; None for one that was started alone.

    Raises:
        InputError: there is no such device, or no GPU for this process.
    """
    device = choose_device(name)
    if device.type != "cuda" or place is None:
        return device
    num_visible = torch.cuda.device_count()
    if num_visible == 1:
        # Whoever started the workers gave each a GPU of its own; `join_workers` finds out whether it did.
        return torch.device("cuda", 0)
    if place.local_rank >= num_visible:
        raise InputError(f"GPU worker {place.rank + 1}: this machine has {num_visible} GPUs; use fewer")
    return torch.device("cuda", place.local_rank)


def require_gpus(num_gpus: int, device: str) -> None:
    """Refuse more GPUs than there are, before any process is started.

    Args:
        num_gpus: wanted; with device "cpu", processes stand for them.
        device: as for `choose_device`.

    Raises:
        InputError: there are fewer, or no such device.
    """
    if num_gpus < 1:
        raise InputError(f"gpus {num_gpus}: at least 1 is needed")
    if num_gpus == 1 or device == "cpu":
        return
    there = torch.cuda.device_count() if choose_device(device).type == "cuda" else 0
    if there < num_gpus:
        raise InputError(
            f"gpus {num_gpus}: this machine has {there}; with --device cpu, processes stand for GPUs"
        )


def require_place(place: WorkerPlace, num_gpus: int) -> None:
    """Refuse to be one of another number of processes than was asked for.

    Raises:
        InputError: the numbers differ.
    """
    if place.num_ranks != num_gpus:
        raise InputError(f"gpus {num_gpus}: was started as one of {place.num_ranks} processes")


def run_worker(
    place: WorkerPlace,
    device: torch.device,
    build: Callable[[], AvatarModel],
    lead: Callable[[Leader], int],
) -> int:
    """Live the whole life of one of several workers.

    Args:
        place: of this process, from `livetalk.env.worker_place`.
        device: where it computes, such as `cuda:<local rank>`.
        build: makes the model on that device, with the same weights on every rank.
        lead: what the leader does; the followers do what it says.

    Returns:
        The exit code: that of `lead`, 0 for followers, `EXIT_LOST` when another worker has gone.

    Raises:
        LivetalkError: on the leader, what the user can mend, on whichever rank it was; `lead` and `build` may
            raise anything else, too.
    """
    try:
        with join_workers(place, device) as line:
            model = _build_together(build, line)
            streams = StreamTable(spread_model(model))
            if line.leads:
                with Leader(streams, line) as leader:
                    return lead(leader)
            follow(streams, line)
    except PeerLostError:
        if debug_enabled():
            raise
        return EXIT_LOST
    except LivetalkError:
        # What the ranks do together goes wrong on all of them together: one of them says it.
        if place.rank == 0:
            raise
        return EXIT_LOST
    return 0


def _build_together(build: Callable[[], AvatarModel], line: ControlLine) -> AvatarModel:
    """Build the model on every rank, or on none."""
    model, failure = None, None
    try:
        model = build()
    except (LivetalkError, MemoryError, torch.OutOfMemoryError) as error:
        failure = error
    line.agree(failure)
    assert model is not None
    return model
