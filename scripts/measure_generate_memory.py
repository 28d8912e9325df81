"""Measure the host memory of `Avatar.generate` over a long clip.

    python scripts/measure_generate_memory.py --minutes 10 --audio-mode stream
    python scripts/measure_generate_memory.py --minutes 10 --model embedded --num-steps 1

Prints the process's anonymous memory (what is no mapped file) as the clip grows, and its peak resident size
at the end; a flat column is the point. Without `--model` the networks are random and tiny, so that anything
that grows with the clip would stand out.
"""

import argparse
import tempfile
import wave
from pathlib import Path

import numpy as np

from livetalk import Avatar, RunConfig
from livetalk.bench.chunks import hum
from livetalk.bench.host_memory import read_host_memory
from livetalk.bench.machine import peak_process_gb
from livetalk.media.audio import SAMPLE_RATE

REPORT_FRAMES = 1500


def main() -> None:
    """Parse the command line, generate, print a table."""
    parser = argparse.ArgumentParser(description="Measure host memory over a long clip.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--audio-mode", choices=["stream", "whole"], default="stream")
    parser.add_argument("--model", help="a shipped model or a checkpoint folder; default: tiny and random")
    parser.add_argument("--num-steps", type=int, help="fewer steps are quicker and take the same memory")
    args = parser.parse_args()
    if args.model is None:
        avatar = Avatar.with_random_weights("tiny", RunConfig(device="cpu", precision="float32", threads=1))
    else:
        avatar = Avatar.load(args.model, RunConfig(device="cpu", threads=1))
    portrait = np.random.default_rng(0).integers(0, 256, (80, 60, 3), dtype=np.uint8)
    last = -REPORT_FRAMES

    def report(done: int, total: int) -> None:
        nonlocal last
        if done - last >= REPORT_FRAMES or done == total:
            last = done
            print(f"{done:6d} of {total} frames: {anonymous_megabytes():.1f} MB", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        sound = write_voice(Path(folder) / "voice.wav", args.minutes)
        result = avatar.generate(
            portrait,
            sound,
            Path(folder) / "out.mp4",
            crop="center",
            size="16x16" if args.model is None else None,
            num_steps=args.num_steps,
            audio_mode=args.audio_mode,
            progress=report,
        )
    print(f"{args.audio_mode}: {result.num_frames} frames for {result.duration_seconds:.2f} s")
    print(f"peak resident size {1000 * peak_process_gb():.1f} MB")


def write_voice(path: Path, minutes: float) -> Path:
    """Write a tone that rises and falls like syllables, a second at a time."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        for start in range(0, round(minutes * 60) * SAMPLE_RATE, SAMPLE_RATE):
            samples = hum(start, SAMPLE_RATE, SAMPLE_RATE)
            file.writeframes((samples * 32767).short().numpy().astype("<i2").tobytes())
    return path


def anonymous_megabytes() -> float:
    """Return this process's resident memory that no file backs, in units of 10^6 bytes."""
    return read_host_memory()["RssAnon"] / 1e6


if __name__ == "__main__":
    main()
