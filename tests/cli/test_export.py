"""`livetalk export` writes a folder that loads to the same networks, and leaves nothing when it fails."""

import argparse
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from livetalk import Avatar, RunConfig
from livetalk.assembly.published import read_published_spec
from livetalk.checkpoints.layouts import Layout, find_published, recognise_layout
from livetalk.checkpoints.published import PART_NAMES, PartName, load_part, open_dit
from livetalk.cli import export
from livetalk.errors import InputError, LivetalkError, OutputError, WeightsError
from livetalk.ops.low_precision import FLOAT8, ByteFormat
from livetalk.placement.linear import quantize_linears
from synthetic_checkpoint import SyntheticCheckpoint, make_synthetic_checkpoint
from tolerance import relative, unit_roundoff

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SyntheticCheckpoint:
    """A published model, not to be changed."""
    return make_synthetic_checkpoint(tmp_path_factory.mktemp("export"), speech_format="bin")


def livetalk_export(*arguments: object) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser()
    export.add_parser(parser.add_subparsers())
    return export.run(parser.parse_args(["export", *map(str, arguments)]))


def same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Tell whether two state dicts are equal to the last bit."""
    return first.keys() == second.keys() and all(
        tensor.dtype == second[key].dtype
        and torch.equal(tensor.reshape(-1).view(torch.uint8), second[key].reshape(-1).view(torch.uint8))
        for key, tensor in first.items()
    )


@pytest.mark.parametrize(
    ("part", "dtype"),
    [
        ("dit", torch.bfloat16),
        ("vae", torch.float32),
        ("text_encoder", torch.bfloat16),
        ("image_encoder", torch.float16),
        ("audio_encoder", torch.float32),
    ],
)
def test_an_export_loads_to_the_same_bits(
    model: SyntheticCheckpoint, exported: Path, part: PartName, dtype: torch.dtype
) -> None:
    original, copy = find_published(model.model_dir), find_published(exported)
    first = load_part(part, original, device=CPU, dtype=dtype).state_dict()
    assert same_bits(first, load_part(part, copy, device=CPU, dtype=dtype).state_dict())


@pytest.fixture(scope="module")
def exported(model: SyntheticCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in our own format."""
    folder = tmp_path_factory.mktemp("exported") / "mine"
    assert livetalk_export(model.model_dir, folder) == 0
    return folder


def test_an_export_is_found_like_the_original(model: SyntheticCheckpoint, exported: Path) -> None:
    assert recognise_layout(exported) is Layout.PUBLISHED
    files = find_published(exported)
    assert files.name == "SoulX-FlashTalk-14B"
    assert read_published_spec(files) == read_published_spec(find_published(model.model_dir))
    assert (files.tokenizer / "tokenizer.json").read_bytes() == (
        model.model_dir / "google" / "umt5-xxl" / "tokenizer.json"
    ).read_bytes()
    assert open_dit(files).byte_format is None
    # The text tower of the image encoder's file and the heads of pre-training are not carried along.
    original = find_published(model.model_dir)
    assert files.image_encoder.stat().st_size < original.image_encoder.stat().st_size


@pytest.mark.parametrize("storage", ["float8", "int8"])
def test_bytes_are_stored_as_the_network_would_round_them(
    model: SyntheticCheckpoint, tmp_path: Path, storage: ByteFormat
) -> None:
    assert livetalk_export(model.model_dir, tmp_path / "small", "--storage", storage) == 0
    opened = open_dit(find_published(tmp_path / "small"))
    assert opened.byte_format == storage
    plain = open_dit(find_published(model.model_dir)).load(device=CPU, dtype=torch.bfloat16)
    quantize_linears(plain, storage)
    network = opened.build_empty()
    quantize_linears(network, storage)
    opened.fill(network, device=CPU, dtype=torch.bfloat16)
    assert same_bits(plain.state_dict(), network.state_dict())


def test_stored_bytes_are_widened_for_a_plain_network(model: SyntheticCheckpoint, tmp_path: Path) -> None:
    livetalk_export(model.model_dir, tmp_path / "small", "--storage", "float8")
    wide = open_dit(find_published(tmp_path / "small")).load(device=CPU, dtype=torch.float32)
    true = open_dit(find_published(model.model_dir)).load(device=CPU, dtype=torch.float32)
    weight, expected = (net.get_parameter("blocks.layers.0.ffn.0.weight") for net in (wide, true))
    assert not torch.equal(weight, expected)
    assert relative(weight, expected) < unit_roundoff(FLOAT8)
    assert torch.equal(wide.head.linear.weight, true.head.linear.weight)


def test_a_small_export_takes_half_the_room(
    model: SyntheticCheckpoint, exported: Path, tmp_path: Path
) -> None:
    livetalk_export(model.model_dir, tmp_path / "small", "--storage", "float8")
    blocks = sum(
        tensor.numel()
        for key, tensor in open_dit(find_published(exported)).build_empty().state_dict().items()
        if key.startswith("blocks.") and tensor.ndim == 2
    )
    saved = (
        find_published(exported).dit.stat().st_size - find_published(tmp_path / "small").dit.stat().st_size
    )
    assert saved > 0.9 * blocks


def test_an_export_makes_the_same_pictures(model: SyntheticCheckpoint, exported: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    audio = np.sin(np.arange(3200) / 20).astype(np.float32)
    chunks = [
        next(
            Avatar.load(folder, RunConfig(device="cpu", precision="float32")).stream(
                picture, [audio], size="16x16"
            )
        )
        for folder in (model.model_dir, exported)
    ]
    assert torch.equal(chunks[0].pixels, chunks[1].pixels)


def test_shards_are_listed_and_missing_ones_named(model: SyntheticCheckpoint, tmp_path: Path) -> None:
    files = find_published(model.model_dir)
    folder = tmp_path / "sharded"
    folder.mkdir()
    export.ModelExport(files).write(folder, version="test", max_shard_bytes=1 << 20)
    shards = sorted(folder.glob("dit-*.safetensors"))
    assert len(shards) > 3
    for part in PART_NAMES:
        load_part(part, find_published(folder), device=CPU, dtype=torch.float32)
    shards[1].unlink()
    shards[2].write_bytes(shards[2].read_bytes()[:-1])
    with pytest.raises(WeightsError) as caught:
        find_published(folder)
    assert f"{shards[1].name} is missing" in str(caught.value)
    assert f"{shards[2].name} has" in str(caught.value)


def test_an_export_can_be_checked_in_full(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    assert livetalk_export(copy, "--check") == 0
    assert "all 7 files have the right hash" in capsys.readouterr().out
    with (copy / "vae.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\xaa")
    # Loading looks at the sizes alone, which takes no time.
    find_published(copy)
    with pytest.raises(WeightsError, match=r"vae\.safetensors: damaged, sha256"):
        livetalk_export(copy, "--check")
    with pytest.raises(SystemExit):
        livetalk_export(copy)


@pytest.mark.parametrize("damage", ["truncate", "no config", "no free disk", "exists"])
def test_a_failed_export_leaves_nothing(
    model: SyntheticCheckpoint, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    for folder in (model.model_dir, model.wav2vec_dir):
        shutil.copytree(folder, source / folder.name)
    original = source / model.model_dir.name
    output = tmp_path / "out" / "mine"
    output.parent.mkdir()
    if damage == "truncate":
        vae = original / "Wan2.1_VAE.pth"
        vae.write_bytes(vae.read_bytes()[:-50])
    elif damage == "no config":
        (original / "config.json").unlink()
    elif damage == "exists":
        output.write_text("mine")
    else:
        usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(LivetalkError) as caught:
        livetalk_export(original, output)
    assert "\n" not in str(caught.value)
    if damage == "no free disk":
        assert "but only 1.0 MB are free" in str(caught.value)
    assert list(output.parent.iterdir()) == ([output] if damage == "exists" else [])


def test_an_interrupted_export_leaves_nothing(
    model: SyntheticCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("livetalk.checkpoints.export.write_manifest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        livetalk_export(model.model_dir, tmp_path / "mine")
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_our_own_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"format_version": 1}')
    with pytest.raises(InputError, match="already in livetalk's own format"):
        livetalk_export(tmp_path, tmp_path / "out")


def test_the_folder_to_write_in_must_exist(model: SyntheticCheckpoint, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist; create it first"):
        livetalk_export(model.model_dir, tmp_path / "a" / "b")


def test_an_export_is_complete_in_itself(model: SyntheticCheckpoint, exported: Path) -> None:
    with pytest.raises(WeightsError, match="is a complete export"):
        find_published(exported, wav2vec_dir=model.wav2vec_dir)
