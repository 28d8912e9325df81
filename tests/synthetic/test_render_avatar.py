"""`livetalk avatar new` and the portraits that ship with the package."""

import argparse
import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from livetalk.cli import avatar
from livetalk.errors import InputError, OutputError


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    avatar.add_parser(parser.add_subparsers(required=True))
    return parser.parse_args(["avatar", "new", *words])


def portraits() -> list[Path]:
    folder = files("livetalk").joinpath("assets/portraits")
    return sorted(Path(str(path)) for path in folder.iterdir() if path.name.endswith(".png"))


def test_new_writes_a_png(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(1)
    out = tmp_path / "face.png"
    args = parse("--seed", "23", "--size", "64", "--out", str(out))
    assert args.run(args) == 0
    picture = np.asarray(Image.open(out))
    assert picture.shape == (64, 64, 3)
    assert picture.std() > 20
    assert "face.png" in capsys.readouterr().out


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    args = parse("--seed", "1", "--size", "64", "--out", str(tmp_path / "missing" / "face.png"))
    assert args.run(args) == 0
    assert (tmp_path / "missing" / "face.png").is_file()


@pytest.mark.parametrize("place", ["file/face.png", "."])
def test_unwritable_paths_are_refused_in_one_line(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("no folder")
    args = parse("--seed", "1", "--size", "64", "--out", str(tmp_path / place))
    with pytest.raises(OutputError) as refusal:
        args.run(args)
    assert "\n" not in str(refusal.value)
    assert str(tmp_path) in str(refusal.value)


@pytest.mark.parametrize("words", [("--seed", "-1"), ("--seed", "1", "--size", "8")])
def test_senseless_options_are_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    args = parse(*words, "--out", str(tmp_path / "face.png"))
    with pytest.raises(InputError):
        args.run(args)


def test_twelve_portraits_ship() -> None:
    assert len(portraits()) == 12
    for path in portraits():
        assert re.fullmatch(r"avatar-\d+\.png", path.name)
        with Image.open(path) as picture:
            assert picture.size == (512, 512)
            assert picture.mode == "RGB"


def test_a_shipped_portrait_shows_the_person_of_its_seed() -> None:
    torch.set_num_threads(1)
    mine, other = portraits()[0], portraits()[1]
    fresh = avatar.render_portrait(int(mine.stem.split("-")[1]), 64, "cpu").astype(float)

    def distance(path: Path) -> float:
        with Image.open(path) as picture:
            small = np.asarray(picture.resize((64, 64), Image.Resampling.BOX)).astype(float)
        return float(np.abs(small - fresh).mean())

    assert distance(mine) < 8
    assert distance(other) > 2 * distance(mine)
