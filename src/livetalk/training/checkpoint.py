"""Training checkpoints: the state that the next slice continues from, in files of limited size."""

import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from livetalk.disk import write_durably
from livetalk.errors import UNSUITABLE_CONTENT, WeightsError
from livetalk.ops.finite import is_finite
from livetalk.training.optim import WeightAverage

MANIFEST = "state.json"
PART_BYTES = 15_500_000
"""Size limit of a file, a little under 16 MB, so that checkpoints can be transferred in small files."""


def save_training_state(
    directory: Path,
    step: int,
    model: nn.Module,
    average: WeightAverage,
    optimizers: Iterable[torch.optim.Optimizer],
) -> None:
    """Write the state of a stage for `load_training_state`.

    `step` counts optimizer steps over all slices. The model keeps its dtype; averaged weights are float16.
    """
    directory.mkdir(parents=True, exist_ok=True)
    halves = {name: tensor.half() for name, tensor in average.model.state_dict().items()}
    moments = [optimizer.state_dict() for optimizer in optimizers]
    _write({"step": step, "average": halves, "model": model.state_dict(), "optimizers": moments}, directory)


def copy_average(directory: Path, target: Path) -> int:
    """Copy only the averaged weights of a stage's checkpoint; return the number of its optimizer steps.

    The copy has a third to a sixth of the size. The stage may continue meanwhile.

    Raises:
        WeightsError: there is no checkpoint, or parts are missing or damaged.
    """
    state = _read(directory)
    if state is None:
        raise WeightsError(f"training checkpoint {directory}: there is none yet")
    target.mkdir(parents=True, exist_ok=True)
    _write({"step": state["step"], "average": state["average"]}, target)
    return int(state["step"])


def _write(state: dict[str, Any], directory: Path) -> None:
    """Write a state in parts, switch the manifest to them atomically, then delete the old parts."""
    written = io.BytesIO()
    torch.save(state, written)
    data = written.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    names = []
    for number, at in enumerate(range(0, len(data), PART_BYTES)):
        names.append(f"state-{digest[:8]}.part{number}")
        write_durably(directory / names[-1], data[at : at + PART_BYTES])
    # Readers find the old manifest or the new one.
    write_durably(directory / MANIFEST, json.dumps({"parts": names, "sha256": digest}).encode())
    for part in directory.glob("state*.part*"):
        if part.name not in names:
            part.unlink()


def load_training_state(
    directory: Path,
    model: nn.Module,
    average: WeightAverage | None = None,
    optimizers: Iterable[torch.optim.Optimizer] = (),
) -> int:
    """Restore what `save_training_state` wrote; return the optimizer steps so far, 0 without a checkpoint.

    A copy by `copy_average` restores the averaged weights into both networks and leaves `optimizers` fresh.

    Raises:
        WeightsError: files are missing or damaged, of another network, or hold values that are not finite.
    """
    state = _read(directory)
    if state is None:
        return 0
    averaged = {name: tensor.float() for name, tensor in state["average"].items()}
    weights = state.get("model", averaged)
    for name, tensor in (*averaged.items(), *weights.items()):
        if not is_finite(tensor):
            raise WeightsError(f"training checkpoint {directory}: {name} holds NaN or infinite values")
    try:
        model.load_state_dict(weights)
        if average is not None:
            average.model.load_state_dict(averaged)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"training checkpoint {directory}: is of another network ({reason})") from error
    # A checkpoint without moments has an empty list here.
    for optimizer, moments in zip(optimizers, state.get("optimizers", []), strict=False):
        optimizer.load_state_dict(moments)
    return int(state["step"])


def _read(directory: Path) -> dict[str, Any] | None:
    """Join the parts of a checkpoint, or return None where there is none."""
    manifest_path = directory / MANIFEST
    if not manifest_path.exists():
        return None
    try:
        text = manifest_path.read_text(encoding="utf-8")
        manifest = json.loads(text)
        names, digest = [str(name) for name in manifest["parts"]], manifest["sha256"]
    except UNSUITABLE_CONTENT as error:
        raise WeightsError(
            f"training checkpoint {manifest_path}: is damaged ({error}); restore it, or remove its folder to "
            "begin this stage anew"
        ) from error
    try:
        data = b"".join((directory / name).read_bytes() for name in names)
    except FileNotFoundError as error:
        if manifest_path.read_text(encoding="utf-8") != text:
            # The stage replaced the checkpoint between the two reads.
            return _read(directory)
        raise WeightsError(f"training checkpoint {directory}: {error.filename} is missing") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise WeightsError(f"training checkpoint {directory}: sha256 of its parts differs from state.json")
    # Unpickled after the hash was checked, and as tensors only: a checkpoint must not run code.
    state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return state
