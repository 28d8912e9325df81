"""Small inputs and ways to run commands that the cases about processes share."""

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from livetalk.cli.main import main
from media_files import voice, write_audio
from tiny_checkpoint import save_tiny_checkpoint


@functools.cache
def tiny_checkpoint() -> Path:
    """Return the folder of the tiny model, written once per process."""
    return save_tiny_checkpoint(Path(tempfile.mkdtemp(prefix="tiny-")) / "tiny")


def generate_arguments(folder: Path, output: str = "out.mp4", seconds: float = 0.2) -> list[str]:
    """Write a picture and a sound into a folder, and return the command for a video of them."""
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "face.png")
    write_audio(folder / "voice.wav", voice(seconds), 16_000)
    files = ["--image", str(folder / "face.png"), "--audio", str(folder / "voice.wav")]
    model = ["--model", str(tiny_checkpoint()), "--device", "cpu", "--crop", "center"]
    return ["generate", *files, "--output", str(folder / output), *model]


def names(folder: Path) -> list[str]:
    """Return the names in a folder without those of the inputs."""
    return sorted(path.name for path in folder.iterdir() if path.name not in ("face.png", "voice.wav"))


def run_in_process(arguments: list[str]) -> int:
    """Run a command in this process; also where its options are refused, the exit code is returned."""
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def run_shell(line: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a line of bash in a folder; `livetalk` stands for this package's command."""
    words = f"livetalk() {{ '{sys.executable}' -m livetalk \"$@\"; }}\n{line}"
    return subprocess.run(
        ["bash", "-c", words],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
