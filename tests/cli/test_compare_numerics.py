import argparse
import json
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from livetalk.cli import compare_numerics
from livetalk.errors import InputError


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
    answer = json.loads(capsys.readouterr().out)
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
    assert json.loads(capsys.readouterr().out)["stages"] != with_own["stages"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("eager", "float32"), "lacks float32"),
        (("float32", "fast-float32"), "fast does not fit"),
        (("float32", "float32", "--size", "17x17"), "multiples of 16"),
        (("float32", "float32", "--num-steps", "0"), "at least 1"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(*options)
