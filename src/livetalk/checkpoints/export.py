"""Export of a published model to this package's format, which contains only the weights that are used.

The exported folder is self-contained, and `find_published` opens it like the original. The linear layers of
the transformer can be quantized to one byte per weight, which halves the size.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from livetalk.checkpoints.config_json import config_to_json
from livetalk.checkpoints.layouts import EXPORTED_TOKENIZER, PublishedFiles
from livetalk.checkpoints.manifest import Manifest, describe_file, write_manifest
from livetalk.checkpoints.published import PART_NAMES, PartName, PublishedNetwork, open_part
from livetalk.checkpoints.shards import MAX_SHARD_BYTES, WrittenWeights, write_shards
from livetalk.checkpoints.streaming_load import (
    SCALE_SUFFIX,
    LoadProgress,
    MatchedEntries,
    match_entries,
    stream_weights,
)

Prepare = Callable[[PartName, nn.Module], None]
"""Replaces layers of a network on the meta device by quantized ones, whose form is then stored."""

_CPU = torch.device("cpu")
# The published dtypes of these two; the other networks are small and keep the dtype of their files.
_PART_DTYPES: dict[PartName, torch.dtype] = {"dit": torch.bfloat16, "text_encoder": torch.bfloat16}


class ModelExport:
    """A published model whose files were checked, ready to be written."""

    def __init__(self, files: PublishedFiles, prepare: Prepare | None = None) -> None:
        """Open all networks without reading weights; `WeightsError` if a file is damaged or does not fit.

        Without `prepare` the transformer and the text encoder are stored in bfloat16.
        """
        self._files = files
        self._parts = {part: _PartExport(part, open_part(part, files), prepare) for part in PART_NAMES}

    @property
    def num_bytes(self) -> int:
        """Size of the weights to be written."""
        return sum(sum(part.sizes.values()) for part in self._parts.values())

    def write(
        self,
        directory: Path,
        *,
        version: str,
        progress: LoadProgress | None = None,
        max_shard_bytes: int = MAX_SHARD_BYTES,
    ) -> Manifest:
        """Write the model to an existing, empty folder; host memory holds one shard at a time.

        `version` is that of the weights; `progress` is called with the bytes written and the total.

        Raises:
            WeightsError: a file cannot be read.
            OSError: the disk is full or not writable.
        """
        paths: list[Path] = []
        num_done = 0

        def count(weights: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
            nonlocal num_done
            for name, weight in weights:
                yield name, weight
                num_done += weight.nbytes
                if progress is not None:
                    progress(num_done, self.num_bytes)

        for name, part in self._parts.items():
            written: WrittenWeights = write_shards(
                directory, name, part.sizes, count(part.weights()), max_bytes=max_shard_bytes
            )
            paths += written.files
        paths += _copy_tokenizer(self._files.tokenizer, directory / EXPORTED_TOKENIZER)
        manifest = Manifest(
            name=self._files.name,
            version=version,
            configs={name: config_to_json(part.config) for name, part in self._parts.items()},
            files={path.relative_to(directory).as_posix(): describe_file(path) for path in sorted(paths)},
        )
        # Last, so that an incomplete export is not recognised as a checkpoint.
        write_manifest(directory, manifest)
        return manifest


class _PartExport:
    """One network of an export: the names, forms and sizes of its stored weights."""

    def __init__(self, part: PartName, opened: PublishedNetwork[Any, Any], prepare: Prepare | None) -> None:
        self.config = opened.config
        self._dtype = _PART_DTYPES.get(part)
        self._network: nn.Module = opened.build_empty()
        if prepare is not None:
            prepare(part, self._network)
        self._entries: MatchedEntries = match_entries(self._network, opened.adapter, opened.index)
        self.sizes = self._measure()

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Read and convert the weights, in the order of `sizes`."""
        for _, weights in stream_weights(self._network, self._entries, device=_CPU, dtype=self._dtype):
            yield from weights.items()

    def _measure(self) -> dict[str, int]:
        """Return the stored size of each weight in bytes, in writing order."""
        state = self._network.state_dict()
        sizes: dict[str, int] = {}
        for key, entry in self._entries.weights.items():
            if (scale := state.get(key + SCALE_SUFFIX)) is not None:
                sizes |= {key: state[key].nbytes, key + SCALE_SUFFIX: scale.nbytes}
            else:
                changes = entry.dtype.is_floating_point or key in self._entries.scales
                dtype = self._dtype if changes else None
                sizes[key] = state[key].numel() * (dtype or entry.dtype).itemsize
        return sizes


def _copy_tokenizer(source: Path, target: Path) -> list[Path]:
    target.mkdir()
    return [
        Path(shutil.copyfile(path, target / path.name)) for path in sorted(source.iterdir()) if path.is_file()
    ]
