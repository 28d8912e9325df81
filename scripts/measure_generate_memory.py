"""Measure the host memory of `Avatar.generate` over a long clip.

    python scripts/measure_generate_memory.py --minutes 10 --audio-mode stream
    python scripts/measure_generate_memory.py --minutes 10 --model embedded --num-steps 1

Prints the process's anonymous memory (what is no mapped file) as the clip grows, and its peak resident size
at the end; a flat column is the point. Without `--model` the networks are random and tiny, so that anything
that grows with the clip would stand out.
"""

import argparse
import resource
import tempfile
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame

from livetalk import Avatar, RunConfig
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
    print(f"peak resident size {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000:.1f} MB")


def write_voice(path: Path, minutes: float) -> Path:
    """Write a tone with a syllable-like envelope, a second at a time."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono")
        for start in range(0, round(minutes * 60) * SAMPLE_RATE, SAMPLE_RATE):
            time = np.arange(start, start + SAMPLE_RATE) / SAMPLE_RATE
            wave = np.sin(2 * np.pi * 180 * time) * (0.5 + 0.5 * np.sin(2 * np.pi * 4 * time))
            frame = AudioFrame.from_ndarray((9000 * wave).astype(np.int16)[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE, start
            container.mux(stream.encode(frame))  # type: ignore[attr-defined]
        container.mux(stream.encode(None))  # type: ignore[attr-defined]
    return path


def anonymous_megabytes() -> float:
    """Return this process's resident memory that no file backs, in units of 10^6 bytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
