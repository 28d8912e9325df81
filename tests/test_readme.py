"""The README's Python runs, and the commands that it and the pages of the documentation show can be typed."""

import argparse
import importlib
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from livetalk import Avatar, RunConfig
from livetalk.cli.main import COMMANDS
from media_files import read_frames, voice, write_audio

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "benchmarks" / "README.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
RUNNING = ("generate", "bench", "doctor", "compare-numerics")
"""Commands that run a model; the tests of the others are beside them."""


def snippet(page: Path) -> str:
    """Return the Python of a page."""
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return str(code)


def microphone(num_samples: int) -> Iterator[NDArray[np.float32]]:
    """Yield blocks of sound as a sound card would."""
    audio = voice(num_samples / 16_000)[0].astype(np.float32)
    yield from np.array_split(audio, 7)


@pytest.mark.slow
def test_the_snippet_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    portrait = sorted((ROOT / "src" / "livetalk" / "assets" / "portraits").glob("*.png"))[0]
    shutil.copy(portrait, tmp_path / "portrait.png")
    write_audio(tmp_path / "hello.flac", voice(0.4), 16_000, "flac")
    monkeypatch.chdir(tmp_path)
    shown: list[torch.Tensor] = []
    exec(snippet(ROOT / "README.md"), {"microphone_blocks": microphone(17_920), "show": shown.append})
    assert len(read_frames(tmp_path / "hello.mp4")) == 10
    assert [tuple(frames.shape) for frames in shown] == [(28, 256, 256, 3)], "as its comment says"
    assert shown[0].dtype == torch.uint8


def test_a_model_is_loaded_in_one_word() -> None:
    assert "Avatar.load()" in snippet(ROOT / "README.md")
    avatar = Avatar.load("embedded", RunConfig(device="cpu", precision="float32"))
    assert (avatar.model.name, avatar.fps, avatar.sample_rate) == ("embedded", 25, 16_000)


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the commands in a page's blocks of code: name and words, comments left out."""
    inside = False
    for line in page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            inside = not inside
        found = re.search(r"\blivetalk ([a-z-]+)(.*)", line)
        if inside and found and found[1] in RUNNING:
            words = shlex.split(found[2], comments=True)
            yield found[1], [word for word in words if word != "..."]


@pytest.mark.parametrize("name", RUNNING)
def test_every_command_that_is_shown_can_be_typed(name: str) -> None:
    shown = [words for page in PAGES for found, words in commands(page) if found == name]
    assert shown
    parser = argparse.ArgumentParser(exit_on_error=False)
    importlib.import_module(COMMANDS[name].module).add_parser(parser.add_subparsers())
    needed = ["--image", "i", "--audio", "a", "-o", "o.mp4"] if name == "generate" else []
    for words in shown:
        # What a page leaves out with dots is added; what it says must be an option, with a value it can have.
        _, unknown = parser.parse_known_args([name, *needed, *words])
        assert not unknown, words
