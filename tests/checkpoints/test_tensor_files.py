"""Files of tensors are listed and read one tensor at a time; each kind of damage gives one clear line."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from livetalk.checkpoints import tensor_files
from livetalk.checkpoints.tensor_files import index_tensors, read_tensors
from livetalk.errors import WeightsError

A = torch.arange(6, dtype=torch.float32).reshape(2, 3)
B = torch.arange(4, dtype=torch.bfloat16)
C = torch.arange(5)


def write_shards(folder: Path) -> Path:
    """Write two shards and their index; return the index."""
    save_file({"a": A, "b": B}, folder / "part-1.safetensors")
    save_file({"c": C}, folder / "part-2.safetensors")
    index = folder / "model.safetensors.index.json"
    weight_map = {"a": "part-1.safetensors", "b": "part-1.safetensors", "c": "part-2.safetensors"}
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def read_all(path: Path, *overlays: Path) -> dict[str, Tensor]:
    """Read every tensor, copied."""
    entries = index_tensors(path, *overlays).entries
    return {name: tensor.clone() for name, tensor in read_tensors(entries)}


@pytest.mark.parametrize("kind", ["shards", "safetensors", "torch", "old torch"])
def test_every_kind_of_file_gives_the_same_tensors(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("model.safetensors" if kind == "safetensors" else "model.pth")
    if kind == "shards":
        path = write_shards(tmp_path)
    elif kind == "safetensors":
        save_file({"a": A, "b": B, "c": C}, path)
    else:
        torch.save({"a": A, "b": B, "c": C}, path, _use_new_zipfile_serialization=kind == "torch")
    index = index_tensors(path)
    assert index.shapes == {"a": (2, 3), "b": (4,), "c": (5,)}
    assert index.num_bytes == A.nbytes + B.nbytes + C.nbytes
    tensors = read_all(path)
    for name, expected in (("a", A), ("b", B), ("c", C)):
        assert tensors[name].dtype == expected.dtype
        assert torch.equal(tensors[name], expected)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_large_file_is_mapped_again_and_again(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {f"w{index}": torch.full((4,), float(index)) for index in range(7)}
    path = tmp_path / f"model{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    entries = index_tensors(path).entries
    monkeypatch.setattr(tensor_files, "MAX_MAPPED_BYTES", 40)
    opened: list[list[str]] = []
    reader = "_read_torch_file" if suffix == ".pth" else "_read_safetensors"
    read = getattr(tensor_files, reader)

    def watch(path: Path, names: list[str]) -> Iterator[tuple[str, Tensor]]:
        opened.append(names)
        return cast(Iterator[tuple[str, Tensor]], read(path, names))

    monkeypatch.setattr(tensor_files, reader, watch)
    tensors = {name: tensor.clone() for name, tensor in read_tensors(entries)}
    assert [len(names) for names in opened] == [2, 2, 2, 1]
    assert all(torch.equal(tensors[name], state[name]) for name in state)


def test_overlays_add_and_replace(tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.safetensors"
    save_file({"b": B + 1, "d": A}, overlay)
    tensors = read_all(write_shards(tmp_path), overlay)
    assert torch.equal(tensors["a"], A)
    assert torch.equal(tensors["b"], B + 1)
    assert torch.equal(tensors["d"], A)


def test_tensors_are_read_under_the_names_that_were_asked_for(tmp_path: Path) -> None:
    entries = index_tensors(write_shards(tmp_path)).entries
    tensors = dict(read_tensors({"other": entries["c"]}))
    assert list(tensors) == ["other"]


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
@pytest.mark.parametrize("keep", [0, 4, 0.5, 0.99])
def test_truncated_files_give_one_line(tmp_path: Path, name: str, keep: float) -> None:
    path = tmp_path / name
    state = {"a": torch.zeros(64, 64)}
    if path.suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep >= 1 else keep * len(content))])
    with pytest.raises(WeightsError, match="truncated, damaged or no file of weights") as caught:
        read_all(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


class RunsCode:
    """Pickles to a call."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the call."""
        return print, ("this ran",)


def test_files_that_could_run_code_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.pth"
    torch.save({"a": A, "b": RunsCode()}, path)
    with pytest.raises(WeightsError, match="holds more than tensors; it was not loaded"):
        index_tensors(path)
    for protocol in (2, 4):  # of the second PyTorch warns, and a warning is an error here
        path.write_bytes(pickle.dumps(RunsCode(), protocol=protocol))
        with pytest.raises(WeightsError, match="no file of weights"):
            index_tensors(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([A], "holds no tensors by name"),
        ({}, "holds no tensors by name"),
        ({"a": A, "epoch": 3}, "epoch is no tensor"),
        ({"x": 1, "y": 2}, "x, y are no tensor"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=message):
        index_tensors(tmp_path / "model.pth")


def test_missing_files_are_named(tmp_path: Path) -> None:
    for name in ("model.pth", "model.safetensors", "model.safetensors.index.json"):
        with pytest.raises(WeightsError, match=f"{name}: no such file"):
            index_tensors(tmp_path / name)


def test_a_deleted_shard_is_named(tmp_path: Path) -> None:
    index = write_shards(tmp_path)
    (tmp_path / "part-2.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"names part-2\.safetensors, which is not there"):
        index_tensors(index)
    (tmp_path / "part-1.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"part-1\.safetensors, part-2\.safetensors, which are not there"):
        index_tensors(index)


def test_a_shard_of_another_checkpoint_is_named(tmp_path: Path) -> None:
    index = write_shards(tmp_path)
    save_file({"z": C}, tmp_path / "part-2.safetensors")
    with pytest.raises(WeightsError, match=r"part-2\.safetensors: lacks c, .*different checkpoints"):
        index_tensors(index)
    save_file({"c": C, "a": A}, tmp_path / "part-2.safetensors")
    with pytest.raises(WeightsError, match="more than one shard holds a"):
        index_tensors(index)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not an index of shards"),
        ("{}", "is not an index of shards"),
        ('{"weight_map": []}', "names no tensors"),
        ('{"weight_map": {}}', "names no tensors"),
        ('{"weight_map": {"a": "../x.safetensors"}}', "is not the name of a shard beside it"),
        ('{"weight_map": {"a": "x.bin"}}', "is not the name of a shard beside it"),
        ('{"weight_map": {"a": 3}}', "3 is not the name of a shard"),
    ],
)
def test_other_indexes_are_refused(tmp_path: Path, text: str, message: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(WeightsError, match=message):
        index_tensors(index)
