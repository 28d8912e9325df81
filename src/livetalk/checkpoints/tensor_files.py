"""Tensor files (safetensors, sharded or not, and torch.save): listed first, then read tensor by tensor.

Files are memory-mapped: a tensor occupies host memory only while it is copied. The mapping is renewed after
every gigabyte, which releases the pages read so far, whatever the file size.
"""

import json
import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from livetalk.checkpoints.file_kinds import is_safetensors, missing_bytes, recognise_file
from livetalk.errors import WeightsError

INDEX_SUFFIX = ".index.json"
MAX_MAPPED_BYTES = 1 << 30
"""Bytes that are read before a mapping is closed and its pages are released."""

_MAX_NAMED = 3
# Of compiled, sharded and checkpointed modules; they may also stand within a name.
_INSERTED = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Of modules that hold the network in other programs.
_PREFIXES = (
    *("model.", "module.", "diffusion_model.", "transformer.", "state_dict.", "network.", "net.", "dit."),
    *("generator.", "ema.", "ema_model.", "student.", "vae.", "first_stage_model.", "wrapped."),
)


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file, which stores it as `name`."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Size in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class TensorIndex:
    """All tensors of one network, from one or several files."""

    origin: Path  # the file or index that lists them, for messages
    entries: Mapping[str, TensorEntry]  # by name, in file order

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: entry.shape for name, entry in self.entries.items()}

    @property
    def num_bytes(self) -> int:
        return sum(entry.num_bytes for entry in self.entries.values())


def index_tensors(path: Path, *overlays: Path) -> TensorIndex:
    """List the tensors of a checkpoint: a `.safetensors` file, the index of several, or a `torch.save` file.

    Tensors of `overlays`, which are files of the same kinds, are added and replace those of the same name.

    Raises:
        WeightsError: a file is missing, damaged, of another kind, or contradicts its index.
    """
    entries = _plain_names(_index_one(path))
    for overlay in overlays:
        entries |= _plain_names(_index_one(overlay))
    return TensorIndex(origin=path, entries=entries)


def _plain_names(entries: dict[str, TensorEntry]) -> dict[str, TensorEntry]:
    """Return tensors by names without the prefixes that programs put before all of them."""
    names = {name: _INSERTED.sub("", name) for name in entries}
    while prefix := next((each for each in _PREFIXES if all(n.startswith(each) for n in names.values())), ""):
        names = {name: plain.removeprefix(prefix) for name, plain in names.items()}
    if len(set(names.values())) < len(names):
        return entries
    return {names[name]: entry for name, entry in entries.items()}


def read_tensors(entries: Mapping[str, TensorEntry]) -> Iterator[tuple[str, Tensor]]:
    """Yield the requested tensors with the keys of `entries`, file by file and in file order.

    A CPU tensor is a view of the mapped file and valid only until the next one is requested.

    Raises:
        WeightsError: a file cannot be read.
    """
    files: dict[Path, dict[str, str]] = {}
    for key, entry in entries.items():
        files.setdefault(entry.file, {})[entry.name] = key
    for path, keys in files.items():
        read = _read_safetensors if is_safetensors(path) else _read_torch_file
        for names in _groups({name: entries[key].num_bytes for name, key in keys.items()}):
            for name, tensor in read(path, names):
                yield keys[name], tensor


def shard_names(index_path: Path) -> list[str]:
    """Return the files that an `.index.json` lists, in its order; `WeightsError` if it is damaged."""
    return list(dict.fromkeys(_read_weight_map(index_path).values()))


def _groups(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Split the tensors of one file into groups that are read with one mapping."""
    group: list[str] = []
    filled = 0
    for name, size in sizes.items():
        if group and filled + size > MAX_MAPPED_BYTES:
            yield group
            group, filled = [], 0
        group.append(name)
        filled += size
    if group:
        yield group


def _index_one(path: Path) -> dict[str, TensorEntry]:
    if path.name.endswith(INDEX_SUFFIX):
        return _index_shards(path)
    if not path.is_file():
        raise WeightsError(f"weights {path}: no such file")
    return _index_safetensors(path) if is_safetensors(path) else _index_torch_file(path)


def _index_shards(index_path: Path) -> dict[str, TensorEntry]:
    weight_map = _read_weight_map(index_path)
    names = list(dict.fromkeys(weight_map.values()))
    if absent := [name for name in names if not (index_path.parent / name).is_file()]:
        raise WeightsError(
            f"weights {index_path}: names {_some(absent)}, which {_is_or_are(absent)} not there; "
            "download the missing shards again"
        )
    entries: dict[str, TensorEntry] = {}
    for name in names:
        shard = _index_safetensors(index_path.parent / name)
        if twice := entries.keys() & shard.keys():
            raise WeightsError(f"weights {index_path}: more than one shard holds {_some(sorted(twice))}")
        entries |= shard
    for name in names:
        promised = [key for key, file in weight_map.items() if file == name]
        if lacking := [key for key in promised if key not in entries or entries[key].file.name != name]:
            raise WeightsError(
                f"weights {index_path.parent / name}: lacks {_some(lacking)}, which {index_path.name} says "
                "it holds; the shard and the index belong to different checkpoints"
            )
    return entries


def _read_weight_map(index_path: Path) -> dict[str, str]:
    if not index_path.is_file():
        raise WeightsError(f"weights {index_path}: no such file")
    try:
        weight_map: Any = json.loads(index_path.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"weights {index_path}: is not an index of shards ({_reason(error)})") from error
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"weights {index_path}: its weight_map names no tensors")
    for name in weight_map.values():
        # An index from the network must not lead to files outside its folder.
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise WeightsError(f"weights {index_path}: {name!r} is not the name of a shard beside it")
    return weight_map


def _index_safetensors(path: Path) -> dict[str, TensorEntry]:
    try:
        with safe_open(path, framework="pt") as file:
            entries = {}
            # File order instead of alphabetical order: reading is then sequential.
            for name in file.offset_keys():
                view = file.get_slice(name)
                dtype = _DTYPES.get(view.get_dtype())
                if dtype is None:
                    raise WeightsError(f"weights {path}: {name} has the unknown type {view.get_dtype()}")
                entries[name] = TensorEntry(path, name, tuple(view.get_shape()), dtype)
            return entries
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def _index_torch_file(path: Path) -> dict[str, TensorEntry]:
    return {
        name: TensorEntry(path, name, tuple(tensor.shape), tensor.dtype)
        for name, tensor in _open_torch_file(path).items()
    }


def _read_safetensors(path: Path, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            for name in names:
                yield name, file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _read_torch_file(path: Path, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    state = _open_torch_file(path)
    for name in names:
        yield name, state[name]


def _open_torch_file(path: Path) -> dict[str, Tensor]:
    """Map a file of `torch.save` without executing code that it contains."""
    # Files from before torch 1.6 are no zip archives and cannot be mapped; they are small enough to be read.
    can_map = zipfile.is_zipfile(path)
    try:
        with warnings.catch_warnings():
            # PyTorch's warnings about the file are not useful here: it is either loaded or rejected with an
            # error.
            warnings.simplefilter("ignore")
            if path.suffix == ".safetensors":
                # Given a path, PyTorch would go by the suffix.
                with path.open("rb") as stream:
                    state = torch.load(stream, map_location="cpu", weights_only=True)
            else:
                state = torch.load(path, map_location="cpu", weights_only=True, mmap=can_map)
    except pickle.UnpicklingError as error:
        if can_map:
            raise WeightsError(
                f"weights {path}: holds more than tensors; it was not loaded, since that could run its code"
            ) from error
        raise _unreadable(path, error) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error
    if not isinstance(state, dict) or not state:
        raise WeightsError(f"weights {path}: holds no tensors by name")
    state = _unwrapped(path, state)
    if strange := [str(name) for name, tensor in state.items() if not isinstance(tensor, Tensor)]:
        raise WeightsError(f"weights {path}: {_some(strange)} {_is_or_are(strange)} no tensor")
    return state


def _unwrapped(path: Path, state: dict[Any, Any]) -> dict[Any, Any]:
    """Return the one dictionary of tensors within a training checkpoint; another state unchanged."""
    inner = {key: value for key, value in state.items() if _holds_tensors(value)}
    if not inner or any(isinstance(value, Tensor) for value in state.values()):
        return state
    if len(inner) > 1:
        names = ", ".join(str(key) for key in inner)
        raise WeightsError(f"weights {path}: holds several networks ({names}); save one of them alone")
    return next(iter(inner.values()))


def _holds_tensors(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(t, Tensor) for t in value.values())


def _unreadable(path: Path, error: Exception) -> WeightsError:
    if (kind := recognise_file(path)) is not None:
        return WeightsError(f"weights {path}: {kind}")
    lacking = missing_bytes(path) if is_safetensors(path) else 0
    reason = f"the last {lacking} bytes are missing" if lacking else _reason(error)
    return WeightsError(
        f"weights {path}: is truncated, damaged or no file of weights ({reason}); download it again"
    )


def _reason(error: Exception) -> str:
    """Return the first sentence of an error."""
    lines = str(error).strip().splitlines()
    return lines[0].split(". ")[0].rstrip(".") if lines else type(error).__name__


def _some(names: list[str]) -> str:
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _is_or_are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"
