"""Device mesh: the ranks that run one model together."""

from dataclasses import dataclass

import torch
import torch.distributed as dist

from livetalk.errors import InputError
from livetalk.parallel.reach import find_non_peer_pair


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelConfig:
    """Degrees of sequence parallelism; their product is the number of ranks."""

    ulysses_degree: int  # ranks that exchange tokens for heads, at most the number of heads
    ring_degree: int = 1  # number of such groups; keys and values travel from group to group

    def __post_init__(self) -> None:
        if self.ulysses_degree < 1 or self.ring_degree < 1:
            raise InputError(
                f"parallel degrees {self.ulysses_degree} x {self.ring_degree}: must be 1 or more"
            )

    @property
    def num_ranks(self) -> int:
        return self.ulysses_degree * self.ring_degree


@dataclass(frozen=True, slots=True)
class Axis:
    """The ranks that exchange data with this one; `group_name` is empty for a single rank."""

    group_name: str
    rank: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelMesh:
    """All axes of a mesh."""

    world: Axis  # all ranks; tokens and lines of pixels are sharded over it
    ulysses: Axis  # consecutive ranks that form this rank's group
    ring: Axis  # the ranks with the same index in the other groups
    device: torch.device  # of this rank
    # Two ranks whose GPUs cannot access each other's memory.
    non_peer_pair: tuple[int, int] | None = None


def choose_degrees(num_ranks: int, num_heads: int) -> ParallelConfig:
    """Return the default degrees: a ring only if there are more ranks than heads."""
    # The heads need not divide: 40 heads on 3 ranks are 14, 13 and 13, which costs less than the additional
    # passes of a ring.
    ulysses = max(d for d in range(1, num_ranks + 1) if num_ranks % d == 0 and d <= num_heads)
    return ParallelConfig(ulysses_degree=ulysses, ring_degree=num_ranks // ulysses)


def build_mesh(config: ParallelConfig, device: torch.device) -> ParallelMesh:
    """Build the mesh over the default process group; collective.

    Raises:
        InputError: the number of ranks is not the product of the degrees.
    """
    num_ranks, rank = dist.get_world_size(), dist.get_rank()
    if config.num_ranks != num_ranks:
        raise InputError(
            f"parallel degrees {config.ulysses_degree} x {config.ring_degree}: make {config.num_ranks} "
            f"ranks, but {num_ranks} are running"
        )
    size = config.ulysses_degree
    # Ulysses carries most of the data, and consecutive ranks usually have the fastest links.
    groups = [tuple(range(start, start + size)) for start in range(0, num_ranks, size)]
    rings = [tuple(range(start, num_ranks, size)) for start in range(size)]
    world = _open_axis([tuple(range(num_ranks))], rank)
    return ParallelMesh(
        world=world,
        ulysses=_open_axis(groups, rank),
        ring=_open_axis(rings, rank),
        device=device,
        non_peer_pair=find_non_peer_pair(device),
    )


def _open_axis(lines: list[tuple[int, ...]], rank: int) -> Axis:
    """Open a process group for each tuple of ranks; returns the axis that contains this rank."""
    own = next(line for line in lines if rank in line)
    rank_on_axis = own.index(rank)
    if len(own) == 1:
        return Axis("", rank_on_axis, 1)
    if len(lines) == 1:
        return Axis(_group_name(dist.group.WORLD), rank_on_axis, len(own))
    # new_group is collective: all ranks call it in the same order, members or not.
    opened = {line: dist.new_group(list(line)) for line in lines}
    return Axis(_group_name(opened[own]), rank_on_axis, len(own))


def _group_name(group: dist.ProcessGroup | None) -> str:
    if group is None:
        raise ValueError("no process group; initialise torch.distributed first")
    name: str = group.group_name
    return name
