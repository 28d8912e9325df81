"""One of several processes that compute a model together."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import torch
import torch.distributed as dist

from livetalk.accelerate.graphs import graph_blocks
from livetalk.assembly.model import AvatarModel
from livetalk.device import choose_device
from livetalk.engine.group import EXIT_LOST
from livetalk.engine.join import ControlChannel, join_workers
from livetalk.engine.leader import Leader, follow
from livetalk.engine.table import StreamTable
from livetalk.env import WorkerPlace, debug_enabled
from livetalk.errors import InputError, LivetalkError, PeerLostError
from livetalk.models.vae import CausalVideoVAE
from livetalk.parallel.mesh import ParallelConfig, build_mesh, choose_degrees
from livetalk.parallel.sequence import parallelize_dit, uses_peer_memory
from livetalk.parallel.vae import parallelize_vae


def parallelize_model(model: AvatarModel, config: ParallelConfig | None = None) -> AvatarModel:
    """Split the work of a model's transformer and VAE between all ranks; collective.

    Args:
        model: with the same weights on every rank; its networks are modified in place. It must not have run
            yet, since lazily compiled kernels would be compiled for one rank.
        config: degrees of parallelism; None uses `choose_degrees`.

    Returns:
        The model, whose plan contains the tokens that this rank computes.

    Raises:
        InputError: the degrees do not fit the number of ranks or heads.
    """
    networks = model.executor.networks
    dit = networks.dit
    config = config or choose_degrees(dist.get_world_size(), dit.config.num_heads)
    mesh = build_mesh(config, networks.device)
    graphs = model.acceleration is not None and model.acceleration.graphs
    # Only exchanges through peer memory are captured; NCCL collectives in a graph are untested.
    if graphs and mesh.world.size > 1 and uses_peer_memory(mesh, dit.config.num_heads):
        graph_blocks(dit)
    tokens = parallelize_dit(dit, mesh)
    parallelize_vae(networks.vae, mesh.world)
    if model.executor.plan is None:
        return model
    plan = replace(model.executor.plan, tokens=tokens)
    return replace(model, executor=replace(model.executor, plan=plan))


def choose_worker_device(name: str, place: WorkerPlace | None) -> torch.device:
    """Return the device of this process, with several visible GPUs the one of its local rank.

    `name` is as for `choose_device`; `place` is None for a single process.

    Raises:
        InputError: no such device, or no GPU for this process.
    """
    device = choose_device(name)
    if device.type != "cuda" or place is None:
        return device
    num_visible = torch.cuda.device_count()
    if num_visible == 1:
        # The launcher gave each worker one visible GPU; `join_workers` checks that they differ.
        return torch.device("cuda", 0)
    if place.local_rank >= num_visible:
        raise InputError(f"GPU worker {place.rank + 1}: this machine has {num_visible} GPUs; use fewer")
    return torch.device("cuda", place.local_rank)


def require_gpus(num_gpus: int, device: str) -> None:
    """Raise `InputError`, before any process starts, where fewer than `num_gpus` GPUs exist.

    With device "cpu", processes stand for GPUs.
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
    """Raise `InputError` where the group has another size than `gpus` requests."""
    if place.num_ranks != num_gpus:
        raise InputError(f"gpus {num_gpus}: was started as one of {place.num_ranks} processes")


def run_worker(
    place: WorkerPlace,
    device: torch.device,
    build: Callable[[], AvatarModel],
    lead: Callable[[Leader], int],
    *,
    beside: bool = False,
) -> int:
    """Run one of several workers from start-up to exit.

    Args:
        place: from `livetalk.env.worker_place`.
        device: from `choose_worker_device`.
        build: builds the model on that device with the same weights on every rank.
        lead: runs on the leader; the followers repeat its calls.
        beside: encode portraits in parallel with chunks, see `StreamTable`.

    Returns:
        The exit code of `lead`, 0 for followers, or `EXIT_LOST` when another worker was lost.

    Raises:
        LivetalkError: on the leader, for an error of any rank that the user can fix.
    """
    try:
        with join_workers(place, device) as channel:
            model = _build_together(build, channel)
            # A portrait is encoded by the leader alone, so it needs a VAE without collectives.
            vae = share_weights(model.executor.networks.vae)
            table = StreamTable(parallelize_model(model), vae, beside=beside)
            if channel.leads:
                with Leader(table, channel) as leader:
                    return lead(leader)
            follow(table, channel)
    except PeerLostError:
        if debug_enabled():
            raise
        return EXIT_LOST
    except LivetalkError:
        # Joint calls fail on all ranks, so one of them reports the error.
        if place.rank == 0:
            raise
        return EXIT_LOST
    return 0


def share_weights(vae: CausalVideoVAE) -> CausalVideoVAE:
    """Return a VAE with layers of its own and the same weights."""
    # Entries of the memo are not copied, so the copy refers to the same tensors.
    tensors = (*vae.parameters(), *vae.buffers())
    return deepcopy(vae, {id(tensor): tensor for tensor in tensors})


def _build_together(build: Callable[[], AvatarModel], channel: ControlChannel) -> AvatarModel:
    """Build the model on every rank, or on none."""
    model, failure = None, None
    try:
        model = build()
    except (LivetalkError, MemoryError, torch.OutOfMemoryError) as error:
        failure = error
    channel.agree(failure)
    assert model is not None
    return model
