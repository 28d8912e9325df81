"""Weights are cut into files of bounded size, and only one file's worth is held."""

import json
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from livetalk.checkpoints.shards import plan_shards, write_shards
from livetalk.checkpoints.tensor_files import index_tensors, read_tensors


def test_shards_are_filled_in_order_and_never_beyond() -> None:
    sizes = {"a": 4, "b": 4, "c": 9, "d": 1, "e": 3}
    assert plan_shards(sizes, 8) == [["a", "b"], ["c"], ["d", "e"]]
    assert plan_shards(sizes, 100) == [["a", "b", "c", "d", "e"]]


def test_shards_hold_what_their_index_says(tmp_path: Path) -> None:
    weights = {name: torch.full((4,), float(index)) for index, name in enumerate("abcde")}
    sizes = {name: tensor.nbytes for name, tensor in weights.items()}
    written = write_shards(tmp_path, "net", sizes, iter(weights.items()), max_bytes=40)
    assert [path.name for path in written.files] == [
        "net-00001-of-00003.safetensors",
        "net-00002-of-00003.safetensors",
        "net-00003-of-00003.safetensors",
        "net.safetensors.index.json",
    ]
    assert json.loads(written.entry.read_text())["metadata"] == {"total_size": 80}
    read = dict(read_tensors(index_tensors(written.entry).entries))
    assert all(torch.equal(read[name], weights[name]) for name in weights)
    assert {path.stat().st_mode & 0o777 for path in written.files[:3]} == {0o644}


def test_weights_that_share_memory_are_written_too(tmp_path: Path) -> None:
    whole = torch.arange(8.0)
    weights = {"a": whole[:4], "b": whole[4:], "c": whole}
    sizes = {name: tensor.nbytes for name, tensor in weights.items()}
    written = write_shards(tmp_path, "net", sizes, iter(weights.items()))
    assert [path.name for path in written.files] == ["net.safetensors"]
    read = dict(read_tensors(index_tensors(written.entry).entries))
    assert all(torch.equal(read[name], weights[name]) for name in weights)


def test_only_one_shard_is_held(tmp_path: Path) -> None:
    seen: list[weakref.ref[Tensor]] = []
    held: list[int] = []

    def draw() -> Iterator[tuple[str, Tensor]]:
        for name in "abcdef":
            held.append(sum(reference() is not None for reference in seen))
            weight = torch.zeros(4)
            seen.append(weakref.ref(weight))
            yield name, weight

    write_shards(tmp_path, "net", dict.fromkeys("abcdef", 16), draw(), max_bytes=32)
    assert max(held) <= 2


@pytest.mark.parametrize("given", [["a"], ["b", "a"], ["a", "b", "c"]])
def test_other_weights_than_announced_are_refused(tmp_path: Path, given: list[str]) -> None:
    weights = ((name, torch.zeros(1)) for name in given)
    with pytest.raises(ValueError, match="expect"):
        write_shards(tmp_path, "net", {"a": 4, "b": 4}, weights)
