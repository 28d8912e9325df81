"""Sound is read whole and in time from any file; videos have exact lengths and appear only when complete."""

import json
import resource
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from livetalk.errors import InputError, OutputError
from livetalk.media.audio import ArrayAudio, AudioReader, open_audio
from livetalk.media.audio_decoding import Track
from livetalk.media.video import VideoWriter
from media_files import count_boxes_before_data, read_frames, voice, write_audio, write_silent_video

SECONDS = 1.119


def mono(reader: AudioReader) -> NDArray[np.float32]:
    return np.concatenate(list(reader.mono_blocks()))


def best_lag(found: NDArray[np.float32], expected: NDArray[np.float32], reach: int = 200) -> int:
    length = min(len(found), len(expected)) - reach
    scores = {
        lag: float(np.dot(found[reach + lag : length + lag], expected[reach:length]))
        for lag in range(-reach, reach + 1)
    }
    return max(scores, key=lambda lag: scores[lag])


@pytest.mark.parametrize(
    ("name", "codec", "sample_rate", "num_channels"),
    [
        ("a.wav", "pcm_s16le", 16_000, 1),
        ("a.wav", "pcm_u8", 8_000, 1),
        ("a.wav", "pcm_s24le", 44_100, 2),
        ("a.wav", "pcm_f32le", 96_000, 2),
        ("a.wav", "pcm_s16le", 48_000, 8),
        ("a.flac", "flac", 22_050, 1),
        ("a.flac", "flac", 48_000, 8),
        ("a.mp3", "libmp3lame", 44_100, 2),
        ("a.mp3", "libmp3lame", 8_000, 1),
        ("a.ogg", "libopus", 48_000, 2),
        ("a.ogg", "vorbis", 44_100, 2),
        ("a.m4a", "aac", 48_000, 2),
        ("a.mp4", "aac", 44_100, 6),
        ("a.m4a", "aac", 96_000, 1),
    ],
)
def test_audio_is_whole_and_in_time(
    tmp_path: Path, name: str, codec: str, sample_rate: int, num_channels: int
) -> None:
    expected = voice(SECONDS, sample_rate, num_channels)
    reader = open_audio(write_audio(tmp_path / name, expected, sample_rate, codec))
    assert reader.sample_rate == sample_rate
    assert reader.num_channels == num_channels
    # Vorbis in Ogg counts in pages; every other container knows where the sound ends.
    assert abs(reader.num_samples - expected.shape[1]) <= (1024 if codec == "vorbis" else sample_rate // 2000)
    heard = mono(reader)
    assert len(heard) == -(-reader.num_samples * 16_000 // sample_rate)
    reference = voice(SECONDS, 16_000)[0]
    assert best_lag(heard, reference) == 0
    length = min(len(heard), len(reference))
    assert np.corrcoef(heard[:length], reference[:length])[0, 1] > 0.98
    assert np.std(heard) == pytest.approx(np.std(reference), rel=0.15)


def test_a_voice_in_one_of_eight_channels_keeps_its_loudness(tmp_path: Path) -> None:
    samples = np.zeros((8, 16_000), np.float32)
    samples[2] = voice(1.0)[0]
    reader = open_audio(write_audio(tmp_path / "a.wav", samples, 16_000))
    assert np.flatnonzero(reader.weights).tolist() == [2]
    assert np.abs(mono(reader)).max() == pytest.approx(np.abs(samples).max(), rel=0.01)


def test_silence_has_a_length(tmp_path: Path) -> None:
    reader = open_audio(write_audio(tmp_path / "a.wav", np.zeros((2, 8_000), np.float32), 16_000))
    assert reader.num_frames(25) == 13
    assert not mono(reader).any()


@pytest.mark.parametrize(
    ("num_samples", "num_frames"),
    [(1, 1), (160, 1), (640, 1), (641, 2), (17_919, 28), (17_920, 28), (17_921, 29)],
)
def test_frames_cover_the_audio(num_samples: int, num_frames: int) -> None:
    track = Track(index=0, sample_rate=16_000, origin=None, declared_samples=None)
    reader = AudioReader(Path("a.wav"), track, num_samples, weights=(1.0,))
    assert reader.num_frames(25) == num_frames
    assert reader.duration_seconds == Fraction(num_samples, 16_000)


def test_audio_that_is_not_a_number_is_refused(tmp_path: Path) -> None:
    samples = voice(1.0)
    samples[0, 8_000] = np.nan
    path = write_audio(tmp_path / "a.wav", samples, 16_000, "pcm_f32le")
    with pytest.raises(InputError, match=r"NaN or infinite samples near 0\.[45]"):
        open_audio(path)


def test_files_that_are_no_audio_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.wav"
    text.write_text("not a sound\n" * 100)
    empty = tmp_path / "empty.wav"
    empty.touch()
    film = write_silent_video(tmp_path / "film.mp4")
    for path, message in [
        (tmp_path / "missing.wav", "no such file"),
        (tmp_path, "is a directory"),
        (empty, "is empty"),
        (text, "is not an audio or video file"),
        (film, "has no audio track"),
        (write_audio(tmp_path / "none.wav", np.zeros((1, 0), np.float32), 16_000), "holds no sound"),
    ]:
        with pytest.raises(InputError, match=message):
            open_audio(path)


@pytest.mark.parametrize(
    ("sample_rate", "num_channels", "num_samples"),
    [(16_000, 1, 640), (16_000, 1, 17_904), (48_000, 2, 53_712), (44_100, 2, 321_930), (8_000, 8, 20_000)],
)
def test_a_video_has_exactly_its_frames_and_its_audio(
    tmp_path: Path, sample_rate: int, num_channels: int, num_samples: int
) -> None:
    samples = voice(num_samples / sample_rate, sample_rate, num_channels)
    num_frames = -(-num_samples * 25 // sample_rate)
    path = tmp_path / "a.mp4"
    colors = np.random.default_rng(0).integers(0, 256, (num_frames, 1, 1, 3), dtype=np.uint8)
    with VideoWriter(path, width=64, height=32, audio=ArrayAudio(samples, sample_rate)) as writer:
        for color in colors:
            writer.write(np.broadcast_to(color, (1, 32, 64, 3)))
    frames = read_frames(path)
    assert len(frames) == num_frames
    errors = [np.abs(frame.astype(int) - color).mean() for frame, color in zip(frames, colors, strict=True)]
    assert max(errors) < 6
    with av.open(str(path)) as container:
        assert [stream.start_time for stream in container.streams] == [0, 0]
    reader = open_audio(path)
    assert (reader.sample_rate, reader.num_channels) == (sample_rate, num_channels)
    assert reader.num_samples == num_samples
    heard = np.concatenate(list(reader.native_blocks()), axis=1)
    assert np.corrcoef(heard[0], samples[0])[0, 1] > 0.98


def test_audio_that_aac_cannot_carry_is_converted(tmp_path: Path) -> None:
    samples = voice(0.5, 37_800, 7)
    with VideoWriter(tmp_path / "a.mp4", width=32, height=32, audio=ArrayAudio(samples, 37_800)) as writer:
        writer.write(np.zeros((13, 32, 32, 3), np.uint8))
    reader = open_audio(tmp_path / "a.mp4")
    assert (reader.sample_rate, reader.num_channels) == (44_100, 1)
    assert reader.num_samples == 22_050


def test_a_video_starts_with_its_index_and_says_how_it_was_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.mp4"
    with VideoWriter(path, width=32, height=32, metadata={"seed": 3, "model": "tiny"}) as writer:
        writer.write(np.zeros((3, 32, 32, 3), np.uint8))
        assert not path.exists()
    assert count_boxes_before_data(path) >= 0
    with av.open(str(path)) as container:
        assert json.loads(container.metadata["comment"]) == {"seed": 3, "model": "tiny"}
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1)
    assert [entry.name for entry in path.parent.iterdir()] == ["a.mp4"]


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.mp4"
    with pytest.raises(ZeroDivisionError), VideoWriter(path, width=32, height=32) as writer:
        writer.write(np.zeros((3, 32, 32, 3), np.uint8))
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_partial_video_plays(tmp_path: Path) -> None:
    recording = ArrayAudio(voice(10.0))
    writer = VideoWriter(tmp_path / "a.mp4", width=32, height=32, audio=recording)
    writer.write(np.zeros((10, 32, 32, 3), np.uint8))
    partial = writer.save_partial()
    assert partial == tmp_path / "a.partial.mp4"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.partial.mp4"]
    assert len(read_frames(partial)) == 10


def test_nothing_is_kept_of_a_video_without_frames(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", width=32, height=32)
    assert writer.save_partial() is None
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot be written"):
        VideoWriter(tmp_path / "file" / "a.mp4", width=32, height=32)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    program = """
import numpy as np, sys
from livetalk.media.audio_decoding import Track
from livetalk.media.video import VideoWriter
from livetalk.errors import OutputError
noise = np.random.default_rng(0).integers(0, 256, (100, 128, 128, 3), dtype=np.uint8)
try:
    with VideoWriter(sys.argv[1], width=128, height=128, crf=1) as writer:
        writer.write(noise)
except OutputError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a.mp4")],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert done.stdout.count("\n") == 1
    assert "cannot be written (the file would be larger than allowed)" in done.stdout
    assert list(tmp_path.iterdir()) == []
