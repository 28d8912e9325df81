import argparse
import json
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from livetalk.cli import compare_numerics
from livetalk.errors import InputError
from no_pyav import BLOCK_PYAV


def run(*options: str) -> int:
    """Run the command on the tiny model."""
    parser = argparse.ArgumentParser()
    compare_numerics.add_parser(parser.add_subparsers())
    known = ["compare-numerics", *options, "--random-weights", "tiny", "--device", "cpu", "--chunks", "1"]
    return compare_numerics.run(parser.parse_args(known))


def test_a_table_and_a_bound(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("eager-float32", "eager-bfloat16", "--bound", "0.5") == 0
    text = capsys.readouterr().out
    assert text.startswith("eager-bfloat16 against eager-float32")
    for stage in ("reference", "chunk 1 speech", "chunk 1 velocity 2", "chunk 1 encode", "worst"):
        assert stage in text
    assert run("eager-float32", "eager-bfloat16", "--bound", "1e-6") == 1


def test_json_holds_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("float32", "offload1-float32", "--json", "--size", "32x48", "--num-steps", "1") == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert (answer["first"], answer["second"], answer["worst"]) == ("float32", "offload1-float32", 0)
    names = [stage["stage"] for stage in answer["stages"]]
    assert "chunk 1 latents 1" in names and "chunk 1 velocity 2" not in names


def test_a_portrait_and_a_voice_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (80, 70, 3), dtype=np.uint8)).save(tmp_path / "face.png")
    with wave.open(str(tmp_path / "voice.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(rng.integers(-9000, 9000, 3000, dtype=np.int16).tobytes())
    own = ["--image", str(tmp_path / "face.png"), "--audio", str(tmp_path / "voice.wav"), "--json"]
    assert run("float32", "bfloat16", *own) == 0
    with_own = json.loads(capsys.readouterr().out)
    assert run("float32", "bfloat16", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["stages"] != with_own[0]["stages"]


def test_several_configurations_have_a_table_each(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("fast-float32", "bfloat16", "fp8-fp8reference-float32")
    # The bound is for the worst of them, wherever it stands.
    assert run("float32", *names, "--bound", "1e-4") == 1
    text = capsys.readouterr().out
    places = [text.index(f"{name} against float32") for name in names]
    assert places == sorted(places) and text.count("chunk 1 velocity 2") == len(names)
    assert "fp8-fp8reference-float32: attention fp8-reference" in text and "by the reference" in text
    assert run("float32", *names, "--json") == 0
    answers = json.loads(capsys.readouterr().out)
    assert [answer["second"] for answer in answers] == list(names)
    assert answers[0]["worst"] < 1e-4 < answers[1]["worst"]
    assert answers[2]["second_form"].endswith("by the reference") and answers[2]["first_form"] == ""


def test_sharper_attention_is_both_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("float32", "float32", "--sharpen", "4", "--bound", "0") == 0
    first = capsys.readouterr().out
    assert run("float32", "fp8reference-float32", "--json") == 0
    assert run("float32", "fp8reference-float32", "--json", "--sharpen", "4") == 0
    decoder, text = json.JSONDecoder(), capsys.readouterr().out
    drawn, end = decoder.raw_decode(text)
    sharp, _ = decoder.raw_decode(text[end:].lstrip())
    assert "velocity" in first and sharp[0]["stages"][2]["alone"] > drawn[0]["stages"][2]["alone"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("eager", "float32"), "lacks float32"),
        (("float32", "faster-float32"), "faster does not fit"),
        (("float32", "fast-offload-float32"), "resident-blocks"),
        (("float32", "float32", "--sharpen", "0"), "above 0"),
        (("float32", "offload-float32", "--sharpen", "2"), "leave offload out"),
        (("float32", "float32", "--size", "17x17"), "multiples of 16"),
        (("float32", "float32", "--num-steps", "0"), "at least 1"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(*options)


WITHOUT_PYAV = f"{BLOCK_PYAV}\nfrom livetalk.cli.main import main\nsys.exit(main())"


@pytest.mark.slow
def test_only_an_audio_file_needs_pyav() -> None:
    command = [sys.executable, "-c", WITHOUT_PYAV, "compare-numerics", "float32", "bfloat16"]
    command += ["--random-weights", "tiny", "--device", "cpu", "--chunks", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0 and "chunk 1 encode" in done.stdout, done.stderr
    command += ["--audio", "voice.wav"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert refused.returncode != 0 and refused.stdout == ""
    assert "audio voice.wav: the package av, which reads it, is not installed" in refused.stderr
    assert refused.stderr.count("\n") == 1
