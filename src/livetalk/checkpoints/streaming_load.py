"""Tensor-by-tensor loading from memory-mapped files, so that there is never a second copy of a whole network.

A weight may be one byte per element with a scale per output channel, in the file, in the network or in both;
it is converted on arrival where the two differ. The scale of `x.weight` is `x.weight_scale`.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from livetalk.checkpoints.adapters import StateDictAdapter
from livetalk.checkpoints.encoder_adapters import EncoderAdapter
from livetalk.checkpoints.tensor_files import TensorEntry, TensorIndex, read_tensors
from livetalk.errors import WeightsError
from livetalk.ops.finite import is_finite
from livetalk.ops.low_precision import FLOAT8, dequantize_channels, quantize_channels

ModuleT = TypeVar("ModuleT", bound=nn.Module)
LoadProgress = Callable[[int, int], None]
"""Called with the bytes read so far and the total."""

UnitHook = Callable[[str], None]
"""Called with the name of a block when all of its weights are loaded."""

SCALE_SUFFIX = "_scale"
_MAX_NAMED = 5


@dataclass(frozen=True, slots=True)
class MatchedEntries:
    """The stored tensors of a network."""

    weights: Mapping[str, TensorEntry]  # by the network's keys, in file order
    scales: Mapping[str, TensorEntry]  # of quantized weights, by the keys of those weights


def fill_network(
    network: ModuleT,
    adapter: StateDictAdapter,
    index: TensorIndex,
    *,
    device: torch.device,
    dtype: torch.dtype,
    on_unit: UnitHook | None = None,
    progress: LoadProgress | None = None,
) -> ModuleT:
    """Load weights from files into a network on the meta device, in place.

    All tensors of the network must be in its state dict. Weights of quantized layers are quantized on
    arrival; `dtype` applies to other floating-point weights. `on_unit` is called for each completed item of a
    module list and may replace or move it. The network is returned in evaluation mode, without gradients.

    Raises:
        WeightsError: keys are missing, unexpected or of another shape, or a file cannot be read.
    """
    entries = match_entries(network, adapter, index)
    units = _unit_names(network)
    pending = Counter(units[key] for key in entries.weights if key in units)
    num_done, num_bytes = 0, sum(entry.num_bytes for entry in entries.weights.values())
    for key, weights in stream_weights(network, entries, device=device, dtype=dtype):
        for name, weight in weights.items():
            _assign(network, name, weight)
        num_done += entries.weights[key].num_bytes
        if progress is not None:
            progress(num_done, num_bytes)
        if key in units:
            pending[units[key]] -= 1
            # A completed block is placed at once, so that full precision exists for one block only.
            if on_unit is not None and not pending[units[key]]:
                on_unit(units[key])
    _require_filled(network, index)
    return network.requires_grad_(False).eval()


def stream_weights(
    network: nn.Module, entries: MatchedEntries, *, device: torch.device, dtype: torch.dtype | None
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Read the weights of a network one by one, in the network's form (quantized or not).

    Yields the key of a weight, and the weight and its scale, if any, by their keys in the network. The
    network is on the meta device and is not accessed after the first item. `dtype` applies to floating-point
    weights that are not quantized; None keeps the stored one.

    Raises:
        WeightsError: a file cannot be read, or a weight or scale is not a finite number.
    """
    wanted = {key: (tensor.shape, tensor.dtype) for key, tensor in network.state_dict().items()}
    # Scales are small, and can be in another file than their weights, so they are read first.
    scales = {
        key: _by_channel(tensor.to(device, copy=True), wanted[key][0])
        for key, tensor in read_tensors(entries.scales)
    }
    for key, tensor in read_tensors(entries.weights):
        shape, form = wanted[key]
        # Always a copy, because the result must not depend on the mapped file.
        stored = tensor.to(device, copy=True).reshape(shape)
        form = form if key + SCALE_SUFFIX in wanted else (dtype or stored.dtype)
        converted = _convert(key, stored, scales.pop(key, None), form)
        for tensor in converted.values():
            if not is_finite(tensor):
                entry = entries.weights[key]
                raise WeightsError(
                    f"weights {entry.file}: {entry.name} or its scale holds NaN or infinite values in "
                    f"{str(form).removeprefix('torch.')}; use other weights, such as those of an earlier step"
                )
        yield key, converted


def match_entries(network: nn.Module, adapter: StateDictAdapter, index: TensorIndex) -> MatchedEntries:
    """Find the stored tensor of every weight of a network.

    Raises:
        WeightsError: keys are missing, unexpected or of another shape; the message names the first few.
    """
    state = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    expected = {adapter.to_published(key): key for key in state if not _is_scale(key, state)}
    found = canonical_entries(adapter, index)
    scales = {name: entry for name, entry in found.items() if _is_scale(name, found)}
    found = {name: entry for name, entry in found.items() if name not in scales}
    problems = []
    if missing := [name for name in expected if name not in found]:
        problems.append(f"weights {index.origin}: lacks {_some(missing)}")
    if unexpected := [name for name in found if name not in expected]:
        files = _some(sorted({found[name].file.name for name in unexpected}))
        problems.append(f"weights {index.origin}: {files} holds unexpected {_some(unexpected)}")
    wrong: dict[str, list[str]] = {}
    for name, key in expected.items():
        shape = adapter.published_shape(key, state[key])
        if name in found and found[name].shape != shape:
            text = f"{name} {list(found[name].shape)} instead of {list(shape)}"
            wrong.setdefault(str(found[name].file), []).append(text)
    problems += _unsuitable_scales(network, expected, found, scales)
    problems += [f"weights {file}: tensors of other shapes: {_some(texts)}" for file, texts in wrong.items()]
    if problems:
        raise WeightsError("; ".join(problems))
    return MatchedEntries(
        weights={expected[name]: entry for name, entry in found.items()},
        scales={expected[name.removesuffix(SCALE_SUFFIX)]: entry for name, entry in scales.items()},
    )


def _unsuitable_scales(
    network: nn.Module,
    expected: Mapping[str, str],
    found: Mapping[str, TensorEntry],
    scales: Mapping[str, TensorEntry],
) -> list[str]:
    """Return what is wrong with scales: their number, their type, or that one is missing."""
    state = network.state_dict()
    problems = []
    for name, entry in found.items():
        scale = scales.get(name + SCALE_SUFFIX)
        if scale is not None and (
            math.prod(scale.shape) not in (1, entry.shape[0]) or not scale.dtype.is_floating_point
        ):
            problems.append(
                f"weights {scale.file}: {scale.name} must be {entry.shape[0]} or one floating-point number"
            )
        real = name in expected and state[expected[name]].dtype not in (torch.int64, torch.int32, torch.bool)
        if scale is None and real and not entry.dtype.is_floating_point:
            problems.append(f"weights {entry.file}: {entry.name} is {entry.dtype} without a scale")
    return problems[:_MAX_NAMED]


def canonical_entries(adapter: StateDictAdapter, index: TensorIndex) -> dict[str, TensorEntry]:
    """Return the used tensors of the files, by the keys that the adapter translates."""
    if not isinstance(adapter, EncoderAdapter):
        return dict(index.entries)
    spelled = {adapter.canonical(name): entry for name, entry in index.entries.items()}
    return {name: entry for name, entry in spelled.items() if name is not None}


def _is_scale(key: str, keys: Mapping[str, object]) -> bool:
    return key.endswith(SCALE_SUFFIX) and key.removesuffix(SCALE_SUFFIX) in keys


def _unit_names(network: nn.Module) -> dict[str, str]:
    """Map each key to the item of an outermost module list that contains the weight."""
    lists: list[str] = []
    for name, module in network.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{outer}.") for outer in lists):
            lists.append(name)
    units: dict[str, str] = {}
    for key in network.state_dict():
        for name in lists:
            if key.startswith(f"{name}."):
                units[key] = ".".join(key.split(".")[: name.count(".") + 2])
    return units


def _by_channel(scale: Tensor, shape: torch.Size) -> Tensor:
    """Return a scale as float32 [rows, 1, ...], one number for each row of its weight."""
    return scale.float().reshape(-1).expand(shape[0]).reshape(-1, *(1 for _ in shape[1:])).contiguous()


def _convert(key: str, stored: Tensor, scale: Tensor | None, form: torch.dtype) -> dict[str, Tensor]:
    """Convert a weight to `form`: quantized with a scale, or the given dtype."""
    scale_key = key + SCALE_SUFFIX
    rounds = form in (FLOAT8, torch.int8)
    if scale is not None and stored.dtype == form:
        return {key: stored, scale_key: scale}
    if scale is not None:
        # Another byte format is dequantized to float32, which is exact enough, before it is quantized again.
        stored = dequantize_channels(stored, scale, torch.float32 if rounds else form)
    if rounds:
        levels, scale = quantize_channels(stored, "float8" if form == FLOAT8 else "int8")
        return {key: levels, scale_key: scale}
    return {key: stored.to(form) if stored.is_floating_point() else stored}


def _assign(network: nn.Module, key: str, weight: Tensor) -> None:
    owner, _, name = key.rpartition(".")
    module = network.get_submodule(owner)
    is_parameter = name in dict(module.named_parameters(recurse=False))
    setattr(module, name, nn.Parameter(weight, requires_grad=False) if is_parameter else weight)


def _require_filled(network: nn.Module, index: TensorIndex) -> None:
    left = [key for key, tensor in (*network.named_parameters(), *network.named_buffers()) if tensor.is_meta]
    if left:
        raise WeightsError(f"weights {index.origin}: {_some(left)} cannot be filled from a checkpoint")


def _some(names: list[str]) -> str:
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
