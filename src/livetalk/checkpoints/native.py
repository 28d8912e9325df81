"""The checkpoint format of this package: a folder of safetensors files, optionally int8, and a manifest."""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from livetalk.checkpoints.config_json import config_from_json, config_to_json
from livetalk.checkpoints.manifest import (
    MANIFEST_NAME,
    Manifest,
    describe_file,
    read_manifest,
    verify_files,
    write_manifest,
)
from livetalk.disk import flush_file
from livetalk.errors import WeightsError
from livetalk.ops.finite import is_finite

Storage = Literal["float32", "float16", "int8"]

_SCALE_SUFFIX = ".scale"
# Below this size int8 saves next to nothing.
_INT8_MIN_NUMEL = 1024
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.float16}

ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True, slots=True)
class Part:
    """The weights of one network to be saved.

    Attributes:
        storage: "float32" or "float16" for all tensors; "int8" stores large tensors of two or more dimensions
            as symmetric 8-bit integers with one scale per output channel (dimension 0), the rest as float16.
    """

    state: Mapping[str, Tensor]  # weights by key
    storage: Storage = "float32"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint folder whose files were checked against their hashes."""

    directory: Path
    manifest: Manifest

    def config(self, name: str, kind: type[ConfigT]) -> ConfigT:
        """Return the configuration saved under a name; `WeightsError` if it does not fit `kind`."""
        path = self.directory / MANIFEST_NAME
        if name not in self.manifest.configs:
            raise WeightsError(f"weights {path}: has no configuration {name!r}")
        return config_from_json(kind, self.manifest.configs[name], f"weights {path}: {name}")

    def state_dict(self, part: str) -> dict[str, Tensor]:
        """Return the weights of a part in float32 on the CPU; `WeightsError` if they cannot be read."""
        path = self.file(f"{part}.safetensors")
        try:
            state = unpack_state(load_file(path))
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"weights {path}: cannot be read ({error})") from error
        for name, tensor in state.items():
            if not is_finite(tensor):
                raise WeightsError(f"weights {path}: {name} holds NaN or infinite values; use other weights")
        return state

    def file(self, name: str) -> Path:
        """Return the path of a file of the checkpoint; `WeightsError` if the manifest does not list it."""
        if name not in self.manifest.files:
            raise WeightsError(f"weights {self.directory / MANIFEST_NAME}: does not list {name}")
        return self.directory / name


def save_checkpoint(
    directory: Path,
    *,
    name: str,
    version: str,
    configs: Mapping[str, object],
    parts: Mapping[str, Part],
    extra_files: Iterable[str] = (),
) -> Manifest:
    """Write a checkpoint folder, which is created if missing, and return its manifest.

    `configs` are frozen dataclasses by name; each of the `parts` becomes `<name>.safetensors`, and files of
    the same names are replaced. `extra_files` are files already in the folder that belong to the
    checkpoint.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for part_name, part in parts.items():
        path = directory / f"{part_name}.safetensors"
        save_file(pack_state(part.state, part.storage), path)
        flush_file(path)
        # safetensors creates files that only their owner can read, which an installed package must not
        # contain. Where permissions cannot be set, the checkpoint is still good.
        with contextlib.suppress(OSError):
            path.chmod(0o644)
    file_names = [*(f"{part_name}.safetensors" for part_name in parts), *extra_files]
    manifest = Manifest(
        name=name,
        version=version,
        configs={key: config_to_json(config) for key, config in configs.items()},
        files={file_name: describe_file(directory / file_name) for file_name in sorted(file_names)},
    )
    write_manifest(directory, manifest)
    return manifest


def load_checkpoint(directory: Path) -> Checkpoint:
    """Open a checkpoint folder and check every file against its hash.

    Raises:
        WeightsError: the folder is no checkpoint, or a file is missing or damaged.
    """
    manifest = read_manifest(directory)
    verify_files(directory, manifest)
    return Checkpoint(directory=directory, manifest=manifest)


def pack_state(state: Mapping[str, Tensor], storage: Storage) -> dict[str, Tensor]:
    """Convert a state dict for storage, to contiguous CPU tensors.

    An int8 tensor `x` comes with a float32 tensor `x.scale` [x.shape[0], 1, ...]; its values are x * x.scale.

    Raises:
        WeightsError: a weight is not finite, or not in the type that it is stored in.
        ValueError: a name has the suffix of a scale.
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        weight = tensor.detach().to("cpu")
        if name.endswith(_SCALE_SUFFIX):
            raise ValueError(f"{name}: names ending in {_SCALE_SUFFIX} are taken by int8 scales")
        if not weight.is_floating_point():
            packed[name] = weight.contiguous()
            continue
        if not is_finite(weight):
            raise WeightsError(f"{name}: holds values that are not finite numbers")
        if (
            storage == "int8"
            and weight.ndim > 1
            and weight.shape[0] > 1
            and weight.numel() >= _INT8_MIN_NUMEL
        ):
            packed[name], packed[name + _SCALE_SUFFIX] = _quantise(weight.float())
        else:
            packed[name] = weight.to(_DTYPES[storage]).contiguous()
            if not is_finite(packed[name]):
                raise WeightsError(f"{name}: holds values that are too large for {storage}")
    return packed


def unpack_state(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Invert `pack_state`; all floating-point and int8 tensors become float32."""
    state: dict[str, Tensor] = {}
    for name, tensor in packed.items():
        scale = packed.get(name + _SCALE_SUFFIX)
        if scale is not None:
            state[name] = tensor.float() * scale
        elif not name.endswith(_SCALE_SUFFIX):
            state[name] = tensor.float() if tensor.is_floating_point() else tensor
    return state


def _quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 levels and the float32 scale of each output channel."""
    peak = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True)
    # A channel of zeros gets scale 1 to avoid a division by zero.
    scale = torch.where(peak > 0, peak / 127.0, torch.ones_like(peak))
    levels = (weight / scale).round().clamp(-127, 127)
    return levels.to(torch.int8).contiguous(), scale.contiguous()
