"""The ranks that work on one stream together."""

from dataclasses import dataclass

import torch
import torch.distributed as dist

from livetalk.errors import InputError
from livetalk.parallel.reach import find_unreachable_pair


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelConfig:
    """How the tokens of a window are shared out; the product of the degrees is the number of ranks.

    Attributes:
        ulysses_degree: ranks that exchange tokens for heads before attention. Each then holds some heads of
            many tokens, so there may not be more of these ranks than heads.
        ring_degree: groups of such ranks; keys and values travel from group to group.
    """

    ulysses_degree: int
    ring_degree: int = 1

    def __post_init__(self) -> None:
        """Refuse degrees below one."""
        if self.ulysses_degree < 1 or self.ring_degree < 1:
            raise InputError(
                f"parallel degrees {self.ulysses_degree} x {self.ring_degree}: must be 1 or more"
            )

    @property
    def num_ranks(self) -> int:
        """Ranks that the degrees need."""
        return self.ulysses_degree * self.ring_degree


@dataclass(frozen=True, slots=True)
class Axis:
    """Ranks that exchange data with one another, as one of them sees it.

    Attributes:
        group_name: of the process group; empty for a single rank, which has nobody to talk to.
        rank: place of this process.
        size: number of ranks.
    """

    group_name: str
    rank: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelMesh:
    """All axes. Neighbouring ranks share a `ulysses` axis, for it carries the most data.

    Attributes:
        everyone: all ranks; tokens and columns of pixels are cut along it.
        ulysses: the ranks of this one's group.
        ring: the ranks with the same place in the other groups.
        device: where this rank computes.
        apart: two ranks whose GPUs cannot reach each other's memory; None for none.
    """

    everyone: Axis
    ulysses: Axis
    ring: Axis
    device: torch.device
    apart: tuple[int, int] | None = None


def choose_degrees(num_ranks: int, num_heads: int) -> ParallelConfig:
    """Return the degrees to take where nobody asks for others: no ring as long as there are heads enough.

    Heads need not divide: 40 heads on 3 ranks are 14, 13 and 13, which costs less than a ring's extra passes.
    """
    ulysses = max(d for d in range(1, num_ranks + 1) if num_ranks % d == 0 and d <= num_heads)
    return ParallelConfig(ulysses_degree=ulysses, ring_degree=num_ranks // ulysses)


def build_mesh(config: ParallelConfig, device: torch.device) -> ParallelMesh:
    """Arrange the ranks of the default process group; every rank must call this.

    Args:
        config: the degrees.
        device: where this rank computes.

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
    groups = [tuple(range(start, start + size)) for start in range(0, num_ranks, size)]
    rings = [tuple(range(start, num_ranks, size)) for start in range(size)]
    everyone = _open_axis([tuple(range(num_ranks))], rank)
    return ParallelMesh(
        everyone=everyone,
        ulysses=_open_axis(groups, rank),
        ring=_open_axis(rings, rank),
        device=device,
        apart=find_unreachable_pair(device),
    )


def _open_axis(lines: list[tuple[int, ...]], rank: int) -> Axis:
    """Open a process group for each line of ranks, and return the axis along the own line."""
    own = next(line for line in lines if rank in line)
    place = own.index(rank)
    if len(own) == 1:
        return Axis("", place, 1)
    if len(lines) == 1:
        return Axis(_group_name(dist.group.WORLD), place, len(own))
    # Groups are opened by all ranks together, in the same order, members or not.
    opened = {line: dist.new_group(list(line)) for line in lines}
    return Axis(_group_name(opened[own]), place, len(own))


def _group_name(group: dist.ProcessGroup | None) -> str:
    if group is None:
        raise ValueError("no process group; initialise torch.distributed first")
    name: str = group.group_name
    return name
