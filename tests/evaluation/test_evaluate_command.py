"""`livetalk evaluate` with instruments that need no model."""

import argparse
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from drawn_face import BrightnessLandmarker, ColourEmbedder, write_video

from livetalk.cli import evaluate
from livetalk.errors import InputError, LivetalkError, OutputError


class OpenLandmarker(BrightnessLandmarker):
    """A landmarker that can be closed."""

    def __enter__(self) -> "OpenLandmarker":
        return self

    def __exit__(self, *error: object) -> None:
        self.closed = True


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put instruments for drawn faces in the place of the real ones."""
    monkeypatch.setattr(evaluate, "FaceLandmarker", OpenLandmarker)
    monkeypatch.setattr(evaluate, "FaceEmbedder", ColourEmbedder)


def run(*arguments: object) -> int:
    """Parse and run `livetalk evaluate ...`."""
    parser = argparse.ArgumentParser()
    evaluate.add_parser(parser.add_subparsers())
    return evaluate.run(parser.parse_args(["evaluate", *(str(argument) for argument in arguments)]))


def make_opening() -> np.ndarray:
    """Return an opening [60] that rises and falls."""
    return 0.4 - 0.4 * np.cos(np.arange(60) / 3)


@pytest.mark.usefixtures("drawn")
def test_one_video_gives_lines_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = write_video(tmp_path / "a.mp4", make_opening())
    np.save(tmp_path / "a.npy", make_opening())
    (tmp_path / "out.json").write_text("older")
    command = (video, "--truth", tmp_path / "a.npy", "--json", tmp_path / "out.json")
    with pytest.raises(OutputError, match="already exists"):
        run(*command)
    assert run(*command, "--overwrite") == 0
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["correlation"] > 0.98
    assert written["closure_recall"] is None
    printed = capsys.readouterr().out
    assert f"correlation                 {written['correlation']}" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "a.npy", "out.json"]


@pytest.mark.usefixtures("drawn")
def test_a_folder_gives_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(tmp_path / "a.mp4", make_opening())
    (tmp_path / "manifest.json").write_text('[{"video": "a.mp4"}]')
    assert run(tmp_path, "--no-identity") == 0
    assert "| median" in capsys.readouterr().out
    (tmp_path / "manifest.json").write_text('[{"video": "a.mp4"}, {"video": "b.mp4"}]')
    assert run(tmp_path, "--no-identity") == 1
    assert "not measured: b: " in capsys.readouterr().out


@pytest.mark.usefixtures("drawn")
def test_what_cannot_be_used_is_said_before_any_work(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", make_opening())
    (tmp_path / "manifest.json").write_text('[{"video": "a.mp4"}]')
    with pytest.raises(InputError, match="chunk-frames"):
        run(video, "--chunk-frames", 0)
    with pytest.raises(OutputError, match=r"end with \.json"):
        run(video, "--json", tmp_path / "out.txt")
    with pytest.raises(InputError, match="--reference-video"):
        run(tmp_path, "--reference-video", video)
    with pytest.raises(InputError, match="probe"):
        run(video, "--probe", tmp_path / "none.npz")


@pytest.mark.skipif(find_spec("mediapipe") is not None, reason="the eval extra is installed")
def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(LivetalkError, match=r"mediapipe: pip install 'livetalk\[eval\]'"):
        run(tmp_path / "a.mp4")
