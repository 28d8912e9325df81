"""Measure the host memory of `Avatar.generate` over a long clip.

    python scripts/measure_generate_memory.py --minutes 10 --audio-mode stream
    python scripts/measure_generate_memory.py --minutes 10 --model embedded --num-steps 1

Prints the process's anonymous memory (not backed by files) as the clip grows, which must stay constant, and
the peak resident size at the end. Without `--model` the networks are random and tiny, so that memory that
grows with the clip is visible.
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
    """Generate a clip and print memory as it grows."""
    parser = argparse.ArgumentParser(description="Measure host memory over a long clip.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--audio-mode", choices=["stream", "whole"], default="stream")
    parser.add_argument("--model", help="a shipped model or a checkpoint folder; default: tiny and random")
    parser.add_argument("--num-steps", type=int, help="fewer steps are faster and need the same memory")
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
        audio = write_voice(Path(folder) / "voice.wav", args.minutes)
        result = avatar.generate(
            portrait,
            audio,
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
    """Write a tone modulated like syllables, one second at a time to bound memory."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        for start in range(0, round(minutes * 60) * SAMPLE_RATE, SAMPLE_RATE):
            samples = hum(start, SAMPLE_RATE, SAMPLE_RATE)
            file.writeframes((samples * 32767).short().numpy().astype("<i2").tobytes())
    return path


def anonymous_megabytes() -> float:
    """Return the anonymous resident memory of this process, in 10^6 bytes."""
    return read_host_memory()["RssAnon"] / 1e6


if __name__ == "__main__":
    main()
