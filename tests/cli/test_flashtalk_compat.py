"""The published flags make the video that their program should have made."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from livetalk.cli.main import main
from livetalk.compat.flashtalk import infer_params
from livetalk.compat.pipeline import default_params
from livetalk.media.audio import open_audio
from media_files import read_frames, voice, write_audio
from synthetic_checkpoint import SyntheticCheckpoint, make_synthetic_checkpoint


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> SyntheticCheckpoint:
    return make_synthetic_checkpoint(tmp_path_factory.mktemp("weights"))


@pytest.fixture(autouse=True)
def _small_pictures() -> Iterator[None]:
    infer_params.update(height=16, width=16, sample_steps=1)
    yield
    infer_params.clear()
    infer_params.update(default_params())


@pytest.fixture
def command(tmp_path: Path, files: SyntheticCheckpoint) -> list[str]:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "face.png")
    write_audio(tmp_path / "voice.wav", voice(1.3, 48_000), 48_000)
    flags = {
        "ckpt_dir": files.model_dir,
        "wav2vec_dir": files.wav2vec_dir,
        "cond_image": tmp_path / "face.png",
        "audio_path": tmp_path / "voice.wav",
    }
    return [
        "flashtalk-compat",
        *(str(word) for name, value in flags.items() for word in (f"--{name}", value)),
    ]


@pytest.mark.parametrize("name", ["out.mp4", "res_out.mp4", "res_res_.mp4"])
@pytest.mark.parametrize("mode", ["stream", "once"])
def test_any_name_keeps_the_whole_video_and_its_audio(
    command: list[str], tmp_path: Path, name: str, mode: str
) -> None:
    output = tmp_path / "results" / name
    for _ in range(2):
        assert main([*command, "--overwrite", "--save_file", str(output), "--audio_encode_mode", mode]) == 0
    assert [path.name for path in output.parent.iterdir()] == [name]
    assert len(read_frames(output)) == 33
    assert open_audio(output).num_samples == round(1.3 * 48_000)


def test_the_default_name_is_one_that_every_system_takes(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--cpu_offload", "--base_seed", "-1", "--input_prompt", "a cat"]) == 0
    (result,) = (tmp_path / "sample_results").iterdir()
    assert re.fullmatch(r"res_\d{8}-\d{6}-\d{6}\.mp4", result.name)
    assert capsys.readouterr().out.startswith(f"{result}: 33 frames")


def test_mistakes_are_one_line_and_leave_nothing(
    command: list[str], tmp_path: Path, files: SyntheticCheckpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    shutil.copy(files.model_dir / "config.json", tmp_path / "model")
    before = sorted(tmp_path.iterdir())
    for flag, value in (
        ("ckpt_dir", tmp_path / "model"),
        ("ckpt_dir", tmp_path / "none"),
        ("wav2vec_dir", tmp_path / "none"),
        ("cond_image", tmp_path / "none.png"),
        ("audio_path", tmp_path / "face.png"),
        ("save_file", tmp_path / "out.avi"),
    ):
        assert main([*command, f"--{flag}", str(value)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
