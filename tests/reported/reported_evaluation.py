"""Reported videos and portraits of `livetalk evaluate`: other frame rates, files that are stored turned."""

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from drawn_face import BrightnessLandmarker, ColourEmbedder, draw_frame
from PIL import Image

from livetalk.evaluation.clip import ClipInputs
from livetalk.evaluation.suite import measure_clip
from livetalk.evaluation.tracking import Instruments, track_video
from livetalk.media.video_reading import read_frames, resample_frames
from media_files import voice, write_audio
from reported import Case

INSTRUMENTS = Instruments(BrightnessLandmarker(), ColourEmbedder(), embed_every=10)
NUM_FRAMES = 100
"""Frames at 25 a second."""


def make_opening() -> np.ndarray:
    """Return a speech-like opening [100] at 25 frames a second."""
    steps = np.random.default_rng(3).uniform(0, 0.8, NUM_FRAMES + 4)
    return np.convolve(steps, np.ones(5) / 5, mode="valid")


def write_film(path: Path, openings: Sequence[float], seconds: Sequence[Fraction]) -> Path:
    """Write a drawn face with these openings from these times on."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "8", "threads": "1"})
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        video.codec_context.time_base = Fraction(1, 3000)
        for opening, start in zip(openings, seconds, strict=True):
            frame = av.VideoFrame.from_ndarray(draw_frame(float(opening), rng), format="rgb24")
            frame.time_base = Fraction(1, 3000)
            frame.pts = round(start * 3000)
            container.mux(video.encode(frame))
        container.mux(video.encode())
    return path


def write_at_rate(path: Path, openings: np.ndarray, rate: int) -> Path:
    """Write a film of 25 frames a second at another rate: each frame shows the nearest opening."""
    times = [Fraction(number, rate) for number in range(len(openings) * rate // 25)]
    return write_film(path, [openings[min(round(time * 25), len(openings) - 1)] for time in times], times)


def measure(video: Path, **known: Path) -> dict[str, float]:
    """Return the values of a video without audio of its own."""
    audio = write_audio(video.with_suffix(".wav"), voice(4.0), 16_000)
    return measure_clip(ClipInputs(name="a", video=video, audio=audio, **known), INSTRUMENTS).values


def sync(video: Path, **known: Path) -> float:
    """Return the correlation of a video's lips with the truth."""
    return measure(video, **known)["correlation"]


def at_rate(rate: int, known: str) -> Callable[[Path, pytest.MonkeyPatch], None]:
    """A good video at another rate is nearly as good as at 25 frames a second."""

    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        opening = make_opening()
        np.save(folder / "truth.npy", opening)
        write_at_rate(folder / "reference.mp4", opening, 25)
        truth = {"truth": folder / "truth.npy", "reference_video": folder / "reference.mp4"}
        assert sync(write_at_rate(folder / "a.mp4", opening, rate), **{known: truth[known]}) > 0.9

    return check


def truth_per_frame(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A truth with a value for each frame of a video of 50 frames a second."""
    opening = np.repeat(make_opening(), 2)
    np.save(folder / "truth.npy", opening)
    times = [Fraction(number, 50) for number in range(len(opening))]
    assert sync(write_film(folder / "a.mp4", opening, times), truth=folder / "truth.npy") > 0.95


def variable_rate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A video without the frames that equal the one before, as screen recorders and phones write."""
    opening = np.repeat(make_opening()[::2], 2)
    opening[30:45] = opening[30]
    np.save(folder / "truth.npy", opening)
    kept = [number for number in range(NUM_FRAMES) if number == 0 or opening[number] != opening[number - 1]]
    times = [Fraction(number, 25) for number in kept]
    video = write_film(folder / "a.mp4", [opening[number] for number in kept], times)
    assert track_video(video, INSTRUMENTS).num_frames == pytest.approx(NUM_FRAMES, abs=2)
    assert sync(video, truth=folder / "truth.npy") > 0.95


def seams_at_50(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Borders of chunks are at multiples of 28 / 25 s, at 50 frames a second too."""
    opening = np.linspace(0, 0.2, NUM_FRAMES) + 0.2 * (np.arange(NUM_FRAMES) // 28)
    values = [
        measure(video)
        for video in (
            write_at_rate(folder / "25.mp4", opening, 25),
            write_at_rate(folder / "50.mp4", opening, 50),
        )
    ]
    assert values[1]["num_seams"] == values[0]["num_seams"] == 3
    assert min(value["seam_ratio"] for value in values) > 1.5
    assert values[1]["seam_ratio"] == pytest.approx(values[0]["seam_ratio"], rel=0.3)


def steady_rate_is_unchanged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 25 frames a second the clock changes nothing, whatever stands in the time stamps' place."""
    for name, times in {
        "a.mp4": [Fraction(number, 25) for number in range(20)],
        "b.mkv": [Fraction(number, 25) for number in range(20)],
        "c.mkv": [40_000 + Fraction(number, 25) for number in range(20)],
    }.items():
        video = write_film(folder / name, np.linspace(0, 0.8, 20), times)
        assert [frame.index for frame in resample_frames(video, 25)] == list(range(20))


def turned_video(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A phone's video that is stored on its side."""
    video = write_film(folder / "a.mp4", [0.5], [Fraction(0)])
    plain = next(read_frames(video)).pixels
    data = bytearray(video.read_bytes())
    start = data.index(b"tkhd") + 44
    data[start : start + 20] = struct.pack(">5i", 0, 65_536, 0, -65_536, 0)
    (folder / "b.mp4").write_bytes(data)
    turned = next(read_frames(folder / "b.mp4")).pixels
    assert np.array_equal(turned, np.rot90(plain, -1)) or np.array_equal(turned, np.rot90(plain))
    assert not np.array_equal(turned, plain)


def turned_portrait(orientation: int) -> Callable[[Path, pytest.MonkeyPatch], None]:
    """A portrait that is stored turned, with the flag that turns it back, is the same person."""
    degrees = {3: 180, 6: 90, 8: -90}[orientation]

    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        video = write_film(folder / "a.mp4", [0.5] * 20, [Fraction(number, 25) for number in range(20)])
        image = Image.fromarray(next(read_frames(video)).pixels)
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(folder / "plain.png")
        image.rotate(degrees, expand=True).save(folder / "turned.png", exif=exif)
        distances = [
            measure(video, portrait=folder / f"{name}.png")["identity_distance"]
            for name in ("plain", "turned")
        ]
        assert distances[1] == pytest.approx(distances[0], abs=0.01)

    return check


CASES = (
    Case("clocks", "30 frames a second against a truth", at_rate(30, "truth")),
    Case("clocks", "30 frames a second against a reference", at_rate(30, "reference_video")),
    Case("clocks", "60 frames a second against a truth", at_rate(60, "truth")),
    Case("clocks", "24 frames a second against a truth", at_rate(24, "truth")),
    Case("clocks", "a truth for each of 50 frames a second", truth_per_frame),
    Case("clocks", "a variable frame rate", variable_rate),
    Case("clocks", "borders of chunks at 50 frames a second", seams_at_50),
    Case("clocks", "25 frames a second", steady_rate_is_unchanged),
    Case("one reader", "a video stored on its side", turned_video),
    Case("one reader", "evaluate --portrait exif_3.jpg", turned_portrait(3)),
    Case("one reader", "evaluate with a portrait on its side", turned_portrait(6)),
)
