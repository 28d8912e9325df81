"""The bad or odd inputs, names, options, environments and endings that `odd_inputs` tries."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

import numpy as np
from drawn_face import write_video
from PIL import Image
from process_inputs import tiny_checkpoint

from media_files import voice, write_audio, write_silent_video

_SECONDS = 0.2
_FRAMES = 5


@dataclass(frozen=True)
class Attempt:
    """One run of a command.

    Attributes:
        name: what is odd.
        prepare: makes files in an empty folder, which is the current one, and returns the arguments.
        environment: variables that are set.
        frames: of the video after exit code 0; None where any number may be right.
        interrupt: frames after which SIGTERM arrives.
        lines: lines that standard output takes before it fails.
    """

    name: str
    prepare: Callable[[Path], list[str]]
    environment: dict[str, str] = field(default_factory=dict)
    frames: int | None = None
    interrupt: int | None = None
    lines: int | None = None


def make_attempts(seed: int) -> list[Attempt]:
    """Return all attempts of a seed in a random order."""
    rng = random.Random(seed)
    makers = (
        _audio,
        _pictures,
        _names,
        _options,
        _environments,
        _endings,
        _models,
        _evaluations,
        _evaluation_inputs,
        _folders,
    )
    attempts = [attempt for make in makers for attempt in make(rng)]
    rng.shuffle(attempts)
    return attempts


def _picture(path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def _generate(folder: Path, *more: str, image: str = "face.png", audio: str = "voice.wav") -> list[str]:
    """Make a picture and a voice where they are missing, and return a command for a video."""
    if image == "face.png":
        _picture(folder / image)
    if audio == "voice.wav":
        write_audio(folder / audio, voice(_SECONDS), 16_000)
    given = {"--image": image, "--audio": audio, "--output": "out.mp4", "--model": str(tiny_checkpoint())}
    given |= {"--device": "cpu", "--crop": "center"}
    given = {name: value for name, value in given.items() if name not in more}
    return ["generate", *(f"{name}={value}" for name, value in given.items()), *more]


def _spoil(path: Path, rng: random.Random) -> str:
    """Damage a file in one of several ways, and say how."""
    data = bytearray(path.read_bytes())
    kind = rng.choice(("cut", "flip", "zero", "swap", "append", "head", "text", "empty", "double"))
    at = rng.randrange(max(1, len(data)))
    if kind == "cut":
        del data[at:]
    elif kind == "flip":
        for _ in range(rng.randint(1, 20)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "zero":
        data[at : at + 200] = bytes(len(data[at : at + 200]))
    elif kind == "swap":
        data = data[at:] + data[:at]
    elif kind == "append":
        data += rng.randbytes(500)
    elif kind == "head":
        data[: min(64, len(data))] = rng.randbytes(min(64, len(data)))
    elif kind == "text":
        data = bytearray(rng.choice((b"<html>404</html>", b"hello", b"\xef\xbb\xbf{}", b"null", b"[[[[")))
    elif kind == "empty":
        data.clear()
    else:
        data += bytes(data)
    path.write_bytes(data)
    return kind


def _audio(rng: random.Random) -> Iterator[Attempt]:
    formats = (
        *(("wav", "pcm_s16le"), ("wav", "pcm_f32le"), ("wav", "pcm_u8"), ("flac", "flac"), ("mp3", "mp3")),
        *(("m4a", "aac"), ("ogg", "vorbis"), ("mka", "libopus"), ("mkv", "aac"), ("aiff", "pcm_s16be")),
    )
    for index in range(50):
        suffix, codec = formats[index % len(formats)]

        def prepare(
            folder: Path, suffix: str = suffix, codec: str = codec, seed: int = rng.random()
        ) -> list[str]:
            path = write_audio(folder / f"voice.{suffix}", voice(_SECONDS, 48_000, 2), 48_000, codec)
            _spoil(path, random.Random(seed))
            return _generate(folder, audio=path.name)

        yield Attempt(f"damaged {suffix} of {codec}", prepare)
    for seconds in (0.0, 1e-4, 0.0399, 0.04, 0.0401, 0.2, 0.52, 1.4):
        for rate, channels in ((8_000, 1), (44_100, 2), (48_000, 6), (96_000, 1)):

            def prepare(
                folder: Path, seconds: float = seconds, rate: int = rate, channels: int = channels
            ) -> list[str]:
                write_audio(folder / "a.wav", voice(seconds, rate, channels), rate)
                return _generate(folder, audio="a.wav")

            frames = ceil(round(round(seconds * rate) * 25 / rate, 9)) or None
            yield Attempt(f"{seconds} s at {rate} in {channels} channels", prepare, frames=frames)


def _pictures(rng: random.Random) -> Iterator[Attempt]:
    suffixes = ("png", "jpg", "gif", "bmp", "webp", "tiff", "ppm", "tga", "ico")
    for index in range(45):
        suffix = suffixes[index % len(suffixes)]

        def prepare(folder: Path, suffix: str = suffix, seed: int = rng.random()) -> list[str]:
            _picture(folder / f"face.{suffix}")
            _spoil(folder / f"face.{suffix}", random.Random(seed))
            return _generate(folder, image=f"./face.{suffix}")

        yield Attempt(f"damaged {suffix}", prepare)
    for mode in ("1", "L", "P", "LA", "RGBA", "I;16", "I", "F", "CMYK", "YCbCr", "LAB"):

        def prepare(folder: Path, mode: str = mode) -> list[str]:
            suffix = "tiff" if mode in ("I", "F", "CMYK", "YCbCr", "LAB") else "png"
            Image.new(mode, (40, 60)).save(f"f.{suffix}")
            return _generate(folder, image=f"f.{suffix}")

        yield Attempt(f"picture of mode {mode}", prepare)
    for size in ((1, 1), (1, 3000), (3000, 1), (16, 16), (31, 33), (5000, 17)):

        def prepare(folder: Path, size: tuple[int, int] = size) -> list[str]:
            Image.new("RGB", size).save(folder / "f.png")
            return _generate(folder, image="f.png")

        yield Attempt(f"picture of {size}", prepare)


_ODD_NAMES = (
    *(
        "你好",
        "é",
        "e\u0301",
        "a b",
        " a",
        "a\nb",
        "a\tb",
        "%d",
        "a:b",
        "file:a",
        "-a",
        "--output",
        "a'b",
        'a"b',
    ),
    *(
        "a\\b",
        "*",
        "?",
        "[a]",
        "{x}",
        "\u202egpj",
        "🙂",
        "\udcff",
        "con",
        "a.b.c",
        ".hidden",
        "a" * 240,
        "~",
        "$HOME",
    ),
)


def _names(rng: random.Random) -> Iterator[Attempt]:
    for name in _ODD_NAMES:

        def write(folder: Path, name: str = name) -> list[str]:
            return _generate(folder, f"--output={name}.mp4")

        def read(folder: Path, name: str = name) -> list[str]:
            _picture(folder / f"{name}.png")
            write_audio(folder / "voice.wav", voice(_SECONDS), 16_000).rename(folder / f"{name}.wav")
            return _generate(folder, image=f"{name}.png", audio=f"{name}.wav")

        yield Attempt(f"output named {name!a}", write, frames=_FRAMES)
        yield Attempt(f"inputs named {name!a}", read, frames=_FRAMES)
    for output in (
        "",
        ".",
        "..",
        "/",
        ".mp4",
        "a.MP4",
        "a",
        "a.mp4/",
        "/dev/null",
        "/dev/full/a.mp4",
        "a" * 300 + ".mp4",
    ):
        yield Attempt(
            f"output {output[:20]!r}", lambda folder, output=output: _generate(folder, f"--output={output}")
        )


_NUMBERS = (
    "-1",
    "0",
    "1",
    "2",
    "3.5",
    "nan",
    "inf",
    "1e9",
    "\u0661",
    "0x10",
    "",
    "99999999999999999999",
    "-0",
    "1_0",
)


def _options(rng: random.Random) -> Iterator[Attempt]:
    for option in ("--seed", "--steps", "--threads", "--latents-per-decode", "--resident-blocks"):
        for number in rng.sample(_NUMBERS, 8):
            yield Attempt(
                f"generate {option}={number}",
                lambda folder, o=option, n=number: _generate(folder, f"{o}={n}"),
            )
    for size in (
        "0x0",
        "64",
        "64x",
        "x64",
        "64x64x64",
        "63x64",
        "-64x64",
        "nanxnan",
        "٦٤x٦٤",
        "64X64",
        " 64x64",
    ):
        yield Attempt(f"size {size}", lambda folder, size=size: _generate(folder, f"--size={size}"))
    for device in ("mps", "cuda:9", "cuda:-1", "xpu", "", "CPU", "cpu:7", "meta", "cuda:x", "privateuseone"):
        for command in (["doctor"], ["avatar", "new", "--seed=1"], ["bench", "--random-weights=tiny"]):
            line = [*command, f"--device={device}"]
            yield Attempt(" ".join(line), lambda folder, line=line: line)
    for option in ("--seed", "--size"):
        for number in ("-1", "nan", "1e3", "65", "99999999999999999999", ""):
            line = ["avatar", "new", "--seed=1", "--size=64", f"{option}={number}"]
            yield Attempt(" ".join(line), lambda folder, line=line: line)
    for line in (
        *(
            ["doctor", f"--gpu-memory={number}", "--random-weights=tiny"]
            for number in ("nan", "inf", "-1", "0", "x")
        ),
        *(["bench", "--random-weights=tiny", f"--chunks={number}"] for number in ("0", "-1", "nan", "1")),
        *(
            ["compare-numerics", "float32", name, "--random-weights=tiny"]
            for name in ("", "x", "float8", "+", "a+b")
        ),
        *(["doctor", "--model", model] for model in ("", ".", "/", "/dev/null", "nothing", "a\0b", "~")),
        *(
            ["train", stage, "--corpus=c", "--work=w", "--out=o"]
            for stage in ("render", "dit", "export", "x")
        ),
        *(["export", model, "new"] for model in ("", ".", "/dev/null", "nothing")),
        *([], [""], ["--"], ["generate"], ["nonsense"], ["generate", "--help"], ["data"], ["data", "speech"]),
    ):
        yield Attempt(" ".join(line) or "nothing", lambda folder, line=line: line)


def _environments(rng: random.Random) -> Iterator[Attempt]:
    values = {
        "RANK": ("", "x", "-1", "0"),
        "LIVETALK_DEBUG": ("", "0", "maybe"),
        "XDG_CACHE_HOME": ("", "relative", "/dev/null", "/proc"),
        "HOME": ("", "/nonexistent", "/dev/null"),
        "TMPDIR": ("", "/nonexistent", "/dev/null"),
        "COLUMNS": ("0", "-5", "x"),
        "TERM": ("", "dumb", "nonsense"),
        "LANG": ("", "C", "xx_YY.nonsense"),
        "OMP_NUM_THREADS": ("", "x", "-1"),
        "CUDA_VISIBLE_DEVICES": ("", "x", "-1"),
        "NO_COLOR": ("1",),
    }
    for name, words in values.items():
        for word in words:
            both = {name: word} | ({"WORLD_SIZE": rng.choice(("", "x", "1"))} if name == "RANK" else {})
            frames = None if name in ("RANK", "LIVETALK_DEBUG") else _FRAMES
            yield Attempt(f"generate with {both}", _generate, environment=both, frames=frames)
    for name, word in (
        ("HF_ENDPOINT", "x"),
        ("HF_ENDPOINT", "ftp://x"),
        ("all_proxy", "socks5://127.0.0.1:9"),
    ):
        both = {"HF_ENDPOINT": "http://127.0.0.1:9", name: word}
        yield Attempt(f"download with {both}", lambda folder: ["download", "flashtalk-14b"], environment=both)


def _endings(rng: random.Random) -> Iterator[Attempt]:
    def prepare(folder: Path) -> list[str]:
        write_audio(folder / "long.wav", voice(4.0), 16_000)
        return _generate(folder, "--preview=sheet.png", audio="long.wav")

    for _ in range(10):
        frames = rng.randint(1, 100)
        yield Attempt(f"SIGTERM after {frames} frames", prepare, interrupt=frames)
    for lines in range(6):
        yield Attempt(f"output that fails after {lines} lines", prepare, lines=lines, frames=100)
    for name in ("out.mp4", "sheet.png", "out.partial.mp4"):

        def occupied(folder: Path, name: str = name) -> list[str]:
            (folder / name).write_text("precious")
            return prepare(folder)

        yield Attempt(f"{name} exists, SIGTERM", occupied, interrupt=30)


def _models(rng: random.Random) -> Iterator[Attempt]:
    names = ("config.json", "dit.safetensors", "vae.safetensors", "speech_encoder.safetensors")
    for index in range(32):

        def prepare(folder: Path, name: str = names[index % 4], seed: int = rng.random()) -> list[str]:
            model = Path(shutil.copytree(tiny_checkpoint(), folder / "model"))
            _spoil(model / name, random.Random(seed))
            return _generate(folder, "--model", "model")

        yield Attempt(f"model with damaged {names[index % 4]}", prepare)
    for _ in range(25):

        def change(folder: Path, seed: int = rng.random()) -> list[str]:
            model = Path(shutil.copytree(tiny_checkpoint(), folder / "model"))
            fields = json.loads((model / "config.json").read_text())
            _change_value(fields, random.Random(seed))
            (model / "config.json").write_text(json.dumps(fields))
            return _generate(folder, "--model", "model")

        yield Attempt("model with another configuration", change)


def _change_value(fields: object, rng: random.Random) -> None:
    """Change, remove or add one value somewhere in a tree of JSON values."""
    while isinstance(fields, dict | list) and fields:
        keys = list(fields) if isinstance(fields, dict) else list(range(len(fields)))
        key = rng.choice(keys)
        if isinstance(fields[key], dict | list) and fields[key] and rng.random() < 0.85:
            fields = fields[key]
            continue
        if rng.random() < 0.2:
            del fields[key]
        else:
            fields[key] = rng.choice((None, -1, 0, 3, 1.5, "x", "", [], {}, True, [1, 2], 1 << 40))
        return


def _face_video(folder: Path) -> None:
    write_video(folder / "v.mp4", 0.4 - 0.4 * np.cos(np.arange(30) / 3))


def _evaluations(rng: random.Random) -> Iterator[Attempt]:
    for index in range(12):

        def damaged(folder: Path, seed: int = rng.random()) -> list[str]:
            _face_video(folder)
            _spoil(folder / "v.mp4", random.Random(seed))
            return ["evaluate", "v.mp4", "--json=m.json"]

        yield Attempt(f"evaluate a damaged video {index}", damaged)
    manifests = (
        "",
        "null",
        "[]",
        "{}",
        "3",
        '{"clips": 3}',
        '{"clips": [3]}',
        '{"clips": [{"video": 5}]}',
        "[" * 9000,
    )
    for text in manifests:

        def manifest(folder: Path, text: str = text) -> list[str]:
            (folder / "manifest.json").write_text(text)
            return ["evaluate", "manifest.json"]

        yield Attempt(f"evaluate a manifest {text[:20]}", manifest)


def _evaluation_inputs(rng: random.Random) -> Iterator[Attempt]:
    for option in ("--truth", "--events", "--portrait", "--audio", "--reference-video", "--probe"):
        for content in ("", "null", '[{"symbol": 3}]', "\x93NUMPY", "PK\x03\x04"):

            def other(folder: Path, option: str = option, content: str = content) -> list[str]:
                _face_video(folder)
                (folder / "other").write_text(content)
                return ["evaluate", "v.mp4", f"{option}=other"]

            yield Attempt(f"evaluate {option} with {content!r}", other)
    for frames in ("0", "-3", "nan", "100000"):

        def chunks(folder: Path, frames: str = frames) -> list[str]:
            _face_video(folder)
            return ["evaluate", "v.mp4", f"--chunk-frames={frames}"]

        yield Attempt(f"evaluate --chunk-frames={frames}", chunks)


def _folders(rng: random.Random) -> Iterator[Attempt]:
    kinds: dict[str, Callable[[Path], object]] = {
        "a folder": Path.mkdir,
        "a loop of links": lambda path: path.symlink_to(path),
        "a broken link": lambda path: path.symlink_to("nothing"),
        "a pipe": os.mkfifo,
        "the null device": lambda path: path.symlink_to("/dev/null"),
        "endless zeros": lambda path: path.symlink_to("/dev/zero"),
        "a film without audio": write_silent_video,
        "a file of the system": lambda path: path.symlink_to("/proc/self/mem"),
    }
    for kind, make in kinds.items():
        for option in ("--image", "--audio", "--output", "--preview", "--model"):

            def prepare(
                folder: Path, option: str = option, make: Callable[[Path], object] = make
            ) -> list[str]:
                name = {"--output": "there.mp4", "--preview": "there.png"}.get(option, "there.mkv")
                make(folder / "there.mkv")
                (folder / "there.mkv").rename(folder / name)
                arguments = _generate(folder)
                return [
                    *(word for word in arguments if not word.startswith(f"{option}=")),
                    f"{option}={name}",
                ]

            yield Attempt(f"{option} is {kind}", prepare)
