"""Training checkpoints: everything a slice needs to go on, in files that stay under a size limit."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from livetalk.errors import WeightsError
from livetalk.training.optim import WeightAverage

PART_BYTES = 15_500_000
"""Largest file written: a little under 16 MB, so that checkpoints travel in small pieces."""


def save_training_state(
    directory: Path,
    step: int,
    model: nn.Module,
    average: WeightAverage,
    optimizers: Iterable[torch.optim.Optimizer] = (),
) -> None:
    """Write the state of a stage so that `load_training_state` continues it.

    Args:
        directory: folder of the stage; replaced only when everything is written.
        step: optimizer steps done over all slices.
        model: network in training, stored in its own dtype.
        average: averaged weights, stored in float16.
        optimizers: their moments are stored too; leave empty for a light checkpoint.
    """
    directory.mkdir(parents=True, exist_ok=True)
    halves = {name: tensor.half() for name, tensor in average.model.state_dict().items()}
    state: dict[str, Any] = {"step": step, "average": halves}
    moments = [optimizer.state_dict() for optimizer in optimizers]
    if moments:
        state |= {"model": model.state_dict(), "optimizers": moments}
    whole = directory / "state.pt.partial"
    torch.save(state, whole)
    _split(whole, directory)


def _split(whole: Path, directory: Path) -> None:
    data = whole.read_bytes()
    pieces = [data[at : at + PART_BYTES] for at in range(0, len(data), PART_BYTES)]
    for old in directory.glob("state.part*"):
        old.unlink()
    for number, piece in enumerate(pieces):
        (directory / f"state.part{number}").write_bytes(piece)
    manifest = {"parts": len(pieces), "sha256": hashlib.sha256(data).hexdigest()}
    (directory / "state.json").write_text(json.dumps(manifest), encoding="utf-8")
    whole.unlink()


def load_training_state(
    directory: Path,
    model: nn.Module,
    average: WeightAverage | None = None,
    optimizers: Iterable[torch.optim.Optimizer] = (),
) -> int:
    """Restore what `save_training_state` wrote.

    A light checkpoint restores the averaged weights into both networks and leaves the optimizers fresh.

    Args:
        directory: folder of the stage.
        model: network to restore.
        average: averaged weights to restore, if any.
        optimizers: restored when the checkpoint holds their moments.

    Returns:
        Optimizer steps done so far; 0 when the folder holds no checkpoint.

    Raises:
        WeightsError: parts are missing or damaged.
    """
    manifest_path = directory / "state.json"
    if not manifest_path.exists():
        return 0
    manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
    try:
        data = b"".join((directory / f"state.part{n}").read_bytes() for n in range(manifest["parts"]))
    except FileNotFoundError as error:
        raise WeightsError(f"training checkpoint {directory}: {error.filename} is missing") from error
    if hashlib.sha256(data).hexdigest() != manifest["sha256"]:
        raise WeightsError(f"training checkpoint {directory}: sha256 of its parts differs from state.json")
    joined = directory / "state.pt.partial"
    joined.write_bytes(data)
    state = torch.load(joined, map_location="cpu", weights_only=True)
    joined.unlink()
    averaged = {name: tensor.float() for name, tensor in state["average"].items()}
    model.load_state_dict(state.get("model", averaged))
    if average is not None:
        average.model.load_state_dict(averaged)
    for optimizer, moments in zip(optimizers, state.get("optimizers", []), strict=False):
        optimizer.load_state_dict(moments)
    return int(state["step"])
