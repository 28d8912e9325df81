"""Write the weights of one network as safetensors, cut into files of bounded size."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from livetalk.checkpoints.tensor_files import INDEX_SUFFIX

MAX_SHARD_BYTES = 4 << 30
"""Size of a shard, and so of what writing holds in host memory."""


@dataclass(frozen=True, slots=True)
class WrittenWeights:
    """The files of one network.

    Attributes:
        entry: the file to open: the only one, or the index of several.
        files: all of them.
    """

    entry: Path
    files: tuple[Path, ...]


def write_shards(
    directory: Path,
    stem: str,
    sizes: Mapping[str, int],
    weights: Iterable[tuple[str, Tensor]],
    *,
    max_bytes: int = MAX_SHARD_BYTES,
) -> WrittenWeights:
    """Write weights as they come; only those of one shard are held.

    Args:
        directory: an existing folder.
        stem: name of the file without `.safetensors`; shards are called `<stem>-00001-of-00002`.
        sizes: bytes of every weight, in the order in which they come.
        weights: by name, in that order, on any device.
        max_bytes: a shard is closed before it grows beyond; a larger weight has one of its own.

    Returns:
        What was written.

    Raises:
        ValueError: other weights come than `sizes` says, or in another order.
        OSError: the disk is full or refuses.
    """
    plan = plan_shards(sizes, max_bytes)
    names = [
        f"{stem}.safetensors" if len(plan) == 1 else f"{stem}-{index:05d}-of-{len(plan):05d}.safetensors"
        for index in range(1, len(plan) + 1)
    ]
    source = iter(weights)
    for name, keys in zip(names, plan, strict=True):
        shard: dict[str, Tensor] = {}
        for key in keys:
            given, weight = next(source, (None, None))
            if given != key or weight is None:
                raise ValueError(f"expected the weight {key}, got {given}")
            shard[key] = weight.detach().to("cpu").contiguous()
        _save(shard, directory / name)
    if (left := next(source, None)) is not None:
        raise ValueError(f"did not expect the weight {left[0]}")
    files = tuple(directory / name for name in names)
    if len(plan) == 1:
        return WrittenWeights(files[0], files)
    index = directory / f"{stem}.safetensors{INDEX_SUFFIX}"
    weight_map = {key: name for name, keys in zip(names, plan, strict=True) for key in keys}
    text = json.dumps({"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}, indent=2)
    index.write_text(text + "\n", encoding="utf-8")
    return WrittenWeights(index, (*files, index))


def plan_shards(sizes: Mapping[str, int], max_bytes: int) -> list[list[str]]:
    """Divide weights of the given sizes, in bytes, into runs of at most `max_bytes`, in order."""
    plan: list[list[str]] = [[]]
    filled = 0
    for key, size in sizes.items():
        if plan[-1] and filled + size > max_bytes:
            plan.append([])
            filled = 0
        plan[-1].append(key)
        filled += size
    return plan


def _save(shard: dict[str, Tensor], path: Path) -> None:
    # The library refuses weights that share memory; a checkpoint holds each of them.
    storages = {weight.untyped_storage().data_ptr() for weight in shard.values() if weight.numel()}
    if len(storages) < sum(1 for weight in shard.values() if weight.numel()):
        shard = {key: weight.clone() for key, weight in shard.items()}
    save_file(shard, path, metadata={"format": "pt"})
    # It also makes files that only their owner can read.
    path.chmod(0o644)
