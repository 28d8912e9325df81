"""From files to a video: exact lengths, whole sound, the same pictures again, memory that stays put."""

import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from livetalk import Avatar, RunConfig, VideoChunk
from livetalk.avatar import GenerationInterrupted
from livetalk.errors import InputError, OutputError
from livetalk.media.audio import open_audio
from livetalk.streaming.spec import StreamOptions
from media_files import read_frames, voice, write_audio
from tiny_checkpoint import SIZE, save_tiny_checkpoint

PICTURE = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)

RUN = RunConfig(device="cpu", precision="float32")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="module")
def avatar(checkpoint: Path) -> Avatar:
    return Avatar.load(checkpoint, RunConfig(device="cpu", precision="float32", threads=1))


def frames_of(chunks: list[VideoChunk]) -> NDArray[np.uint8]:
    return np.concatenate([chunk.to_uint8().numpy() for chunk in chunks])


@pytest.mark.parametrize(
    ("seconds", "num_frames"),
    [
        (0.01, 1),
        (0.04, 1),
        (0.5, 13),
        (1.119, 28),
        (1.12, 28),
        (1.121, 29),
        (7.3, 183),
        pytest.param(61.0, 1525, marks=pytest.mark.slow),
    ],
)
def test_lengths_are_exact_and_the_audio_is_whole(
    avatar: Avatar, tmp_path: Path, seconds: float, num_frames: int
) -> None:
    samples = voice(seconds, 48_000)
    recording = write_audio(tmp_path / "voice.wav", samples, 48_000)
    result = avatar.generate(PICTURE, recording, tmp_path / "out.mp4", crop="center")
    assert result.num_frames == num_frames
    frames = read_frames(result.path)
    assert len(frames) == num_frames
    assert frames[0].shape == (SIZE, SIZE, 3)
    reader = open_audio(result.path)
    assert reader.num_samples == samples.shape[1]
    heard = np.concatenate(list(reader.native_blocks()), axis=1)[0]
    assert np.corrcoef(heard, samples[0])[0, 1] > 0.98
    with av.open(str(result.path)) as container:
        assert [stream.start_time for stream in container.streams] == [0, 0]


def test_the_same_seed_gives_the_same_pictures_and_another_seed_others(avatar: Avatar) -> None:
    recording = voice(1.5)[0]
    first, again, other = (
        frames_of(list(avatar.stream(PICTURE, [recording], seed=seed, crop="center"))) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_same_seed_gives_the_same_file(avatar: Avatar, tmp_path: Path) -> None:
    recording = write_audio(tmp_path / "voice.wav", voice(1.5), 16_000)
    paths = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    for path in paths:
        avatar.generate(PICTURE, recording, path, crop="center", seed=5)
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("lookahead_frames", [0, 5])
def test_block_sizes_do_not_matter(tmp_path: Path, lookahead_frames: int) -> None:
    avatar = Avatar.load(save_tiny_checkpoint(tmp_path, lookahead_frames), RUN)
    recording = voice(2.5)[0]
    whole = list(avatar.stream(PICTURE, [recording], crop="center"))
    pieces = [recording[start : start + 777] for start in range(0, len(recording), 777)]
    streamed = list(avatar.stream(PICTURE, pieces, crop="center"))
    assert [chunk.first_frame for chunk in streamed] == [0, 28, 56]
    assert [chunk.pixels.shape[1] for chunk in streamed] == [28, 28, 7]
    assert np.array_equal(frames_of(whole), frames_of(streamed))


def test_a_progressive_stream_makes_the_same_frames_sooner(avatar: Avatar) -> None:
    recording = voice(1.6)[0]
    whole = list(avatar.stream(PICTURE, [recording], crop="center", latents_per_decode=3))
    pieces = list(avatar.stream(PICTURE, [recording], crop="center", latents_per_decode=3, progressive=True))
    assert [chunk.first_frame for chunk in whole] == [0, 28]
    # Of 9 + 12 + 12 frames of a window, 5 are not shown; the sound ends with frame 40.
    assert [chunk.first_frame for chunk in pieces] == [0, 4, 16, 28, 32]
    assert np.array_equal(frames_of(whole), frames_of(pieces))


@pytest.mark.parametrize("latents_per_decode", [1, None])
def test_warming_up_meets_every_shape_of_a_session(avatar: Avatar, latents_per_decode: int | None) -> None:
    model = avatar.model.executor.networks
    met: list[tuple[str, torch.Size]] = []
    networks = {"dit": model.dit, "encoder": model.vae.encoder, "decoder": model.vae.decoder}
    hooks = [
        network.register_forward_pre_hook(lambda _, given, name=name: met.append((name, given[0].shape)))
        for name, network in networks.items()
    ]
    options: StreamOptions = {"latents_per_decode": latents_per_decode, "crop": "center"}
    avatar.warm_up(**options)
    warm = set(met)
    met.clear()
    list(avatar.stream(PICTURE, [voice(4.0)[0]], **options))
    for hook in hooks:
        hook.remove()
    assert set(met) == warm and len({name for name, _ in warm}) == 3


def test_warming_up_refuses_what_no_session_can_be(avatar: Avatar) -> None:
    with pytest.raises(InputError, match="steps 0"):
        avatar.warm_up(num_steps=0)


def test_the_look_ahead_is_heard_but_moves_no_frame(tmp_path: Path) -> None:
    avatar = Avatar.load(save_tiny_checkpoint(tmp_path, 5), RUN)
    recording = voice(2.24)[0]
    changed = recording.copy()
    changed[17_920 + 1_000 : 17_920 + 3_200] = 0
    first = [next(avatar.stream(PICTURE, [audio], crop="center")) for audio in (recording, changed)]
    assert not torch.equal(first[0].pixels, first[1].pixels)
    changed = recording.copy()
    changed[17_920 + 5 * 640 :] = 0
    late = next(avatar.stream(PICTURE, [changed], crop="center"))
    assert torch.equal(first[0].pixels, late.pixels)


def test_steps_and_audio_change_the_pictures(avatar: Avatar) -> None:
    recording = voice(1.0)[0]
    runs = [
        frames_of(list(avatar.stream(PICTURE, [audio], crop="center", num_steps=steps)))
        for audio, steps in (
            (recording, None),
            (recording, 2),
            (recording, 1),
            (np.zeros_like(recording), None),
        )
    ]
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
    assert not np.array_equal(runs[0], runs[3])


def test_a_video_says_how_it_was_made(avatar: Avatar, tmp_path: Path) -> None:
    recording = write_audio(tmp_path / "voice.wav", voice(0.2), 16_000)
    result = avatar.generate(PICTURE, recording, tmp_path / "out.mp4", crop="none", seed=7, num_steps=3)
    with av.open(str(result.path)) as container:
        made = json.loads(container.metadata["comment"])
    assert made["software"].startswith("livetalk ")
    assert (made["model"], made["seed"], made["num_steps"], made["crop"]) == ("tiny", 7, 3, "none")


def test_progress_and_preview(avatar: Avatar, tmp_path: Path) -> None:
    recording = write_audio(tmp_path / "voice.wav", voice(2.5), 16_000)
    seen: list[tuple[int, int]] = []
    result = avatar.generate(
        PICTURE,
        recording,
        tmp_path / "out.mp4",
        crop="center",
        preview=tmp_path / "out.png",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(28, 63), (56, 63), (63, 63)]
    assert result.preview == tmp_path / "out.png"
    with Image.open(tmp_path / "out.png") as sheet:
        assert sheet.size == (6 * SIZE, 4 * SIZE)
        tiles = np.asarray(sheet).reshape(4, SIZE, 6, SIZE, 3).swapaxes(1, 2).reshape(24, SIZE, SIZE, 3)
        grey = [frame.mean(axis=2).ravel() for frame in read_frames(result.path)]
        for tile, index in ((tiles[0], 0), (tiles[-1], 62)):
            likeness = [np.corrcoef(tile.mean(axis=2).ravel(), frame)[0, 1] for frame in grey]
            assert int(np.argmax(likeness)) == index


def test_an_interruption_keeps_what_was_finished(avatar: Avatar, tmp_path: Path) -> None:
    recording = write_audio(tmp_path / "voice.wav", voice(4.0), 16_000)

    def stop_at_56(done: int, total: int) -> None:
        if done == 56:
            raise KeyboardInterrupt

    with pytest.raises(
        GenerationInterrupted, match=r"the first 2\.24 s are in .*out\.partial\.mp4"
    ) as caught:
        avatar.generate(PICTURE, recording, tmp_path / "out.mp4", crop="center", progress=stop_at_56)
    assert caught.value.partial == tmp_path / "out.partial.mp4"
    assert len(read_frames(tmp_path / "out.partial.mp4")) == 56
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out.partial.mp4", "voice.wav"]


def test_wrong_options_and_places_are_one_line(avatar: Avatar, tmp_path: Path) -> None:
    recording = write_audio(tmp_path / "voice.wav", voice(0.2), 16_000)
    (tmp_path / "old.mp4").write_bytes(b"old")
    (tmp_path / "folder.mp4").mkdir()
    cases: list[tuple[type[Exception], str, str, dict[str, object]]] = [
        (InputError, "no face was found; .*--crop center", "out.mp4", {"crop": "face"}),
        (InputError, "crop top: is not one of face, center, none", "out.mp4", {"crop": "top"}),
        (InputError, "steps 0: at least 1", "out.mp4", {"num_steps": 0}),
        (OutputError, "already exists", "old.mp4", {}),
        (OutputError, "is a directory", "folder.mp4", {}),
        (OutputError, r"must end with \.mp4", "out.avi", {}),
        (OutputError, r"must end with \.png", "out.mp4", {"preview": tmp_path / "out.jpg"}),
        (OutputError, "is not a folder", "voice.wav/out.mp4", {}),
    ]
    before = sorted(tmp_path.iterdir())
    for kind, message, name, options in cases:
        with pytest.raises(kind, match=message):
            avatar.generate(PICTURE, recording, tmp_path / name, **{"crop": "center", **options})  # type: ignore[arg-type]
    assert sorted(tmp_path.iterdir()) == before


def test_an_input_is_never_replaced(avatar: Avatar, tmp_path: Path) -> None:
    recording = write_audio(tmp_path / "voice.mp4", voice(0.2), 16_000, "aac")
    before = recording.read_bytes()
    with pytest.raises(InputError, match="is also an input"):
        avatar.generate(PICTURE, recording, tmp_path / "voice.mp4", crop="center", overwrite=True)
    assert recording.read_bytes() == before


MEMORY_PROBE = """
import resource, sys
import numpy as np
from livetalk import Avatar, RunConfig

avatar = Avatar.load(sys.argv[1], RunConfig(device="cpu", precision="float32", threads=1))
avatar.generate(np.zeros((80, 80, 3), np.uint8), sys.argv[2], sys.argv[3], crop="center", num_steps=1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_length(checkpoint: Path, tmp_path: Path) -> None:
    peaks = []
    for seconds in (4, 29):
        recording = write_audio(tmp_path / f"{seconds}.wav", voice(seconds), 16_000)
        paths = [str(path) for path in (checkpoint, recording, tmp_path / f"{seconds}.mp4")]
        command = [sys.executable, "-c", MEMORY_PROBE, *paths]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    # The frames of 25 s more would be 25 * 25 * 64 * 64 * 3 bytes = 7.7 MB, as float32 pixels 31 MB.
    assert peaks[1] - peaks[0] < 6 * 1024
