"""Reported audio files: odd times, tracks, tags and channels."""

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.stream import Disposition
from numpy.typing import NDArray

from livetalk.errors import InputError
from livetalk.media.audio import open_audio
from livetalk.media.video import VideoWriter
from media_files import rewrite_times, voice, write_audio, write_tracks
from reported import Case

RATE = 48_000
SECONDS = 1.6
MOST_LAG = 24
"""Samples at 16 kHz by which the time stamps of containers, in milliseconds, and codecs are off."""

Samples = NDArray[np.float32]


def hear(path: Path) -> Samples:
    """Return the mono mix of a file at 16 kHz."""
    return np.concatenate(list(open_audio(path).mono_blocks()))


def is_silent(samples: Samples, start: float, end: float) -> bool:
    """Return whether 16-kHz samples are silent between two times, in seconds."""
    return bool(np.abs(samples[round(start * 16_000) : round(end * 16_000)]).max() < 0.01)


def check_voice(samples: Samples, start: float = 0.0, end: float = SECONDS) -> None:
    """Assert that the test voice, begun at 0, is heard in time between two times, at its own level."""
    first, last = max(round(start * 16_000), MOST_LAG), round(end * 16_000) - MOST_LAG
    expected = voice(SECONDS)[0][first:last]
    heard = [samples[first + lag : last + lag] for lag in range(-MOST_LAG, MOST_LAG + 1)]
    assert max(np.corrcoef(part, expected)[0, 1] for part in heard) > 0.95
    assert heard[MOST_LAG].std() == pytest.approx(expected.std(), rel=0.15)


def gap(name: str, codec: str, start: float, end: float) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = write_audio(folder / f"whole-{name}", voice(SECONDS, RATE), RATE, codec)
        path = rewrite_times(whole, folder / name, lambda time: None if start <= time < end else time)
        samples = hear(path)
        assert len(samples) == pytest.approx(SECONDS * 16_000, abs=400)
        assert is_silent(samples, start + 0.06, end - 0.02)
        check_voice(samples, 0.0, start - 0.02)
        check_voice(samples, end + 0.1, SECONDS - 0.02)

    return check


def late(name: str, codec: str, start: float, with_video: bool) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = folder / name
        if with_video:
            write_tracks(path, [voice(SECONDS, RATE)], codec=codec, start_seconds=start, with_video=True)
        else:
            write_audio(path, voice(SECONDS, RATE), RATE, codec, start_seconds=start)
        samples = hear(path)
        assert len(samples) == pytest.approx((SECONDS + start) * 16_000, abs=600)
        assert is_silent(samples, 0.0, start - 0.03)
        check_voice(samples[round(start * 16_000) :], 0.05, SECONDS - 0.05)

    return check


def moved(
    name: str, codec: str, move: Callable[[Fraction], Fraction]
) -> Callable[[Path, pytest.MonkeyPatch], None]:
    """Time stamps that mean nothing: all of the voice is heard, and no silence is made of them."""

    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = write_audio(folder / f"whole-{name}", voice(SECONDS, RATE), RATE, codec)
        samples = hear(rewrite_times(whole, folder / name, move))
        assert len(samples) == pytest.approx(SECONDS * 16_000, abs=600)
        check_voice(samples, 0.0, 0.7)

    return check


def tracks(
    name: str, loud: int, dispositions: list[Disposition]
) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lines: list[str] = []
        logger = "livetalk.media.containers._logger.warning"
        monkeypatch.setattr(logger, lambda text, *args: lines.append(text % args))
        silence = np.zeros_like(voice(SECONDS, RATE))
        samples = [voice(SECONDS, RATE) if number == loud else silence for number in range(len(dispositions))]
        check_voice(hear(write_tracks(folder / name, samples, dispositions=dispositions)))
        assert len(lines) == 1
        assert f"track {loud + 1} of {len(dispositions)} (aac)" in lines[0]

    return check


def rename_codec(path: Path) -> None:
    """Give the first audio track of an MP4 the name of a format without a decoder."""
    data = bytearray(path.read_bytes())
    start = data.index(b"mp4a", data.index(b"stsd"))
    data[start : start + 4] = b"apac"
    start = data.index(b"esds", start)
    data[start : start + 4] = b"dapa"
    path.write_bytes(data)


def no_decodable_track(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_audio(folder / "apac_only.m4a", voice(SECONDS, RATE), RATE, "aac")
    rename_codec(path)
    with pytest.raises(InputError, match=r"^audio .*apac_only\.m4a: nothing here decodes .*\(apac.*\); .*$"):
        open_audio(path)


def no_decodable_wav(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_audio(folder / "a.wav", voice(SECONDS), 16_000)
    data = bytearray(path.read_bytes())
    data[20:22] = struct.pack("<H", 0x0777)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"nothing here decodes its format \(.*0x0777\)"):
        open_audio(path)


def first_track_not_decodable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tracks(folder / "a.m4a", [np.zeros_like(voice(SECONDS, RATE)), voice(SECONDS, RATE)])
    rename_codec(path)
    check_voice(hear(path))


def tagged_wav(encoding: str, tag: str) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write_audio(folder / "tag.wav", voice(SECONDS), 16_000)
        title = tag.encode(encoding)
        title += b"\0" * (len(title) % 2)
        info = b"INFO" + b"INAM" + struct.pack("<I", len(title)) + title
        data = path.read_bytes()
        path.write_bytes(data[:36] + b"LIST" + struct.pack("<I", len(info)) + info + data[36:])
        check_voice(hear(path))

    return check


def tagged_mp3(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ID3 tag whose text claims UTF-8 and is not."""
    path = write_audio(folder / "tag.mp3", voice(SECONDS, RATE), RATE, "libmp3lame")
    text = b"\x03" + "Интервью".encode("cp1251")
    frame = b"TIT2" + struct.pack(">I", len(text)) + b"\0\0" + text
    path.write_bytes(b"ID3\x03\0\0" + struct.pack(">I", len(frame)) + frame + path.read_bytes())
    check_voice(hear(path))


def channels(*levels: float, offset: float = 0.0) -> Callable[[Path, pytest.MonkeyPatch], None]:
    """The voice at some levels in channels that have a constant offset besides; it is heard at full level."""

    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        samples = np.asarray(levels, np.float32)[:, None] * voice(SECONDS, RATE)
        samples = np.where(np.asarray(levels)[:, None] == 0, offset, samples).astype(np.float32)
        layout = {1: "mono", 2: "stereo", 6: "5.1", 10: "5.1.4"}[len(levels)]
        path = write_audio(folder / "a.wav", samples, RATE, "pcm_f32le", layout)
        heard = hear(path)
        check_voice(heard if np.dot(heard, voice(SECONDS)[0][: len(heard)]) > 0 else -heard)

    return check


def voice_with_offset(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cheap sound card adds a constant to the voice; it is neither heard nor written."""
    path = write_audio(folder / "a.wav", 0.9 * voice(SECONDS, RATE) + np.float32(0.1), RATE)
    heard = hear(path)
    assert abs(heard[1000:-1000].mean()) < 0.01
    check_voice(heard)


def cancelling_pair_beside_music(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A voice in two channels that cancel each other, and a louder tone in a third."""
    tone = 0.9 * np.sin(np.arange(voice(SECONDS, RATE).shape[1]) * 0.4, dtype=np.float32)
    sound = voice(SECONDS, RATE)[0]
    path = write_audio(folder / "a.wav", np.stack([sound, -sound, tone]), RATE, layout="3.0")
    heard = hear(path)
    assert abs(np.corrcoef(heard, voice(SECONDS)[0])[0, 1]) > 0.5


def written_level(num_channels: int, layout: str) -> Callable[[Path, pytest.MonkeyPatch], None]:
    """Channels that AAC lacks: the video's audio is what the model hears."""

    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        samples = np.zeros((num_channels, round(SECONDS * RATE)), np.float32)
        samples[-1] = voice(SECONDS, RATE)[0]
        reader = open_audio(write_audio(folder / "a.wav", samples, RATE, layout=layout))
        with VideoWriter(folder / "a.mp4", width=32, height=32, audio=reader) as writer:
            writer.write(np.zeros((40, 32, 32, 3), np.uint8))
        written = hear(folder / "a.mp4")
        check_voice(written)
        assert np.corrcoef(written, hear(folder / "a.wav"))[0, 1] > 0.98

    return check


def cancelling_channels_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven channels, of which half cancel the others, become one channel with the voice."""
    samples = np.tile(voice(SECONDS, RATE), (7, 1)) * np.array([[1], [-1], [1], [-1], [1], [-1], [0]])
    reader = open_audio(write_audio(folder / "a.wav", samples.astype(np.float32), RATE, layout="6.1"))
    with VideoWriter(folder / "a.mp4", width=32, height=32, audio=reader) as writer:
        writer.write(np.zeros((40, 32, 32, 3), np.uint8))
    check_voice(hear(folder / "a.mp4"))


def length_kept(name: str, codec: str, rate: int) -> Callable[[Path, pytest.MonkeyPatch], None]:
    """A container whose time stamps are estimates, or whose decoder starts late, adds no silence."""

    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = folder / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=rate, layout="mono")
            assert isinstance(stream, AudioStream)
            stream.bit_rate = 64_000
            frame = AudioFrame.from_ndarray(voice(SECONDS, rate), format="flt", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        assert len(hear(path)) == pytest.approx(SECONDS * 16_000, abs=800)

    return check


DEFAULT, NONE = Disposition.default, Disposition(0)

CASES = (
    Case("audio times", "hole.webm: 0.6 s were not recorded", gap("hole.webm", "libopus", 0.5, 1.1)),
    Case("audio times", "a gap in AAC in Matroska", gap("a.mkv", "aac", 0.3, 0.75)),
    Case("audio times", "a gap in MP4", gap("a.m4a", "aac", 0.8, 1.2)),
    Case("audio times", "late_1s.mp4: audio starts 1 s late", late("late_1s.mp4", "aac", 1.0, True)),
    Case("audio times", "late audio in a transport stream", late("a.ts", "aac", 0.7, True)),
    Case("audio times", "an audio file that starts late", late("a.mka", "libopus", 0.5, False)),
    Case("audio times", "a jump of two hours", moved("a.mkv", "aac", lambda t: t if t < 0.8 else t + 7200)),
    Case("audio times", "all time stamps are zero", moved("a.webm", "libopus", lambda t: Fraction(0))),
    Case("audio times", "a file cut from the middle of a day", moved("a.mkv", "aac", lambda t: t + 40_000)),
    Case("audio times", "AVI has no time stamps", length_kept("a.avi", "g722", 16_000)),
    Case("audio times", "the decoder of WMA starts late", length_kept("a.wma", "wmav2", 16_000)),
    Case("tracks", "two_tracks_second_default.mkv", tracks("a.mkv", 1, [NONE, DEFAULT])),
    Case("tracks", "the third of three in MP4 is the default", tracks("a.mp4", 2, [NONE, NONE, DEFAULT])),
    Case("tracks", "no default: the first", tracks("b.mkv", 0, [NONE, NONE])),
    Case("tracks", "apac_only.m4a", no_decodable_track),
    Case("tracks", "a WAV of an unknown format", no_decodable_wav),
    Case("tracks", "a format without a decoder beside AAC", first_track_not_decodable),
    Case("decoration", "gbk_tag.wav", tagged_wav("gbk", "你好世界 新闻播报")),
    Case("decoration", "a title in Latin-1", tagged_wav("latin-1", "Café Müller")),
    Case("decoration", "a title in cp1251 that claims UTF-8", tagged_mp3),
    Case("channels", "out_of_phase.wav", channels(1, -1)),
    Case("channels", "out of phase and not equally loud", channels(0.8, -1)),
    Case("channels", "one dead channel with an offset", channels(1, 0, offset=0.4)),
    Case("channels", "a voice with an offset", voice_with_offset),
    Case("channels", "surround with the voice in the centre", channels(0, 0, 1, 0, 0, 0, offset=-0.2)),
    Case("channels", "a pair that cancels beside music", cancelling_pair_beside_music),
    Case("one mix", "ch10.wav", written_level(10, "5.1.4")),
    Case("one mix", "a voice in the last of seven channels", written_level(7, "6.1")),
    Case("one mix", "seven channels that cancel each other", cancelling_channels_written),
)
