"""Fill a network tensor by tensor: mapped file -> device and precision, never two copies of the whole."""

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from livetalk.checkpoints.adapters import StateDictAdapter
from livetalk.checkpoints.encoder_adapters import EncoderAdapter
from livetalk.checkpoints.load import assign_weights
from livetalk.checkpoints.tensor_files import TensorEntry, TensorIndex, read_tensors
from livetalk.errors import WeightsError

ModuleT = TypeVar("ModuleT", bound=nn.Module)
LoadProgress = Callable[[int, int], None]
"""Called with the bytes read so far and the bytes to read."""

_MAX_NAMED = 5


class WeightTransform(Protocol):
    """Changes how a network stores its weights while they arrive, such as a quantiser."""

    def prepare(self, network: nn.Module) -> None:
        """Change a network that lies on the meta device, in place, to the form that `convert` fills."""

    def convert(self, name: str, weight: Tensor) -> Mapping[str, Tensor]:
        """Convert one weight as soon as it is on its device.

        Args:
            name: its key in the network before `prepare`.
            weight: on its device, in the precision that was asked for.

        Returns:
            One or more weights of the network after `prepare`.
        """


def load_network(
    build: Callable[[], ModuleT],
    adapter: StateDictAdapter,
    index: TensorIndex,
    *,
    device: torch.device,
    dtype: torch.dtype,
    transform: WeightTransform | None = None,
    progress: LoadProgress | None = None,
) -> ModuleT:
    """Build a network on the meta device and fill it from published files.

    Args:
        build: makes the network; all its tensors must be in its state dict.
        adapter: between its keys and the published ones.
        index: of the files.
        device: where the network shall live; host memory holds one tensor at a time unless it is the CPU.
        dtype: its precision; tensors that are not floating point keep theirs.
        transform: changes the weights on arrival; None leaves them.
        progress: is told how far it is.

    Returns:
        The network in evaluation mode, without gradients.

    Raises:
        WeightsError: keys are missing, unexpected or misshapen, or a file cannot be read.
    """
    with torch.device("meta"):
        network = build()
    entries = match_entries(network, adapter, index)
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    if transform is not None:
        transform.prepare(network)
    weights: dict[str, Tensor] = {}
    num_done, num_bytes = 0, sum(entry.num_bytes for entry in entries.values())
    for key, tensor in read_tensors(entries):
        kind = dtype if tensor.is_floating_point() else tensor.dtype
        # A copy even where nothing changes: the network must not depend on the file any more.
        weight = tensor.to(device=device, dtype=kind, copy=True).reshape(shapes[key])
        weights |= {key: weight} if transform is None else transform.convert(key, weight)
        num_done += entries[key].num_bytes
        if progress is not None:
            progress(num_done, num_bytes)
    assign_weights(network, weights, f"weights {index.origin}")
    return network


def match_entries(
    network: nn.Module, adapter: StateDictAdapter, index: TensorIndex
) -> dict[str, TensorEntry]:
    """Find the published tensor of every weight of a network.

    Args:
        network: on any device.
        adapter: between its keys and the published ones.
        index: of the published files.

    Returns:
        Tensors by the network's keys, in the order of the files.

    Raises:
        WeightsError: keys are missing, unexpected or misshapen; the message names the first few of each kind
            and the file that they were looked for in.
    """
    found = canonical_entries(adapter, index)
    expected = {adapter.to_published(key): key for key in network.state_dict()}
    problems = []
    if missing := [name for name in expected if name not in found]:
        problems.append(f"weights {index.origin}: lacks {_some(missing)}")
    if unexpected := [name for name in found if name not in expected]:
        files = _some(sorted({found[name].file.name for name in unexpected}))
        problems.append(f"weights {index.origin}: {files} holds unexpected {_some(unexpected)}")
    problems += _shape_problems(network, adapter, {name: found[name] for name in expected if name in found})
    if problems:
        raise WeightsError("; ".join(problems))
    return {expected[name]: entry for name, entry in found.items()}


def canonical_entries(adapter: StateDictAdapter, index: TensorIndex) -> dict[str, TensorEntry]:
    """Return the tensors of published files that are used, under the keys that the adapter translates."""
    if not isinstance(adapter, EncoderAdapter):
        return dict(index.entries)
    spelled = {adapter.canonical(name): entry for name, entry in index.entries.items()}
    return {name: entry for name, entry in spelled.items() if name is not None}


def _shape_problems(
    network: nn.Module, adapter: StateDictAdapter, found: Mapping[str, TensorEntry]
) -> list[str]:
    wrong: dict[str, list[str]] = {}
    for key, tensor in network.state_dict().items():
        name = adapter.to_published(key)
        expected = adapter.published_shape(key, tuple(tensor.shape))
        if name in found and found[name].shape != expected:
            text = f"{name} {list(found[name].shape)} instead of {list(expected)}"
            wrong.setdefault(str(found[name].file), []).append(text)
    return [f"weights {file}: holds tensors of other shapes: {_some(texts)}" for file, texts in wrong.items()]


def _some(names: list[str]) -> str:
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
