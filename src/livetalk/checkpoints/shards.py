"""Writing of a network's weights as safetensors files of bounded size."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from livetalk.checkpoints.tensor_files import INDEX_SUFFIX

MAX_SHARD_BYTES = 4 << 30
"""Size of a shard, which bounds the host memory that writing needs."""


@dataclass(frozen=True, slots=True)
class WrittenWeights:
    """The files of one network."""

    entry: Path  # the only weight file, or the index of several
    files: tuple[Path, ...]


def write_shards(
    directory: Path,
    stem: str,
    sizes: Mapping[str, int],
    weights: Iterable[tuple[str, Tensor]],
    *,
    max_bytes: int = MAX_SHARD_BYTES,
) -> WrittenWeights:
    """Write weights, on any device, in the order in which they arrive, holding one shard in host memory.

    `sizes` has the bytes of every weight in order of arrival. Files are named `<stem>.safetensors` or
    `<stem>-00001-of-00002.safetensors`. A weight larger than `max_bytes` gets a shard of its own.

    Raises:
        ValueError: names or order of the weights differ from `sizes`.
        OSError: the disk is full or not writable.
    """
    # Planned from the sizes, because file names contain the number of shards.
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
    """Split weights, given their sizes in bytes, into consecutive shards of at most `max_bytes`."""
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
    # safetensors rejects weights that share memory, but a checkpoint contains each of them.
    storages = {weight.untyped_storage().data_ptr() for weight in shard.values() if weight.numel()}
    if len(storages) < sum(1 for weight in shard.values() if weight.numel()):
        shard = {key: weight.clone() for key, weight in shard.items()}
    save_file(shard, path, metadata={"format": "pt"})
    # It also creates files that only their owner can read.
    path.chmod(0o644)
