"""A checkpoint in the published layout through `livetalk generate`, whole and damaged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from livetalk.cli.main import main
from media_files import read_frames, voice, write_audio
from synthetic_checkpoint import SpeechFormat, make_synthetic_checkpoint

MODEL = "SoulX-FlashTalk-14B"
SPEECH = "chinese-wav2vec2-base"
SHARD = f"{MODEL}/diffusion_pytorch_model-00002-of-00002.safetensors"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[SpeechFormat, Path]:
    folders: dict[SpeechFormat, Path] = {}
    for speech_format in ("safetensors", "bin"):
        folders[speech_format] = tmp_path_factory.mktemp(speech_format)
        make_synthetic_checkpoint(folders[speech_format], speech_format=speech_format)
    return folders


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Return a folder with a picture and half a second of sound."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "face.png")
    write_audio(folder / "voice.wav", voice(0.5), 16_000)
    return folder


def arguments(inputs: Path, *more: object) -> list[str]:
    chosen = {
        "image": inputs / "face.png",
        "audio": inputs / "voice.wav",
        "output": inputs / "out.mp4",
        "size": "32x16",
        "device": "cpu",
        "precision": "float32",
        "num-steps": 1,
    }
    words = [str(word) for name, value in chosen.items() for word in (f"--{name}", value)]
    return ["generate", *words, *map(str, more)]


@pytest.mark.parametrize("audio_mode", ["stream", "whole"])
@pytest.mark.parametrize("speech_format", ["safetensors", "bin"])
def test_a_published_checkpoint_makes_a_video(
    checkpoints: dict[SpeechFormat, Path],
    inputs: Path,
    capsys: pytest.CaptureFixture[str],
    speech_format: SpeechFormat,
    audio_mode: str,
) -> None:
    folder = checkpoints[speech_format]
    command = arguments(inputs, "--model", folder / MODEL, "--audio-mode", audio_mode)
    assert main([*command, "--prompt", "someone talks", "--wav2vec-dir", str(folder / SPEECH)]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert told.out.startswith(f"{inputs / 'out.mp4'}: 13 frames, 0.50 s of audio\n{MODEL} on cpu in float32")
    frames = read_frames(inputs / "out.mp4")
    assert len(frames) == 13 and frames[0].shape == (32, 16, 3)
    with av.open(str(inputs / "out.mp4")) as container:
        made = json.loads(container.metadata["comment"])
    assert (made["model"], made["seed"], made["crop"]) == (MODEL, 9999, "published")
    assert (made["prompt"], made["audio_mode"]) == ("someone talks", audio_mode)


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    # Files are links to a checkpoint that other tests use.
    data = change(path.read_bytes())
    path.unlink()
    path.write_bytes(data)


def rename_key(path: Path) -> None:
    state = load_file(path)
    state["blocks.1.misspelt"] = state.pop("blocks.1.ffn.0.weight")
    path.unlink()
    save_file(state, path)
    index = path.parent / "diffusion_pytorch_model.safetensors.index.json"
    rewrite(index, lambda data: data.replace(b"blocks.1.ffn.0.weight", b"blocks.1.misspelt"))


def set_field(name: str, value: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        rewrite(path, lambda data: json.dumps({**json.loads(data), name: value}).encode())

    return change


def cut_end(path: Path) -> None:
    rewrite(path, lambda data: data[: len(data) * 2 // 3])


def flip_header(path: Path) -> None:
    rewrite(path, lambda data: b"\xff" * 8 + data[8:])


@pytest.mark.parametrize(
    ("name", "damage", "named"),
    [
        (SHARD, Path.unlink, [Path(SHARD).name]),
        (SHARD, cut_end, [Path(SHARD).name]),
        (SHARD, flip_header, [Path(SHARD).name]),
        (SHARD, rename_key, ["lacks blocks.1.ffn.0.weight", "unexpected blocks.1.misspelt"]),
        (f"{MODEL}/Wan2.1_VAE.pth", Path.unlink, ["Wan2.1_VAE.pth is missing"]),
        (f"{MODEL}/Wan2.1_VAE.pth", cut_end, ["Wan2.1_VAE.pth"]),
        (f"{MODEL}/models_t5_umt5-xxl-enc-bf16.pth", cut_end, ["models_t5_umt5-xxl-enc-bf16.pth"]),
        (f"{MODEL}/google/umt5-xxl/tokenizer.json", Path.unlink, ["google/umt5-xxl has no tokenizer.json"]),
        (f"{MODEL}/google/umt5-xxl/tokenizer.json", cut_end, ["tokenizer.json"]),
        (f"{MODEL}/config.json", set_field("num_layers", 3), ["config.json", "num_layers"]),
        (f"{MODEL}/config.json", set_field("dim", "wide"), ["config.json", "dim", "wide"]),
        (f"{MODEL}/config.json", set_field("num_heads", 7), ["config.json", "num_heads"]),
        (f"{MODEL}/config.json", set_field("model_type", "t2v"), ["config.json", "model_type", "t2v"]),
        (f"{MODEL}/config.json", cut_end, ["config.json"]),
        (f"{SPEECH}/model.safetensors", Path.unlink, ["model.safetensors or pytorch_model.bin"]),
        (f"{SPEECH}/model.safetensors", cut_end, ["model.safetensors"]),
        (f"{SPEECH}/config.json", set_field("hidden_size", 48), ["config.json", "hidden_size"]),
    ],
)
def test_damage_is_one_line_and_leaves_nothing(
    checkpoints: dict[SpeechFormat, Path],
    inputs: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    damage: Callable[[Path], object],
    named: list[str],
) -> None:
    folder = inputs.parent / "weights"
    shutil.copytree(checkpoints["safetensors"], folder, copy_function=lambda a, b: Path(b).hardlink_to(a))
    damage(folder / name)
    before = sorted(inputs.iterdir())
    assert main(arguments(inputs, "--model", folder / MODEL)) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("livetalk: error: weights ")
    assert told.err.count("\n") == 1
    for words in named:
        assert words in told.err
    assert sorted(inputs.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "40x32"], "size 40x32: height and width must be multiples of 16; the nearest is 32x32"),
        (["--size", "big"], "size big: is neither HEIGHTxWIDTH"),
        (["--num-steps", "0"], "steps 0"),
        (["--seed", "-3"], "seed -3"),
        (["--resident-blocks", "-1"], "resident blocks -1"),
        (["--wav2vec-dir", "nowhere"], "in nowhere"),
        (["--infinitetalk", "nowhere.safetensors"], "there is no nowhere.safetensors"),
    ],
)
def test_options_that_cannot_be_used_are_one_line(
    checkpoints: dict[SpeechFormat, Path],
    inputs: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    before = sorted(inputs.iterdir())
    assert main(arguments(inputs, "--model", checkpoints["bin"] / MODEL, *options)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert sorted(inputs.iterdir()) == before


def test_an_option_of_another_kind_of_model_is_refused(
    inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(inputs, "--prompt", "a cat")) == 2
    assert "the model embedded generates 256x256 only" in capsys.readouterr().err
    assert main([*arguments(inputs, "--prompt", "a cat"), "--size", "256x256"]) == 2
    assert "the model embedded takes none; leave --prompt out" in capsys.readouterr().err


def test_random_weights_come_from_no_file(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--wav2vec-dir", "--infinitetalk"):
        assert main(arguments(inputs, "--random-weights", "tiny", option, "somewhere")) == 2
        assert "random weights come from no file" in capsys.readouterr().err


def test_random_weights_are_loudly_noise(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(inputs, "--random-weights", "tiny")) == 0
    told = capsys.readouterr().out
    assert "RANDOM WEIGHTS: THIS IS NOISE" in told.splitlines()[-1]
    with av.open(str(inputs / "out.mp4")) as container:
        assert "THIS IS NOISE" in json.loads(container.metadata["comment"])["notice"]
