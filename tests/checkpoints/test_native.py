"""Checkpoints come back as they were saved, and every kind of damage is refused by name."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from livetalk.checkpoints.native import (
    Part,
    Storage,
    load_checkpoint,
    pack_state,
    save_checkpoint,
    unpack_state,
)
from livetalk.errors import WeightsError
from tolerance import rounding, unit_roundoff


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    dim: int


def some_state() -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {
        "linear.weight": torch.randn(64, 48, generator=rng) * torch.logspace(-3, 2, 64)[:, None],
        "conv.weight": torch.randn(32, 8, 1, 3, 3, generator=rng),
        "norm.weight": torch.randn(64, generator=rng),
        "modulation": torch.randn(1, 6, 256, generator=rng),
        "zero.weight": torch.zeros(32, 32),
        "steps": torch.tensor(7),
    }


def save(directory: Path, storage: Storage = "float32") -> Path:
    (directory / "speech.bin").write_bytes(b"speech")
    save_checkpoint(
        directory,
        name="tiny",
        version="1",
        configs={"sizes": Sizes(dim=4)},
        parts={"net": Part(some_state(), storage)},
        extra_files=("speech.bin",),
    )
    return directory


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(save(tmp_path))
    found = checkpoint.state_dict("net")
    assert found.keys() == some_state().keys()
    for name, tensor in some_state().items():
        assert torch.equal(found[name], tensor), name
    assert checkpoint.config("sizes", Sizes) == Sizes(dim=4)
    assert checkpoint.file("speech.bin").read_bytes() == b"speech"
    assert checkpoint.manifest.name == "tiny"


# The typical weight is at least a fifth of the largest of a row, which has 127 levels.
@pytest.mark.parametrize(
    ("storage", "tolerance"),
    [("float32", 0.0), ("float16", unit_roundoff(torch.float16)), ("int8", 5 / 127 / 12**0.5)],
)
def test_storage_stays_within_its_tolerance(storage: Storage, tolerance: float) -> None:
    restored = unpack_state(pack_state(some_state(), storage))
    for name, tensor in some_state().items():
        # Per output channel: large channels must not hide errors in small ones.
        rows = tensor.double().reshape(tensor.shape[0], -1) if tensor.ndim > 1 else tensor.double()[None]
        found = restored[name].double().reshape(rows.shape)
        error = (found - rows).norm(dim=-1) / rows.norm(dim=-1).clamp_min(1e-9)
        assert error.max() <= tolerance, name


def test_int8_is_a_quarter_and_spares_small_tensors() -> None:
    packed = pack_state(some_state(), "int8")
    assert packed["linear.weight"].dtype == packed["conv.weight"].dtype == torch.int8
    assert packed["linear.weight.scale"].shape == (64, 1)
    assert packed["norm.weight"].dtype == packed["modulation"].dtype == torch.float16
    assert packed["steps"].dtype == torch.int64


def test_packing_twice_changes_nothing() -> None:
    once = unpack_state(pack_state(some_state(), "int8"))
    twice = unpack_state(pack_state(once, "int8"))
    assert all(torch.allclose(twice[name], tensor, rtol=rounding(2), atol=0) for name, tensor in once.items())


def test_weights_that_are_not_numbers_are_not_saved(tmp_path: Path) -> None:
    broken = {"weight": torch.tensor([1.0, float("nan")])}
    with pytest.raises(WeightsError, match="weight: holds values that are not finite"):
        save_checkpoint(tmp_path, name="x", version="1", configs={}, parts={"net": Part(broken)})
    assert not (tmp_path / "config.json").exists()


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no config\.json there"):
        load_checkpoint(tmp_path / "missing")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (save(tmp_path) / "net.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"net\.safetensors: no such file"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("position", [4, 200, -1])
def test_one_changed_byte_is_found_and_both_hashes_are_named(tmp_path: Path, position: int) -> None:
    path = save(tmp_path) / "net.safetensors"
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError) as caught:
        load_checkpoint(tmp_path)
    message = str(caught.value)
    assert expected in message
    assert hashlib.sha256(data).hexdigest() in message
    assert str(path) in message
    assert "\n" not in message


def test_a_cut_file_is_found(tmp_path: Path) -> None:
    path = save(tmp_path) / "speech.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=r"speech\.bin: damaged, sha256 is"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"format_version": 99}', "format 99 cannot be read"),
        ('{"format_version": 1}', "is not the manifest"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (save(tmp_path) / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=message):
        load_checkpoint(tmp_path)


def test_what_was_not_saved_is_named(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(save(tmp_path))
    with pytest.raises(WeightsError, match="has no configuration 'vae'"):
        checkpoint.config("vae", Sizes)
    with pytest.raises(WeightsError, match=r"does not list vae\.safetensors"):
        checkpoint.state_dict("vae")


def test_the_manifest_is_readable_and_complete(tmp_path: Path) -> None:
    data = json.loads((save(tmp_path) / "config.json").read_text())
    assert data["configs"] == {"sizes": {"dim": 4}}
    assert set(data["files"]) == {"net.safetensors", "speech.bin"}
    assert data["files"]["speech.bin"] == {"num_bytes": 6, "sha256": hashlib.sha256(b"speech").hexdigest()}
