"""`livetalk generate` as a user meets it: what simply works, and what gives one plain line."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from livetalk.cli.main import main
from livetalk.media.files import TEMPORARY_PREFIX
from media_files import read_frames, voice, write_audio, write_silent_video
from tiny_checkpoint import save_tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Return a folder with a good picture and a good sound."""
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "face.png")
    write_audio(tmp_path / "voice.wav", voice(0.2), 16_000)
    return tmp_path


def arguments(checkpoint: Path, inputs: Path, **options: str) -> list[str]:
    chosen = {
        "image": str(inputs / "face.png"),
        "audio": str(inputs / "voice.wav"),
        "output": str(inputs / "out.mp4"),
        "crop": "center",
        "model": str(checkpoint),
        "device": "cpu",
        **options,
    }
    return ["generate", *(word for name, value in chosen.items() for word in (f"--{name}", value))]


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (90, 70)) -> None:
    Image.new(mode, size).save(path)


def truncated_jpeg(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:5_000])


def broken_audio(path: Path) -> None:
    write_audio(path, np.full((1, 16_000), np.nan, np.float32), 16_000, "pcm_f32le")


@pytest.mark.parametrize(
    ("option", "name", "make", "message"),
    [
        ("image", "none.png", None, "no such file"),
        ("image", "folder", Path.mkdir, "is a directory"),
        ("image", "empty.png", Path.touch, "the file is empty"),
        ("image", "text.png", lambda path: path.write_text("hello " * 99), "is not an image"),
        ("image", "cut.jpg", truncated_jpeg, "is damaged or incomplete"),
        ("image", "dot.png", lambda path: picture(path, size=(1, 1)), "1x1 pixels is too small"),
        ("image", "huge.png", lambda path: picture(path, "1", (20_000, 20_000)), "is too large"),
        ("audio", "none.wav", None, "no such file"),
        ("audio", "folder", Path.mkdir, "is a directory"),
        ("audio", "empty.wav", Path.touch, "the file is empty"),
        ("audio", "text.wav", lambda path: path.write_text("hello " * 99), "is not an audio or video file"),
        ("audio", "nan.wav", broken_audio, "NaN or infinite samples"),
        ("audio", "film.mp4", write_silent_video, "has no audio track"),
        ("audio", "picture.png", picture, "has no audio track"),
        ("output", "voice.wav/out.mp4", None, "is not a folder"),
        ("output", "folder.mp4", Path.mkdir, "is a directory"),
        ("output", "old.mp4", Path.touch, "already exists"),
        ("output", "out.webm", None, "must end with .mp4"),
        ("output", "x" * 300 + ".mp4", None, "file name too long"),
        ("preview", "sheet.jpg", None, "must end with .png"),
        ("model", "no-model", None, "no such folder, nor a shipped model"),
        ("model", "empty-model", Path.mkdir, "neither a livetalk checkpoint nor a published model"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    checkpoint: Path,
    inputs: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    name: str,
    make: Callable[[Path], object] | None,
    message: str,
) -> None:
    path = inputs / name
    if make is not None:
        make(path)
    before = sorted(inputs.rglob("*"))
    assert main(arguments(checkpoint, inputs, **{option: str(path)})) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("livetalk: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert sorted(inputs.rglob("*")) == before


def test_a_picture_without_a_face_names_the_way_out(
    checkpoint: Path, inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(inputs.iterdir())
    assert main(arguments(checkpoint, inputs, crop="face")) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "face.png: no face was found" in error
    assert "--crop center" in error
    assert sorted(inputs.iterdir()) == before


@pytest.mark.parametrize("name", ["dit.safetensors", "vae.safetensors", "speech_encoder.safetensors"])
def test_damaged_weights_are_named_with_their_hash(
    checkpoint: Path, inputs: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    model = inputs / "model"
    shutil.copytree(checkpoint, model)
    data = bytearray((model / name).read_bytes())
    data[len(data) // 2] ^= 255
    (model / name).write_bytes(data)
    assert main(arguments(model, inputs)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{name}: damaged, sha256 is" in error
    (model / name).unlink()
    assert main(arguments(model, inputs)) == 2
    assert f"{name}: no such file" in capsys.readouterr().err
    assert not (inputs / "out.mp4").exists()


@pytest.mark.parametrize("options", [["--steps", "0"], ["--threads", "0"], ["--device", "toaster"]])
def test_options_out_of_range_are_one_line(
    checkpoint: Path, inputs: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    assert main([*arguments(checkpoint, inputs), *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("livetalk: error: ")
    assert not (inputs / "out.mp4").exists()


@pytest.mark.parametrize(
    ("name", "codec", "sample_rate", "num_channels", "seconds"),
    [
        ("silence.wav", "pcm_s16le", 16_000, 1, 1.0),
        ("short.wav", "pcm_s16le", 16_000, 1, 0.01),
        ("eight.wav", "pcm_s16le", 48_000, 8, 0.3),
        ("slow.wav", "pcm_s16le", 8_000, 1, 0.3),
        ("fast.wav", "pcm_s24le", 96_000, 2, 0.3),
        ("a.mp3", "libmp3lame", 44_100, 2, 0.3),
        ("a.flac", "flac", 48_000, 1, 0.3),
        ("a.ogg", "libopus", 48_000, 2, 0.3),
        ("a.m4a", "aac", 44_100, 2, 0.3),
        ("a.mp4", "aac", 48_000, 2, 0.3),
    ],
)
def test_any_audio_works(
    checkpoint: Path, inputs: Path, name: str, codec: str, sample_rate: int, num_channels: int, seconds: float
) -> None:
    samples = voice(seconds, sample_rate, num_channels) * (name != "silence.wav")
    write_audio(inputs / name, samples, sample_rate, codec)
    assert main(arguments(checkpoint, inputs, audio=str(inputs / name))) == 0
    assert len(read_frames(inputs / "out.mp4")) == -(-samples.shape[1] * 25 // sample_rate)
    with av.open(str(inputs / "out.mp4")) as container:
        assert container.streams.audio[0].rate == sample_rate


@pytest.mark.parametrize(
    ("mode", "name", "size"),
    [
        ("RGBA", "clear.png", (90, 70)),
        ("L", "grey.png", (90, 70)),
        ("CMYK", "print.jpg", (90, 70)),
        ("P", "palette.gif", (90, 70)),
        ("I;16", "deep.png", (90, 70)),
        ("RGB", "tall.webp", (40, 300)),
        ("RGB", "wide.bmp", (300, 40)),
    ],
)
@pytest.mark.parametrize("crop", ["center", "none"])
def test_any_picture_works(
    checkpoint: Path, inputs: Path, mode: str, name: str, size: tuple[int, int], crop: str
) -> None:
    picture(inputs / name, mode, size)
    assert main(arguments(checkpoint, inputs, image=str(inputs / name), crop=crop)) == 0
    assert len(read_frames(inputs / "out.mp4")) == 5


def test_results_are_told_and_replaced_only_when_asked(
    checkpoint: Path, inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*arguments(checkpoint, inputs, preview=str(inputs / "new" / "sheet.png")), "--overwrite"]
    for _ in range(2):
        assert main(command) == 0
        told = capsys.readouterr().out.splitlines()
        assert told[0] == f"{inputs / 'out.mp4'}: 5 frames, 0.20 s of audio"
        assert told[1] == f"{inputs / 'new' / 'sheet.png'}: contact sheet"
        assert told[2].startswith("tiny on cpu in ")
        assert "real time" in told[2]
    with Image.open(inputs / "new" / "sheet.png") as sheet:
        assert sheet.size == (5 * 64, 64)


def run_process(command: list[str], file_size_limit: int | None = None) -> "subprocess.CompletedProcess[str]":
    def limit() -> None:
        if file_size_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size_limit, file_size_limit))

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "livetalk", *command],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        preexec_fn=limit,
    )


def test_a_full_disk_is_one_line_and_leaves_nothing(checkpoint: Path, inputs: Path) -> None:
    write_audio(inputs / "voice.wav", voice(3.0), 16_000)
    before = sorted(inputs.iterdir())
    done = run_process(arguments(checkpoint, inputs), file_size_limit=20_000)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("livetalk: error: output ")
    assert "cannot be written" in done.stderr
    assert sorted(inputs.iterdir()) == before


def test_ctrl_c_keeps_a_playable_part_and_says_so(checkpoint: Path, inputs: Path) -> None:
    write_audio(inputs / "voice.wav", voice(120.0), 16_000)
    process = subprocess.Popen(
        [sys.executable, "-m", "livetalk", *arguments(checkpoint, inputs)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        # Wait until pictures are being written, however long a busy machine takes for that.
        while process.poll() is None:
            # A trial file comes before the video, and may be gone between the two calls.
            with contextlib.suppress(FileNotFoundError):
                if any(path.stat().st_size > 50_000 for path in inputs.glob(TEMPORARY_PREFIX + "*")):
                    break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors.startswith("livetalk: interrupted; the first ")
    assert errors.endswith(f" s are in {inputs / 'out.partial.mp4'}\n")
    assert len(read_frames(inputs / "out.partial.mp4")) % 28 == 0
    assert sorted(entry.name for entry in inputs.iterdir()) == ["face.png", "out.partial.mp4", "voice.wav"]


def test_the_embedded_model_needs_no_package_of_the_published_one() -> None:
    script = (
        "import sys\n"
        "from livetalk import Avatar, RunConfig\n"
        "import livetalk.cli.generate\n"
        "Avatar.load(run=RunConfig(device='cpu'))\n"
        "optional = {'tokenizers', 'sentencepiece', 'ftfy', 'transformers', 'huggingface_hub', 'mediapipe'}\n"
        "print(sorted(optional & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_two_processes_make_the_video_of_one(inputs: Path) -> None:
    frames = {}
    for gpus in ("1", "2"):
        command = arguments(Path("-"), inputs, output=str(inputs / f"{gpus}.mp4"), gpus=gpus, threads="1")
        at = command.index("--model")
        command[at : at + 2] = ["--random-weights", "tiny"]
        done = subprocess.run(
            [sys.executable, "-m", "livetalk", *command, "--precision", "float32"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        frames[gpus] = np.stack(read_frames(inputs / f"{gpus}.mp4"))
    assert frames["1"].shape == frames["2"].shape
    assert np.abs(frames["1"].astype(int) - frames["2"]).mean() < 0.5


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--gpus", "0"], "gpus 0: at least 1 is needed"),
        (["--fast", "--resident-blocks", "1"], "leave resident-blocks out"),
        (["--float8", "--weights", "int8"], "not as int8"),
        (["--float8"], "FP8"),
        (["--attention", "fa3"], "attention fa3 cannot run here"),
    ],
)
def test_fast_forms_that_cannot_be_are_one_line(
    checkpoint: Path, inputs: Path, options: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments(checkpoint, inputs), *options]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert line in said and said.startswith("livetalk: ")
    assert not (inputs / "out.mp4").exists()


def test_the_fast_forms_are_named_in_the_video(checkpoint: Path, inputs: Path) -> None:
    assert main([*arguments(checkpoint, inputs), "--fast"]) == 0
    with av.open(str(inputs / "out.mp4")) as container:
        assert "plain kernels" in container.metadata["comment"]


@pytest.mark.parametrize("ranks", ["1", "3"])
def test_a_worker_of_another_number_of_gpus_is_refused(
    checkpoint: Path,
    inputs: Path,
    ranks: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", ranks)
    assert main([*arguments(checkpoint, inputs), "--gpus", "2"]) == 2
    assert f"gpus 2: was started as one of {ranks} processes" in capsys.readouterr().err
