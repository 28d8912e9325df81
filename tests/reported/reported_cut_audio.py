"""Reported audio files that are cut while they are read: what was written is counted and kept."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from livetalk import Avatar, RunConfig
from livetalk.avatar import Progress
from livetalk.errors import InputError
from livetalk.media.audio import open_audio
from media_files import read_frames, voice, write_audio
from reported import Case
from tiny_checkpoint import save_tiny_checkpoint

SECONDS = 6.5
CUT = 4.44

PICTURE = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)


def generate(folder: Path, audio_mode: str, cut: Callable[[Path], None], after: int) -> Avatar:
    """Generate a video of 6.5 s whose audio is changed after a number of frames, -1 before the first."""
    recording = write_audio(folder / "voice.wav", voice(SECONDS), 16_000)
    reader = open_audio(recording)
    if after < 0:
        cut(recording)

    def progress(done: int, total: int) -> None:
        if done >= after >= 0:
            cut(recording)

    avatar = Avatar.load(
        save_tiny_checkpoint(folder / "tiny"), RunConfig(device="cpu", precision="float32", threads=1)
    )
    watch: Progress = progress
    avatar.generate(PICTURE, reader, folder / "out.mp4", crop="center", audio_mode=audio_mode, progress=watch)
    return avatar


def truncate(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.truncate(44 + round(CUT * 16_000) * 2)


def cut_short(audio_mode: str, after: int) -> Callable[[Path, pytest.MonkeyPatch], None]:
    """The line tells the length that was read; the video of that part is kept under a name that says so."""

    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(InputError, match=r"^audio .*voice\.wav: ended after 4\.\d\d of 6\.50 s; "):
            generate(folder, audio_mode, truncate, after)
        assert not (folder / "out.mp4").exists()
        partial = folder / "out.partial.mp4"
        seconds = open_audio(partial).duration_seconds
        assert float(seconds) == pytest.approx(CUT, abs=0.2)
        assert len(read_frames(partial)) / 25 >= float(seconds) - 0.04
        assert sorted(path.name for path in folder.iterdir()) == ["out.partial.mp4", "tiny", "voice.wav"]

    return check


def removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An audio file that is gone before anything was generated leaves nothing."""
    with pytest.raises(InputError, match=r"^audio .*voice\.wav: "):
        generate(folder, "stream", lambda path: path.unlink(), after=-1)
    assert [path.name for path in folder.iterdir()] == ["tiny"]


def whole_result(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The length of a result is that of the written audio."""
    avatar = generate(folder, "stream", lambda path: None, after=0)
    reader = open_audio(folder / "voice.wav")
    result = avatar.generate(PICTURE, reader, folder / "again.mp4", crop="center")
    assert result.duration_seconds == float(open_audio(result.path).duration_seconds) == SECONDS
    assert result.num_frames == len(read_frames(result.path)) == 163


CASES = (
    Case("counted", "the audio file is cut before it is read again", cut_short("stream", -1)),
    Case("counted", "the audio file is cut after the model has read it", cut_short("whole", 28)),
    Case("counted", "the audio file is removed", removed),
    Case("counted", "a whole result", whole_result),
)
