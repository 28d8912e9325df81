"""Create the images of the README from a generated video: a film strip and an animated preview.

Usage: python scripts/make_preview.py output/demo.mp4 docs/media/demo_strip.png docs/media/demo.webp
"""

import argparse
import io
import sys
from pathlib import Path

import av
from PIL import Image

MAX_PREVIEW_BYTES = 2_000_000
QUALITIES = (80, 70, 60, 50, 40, 30)


def read_frames(path: Path, seconds: float) -> tuple[list[Image.Image], float]:
    """Return the frames of the first `seconds` of a video, and its frame rate."""
    with av.open(str(path)) as container:
        fps = float(container.streams.video[0].average_rate or 25)
        frames: list[Image.Image] = []
        for frame in container.decode(video=0):
            if len(frames) >= seconds * fps:
                break
            frames.append(Image.fromarray(frame.to_ndarray(format="rgb24")))
    return frames, fps


def make_strip(frames: list[Image.Image], columns: int, size: int, gap: int = 4) -> Image.Image:
    """Return evenly spaced frames side by side, each `size` pixels high, `gap` pixels apart."""
    chosen = [frames[round(i * (len(frames) - 1) / max(columns - 1, 1))] for i in range(columns)]
    tiles = [frame.resize((round(frame.width * size / frame.height), size)) for frame in chosen]
    width = sum(tile.width + gap for tile in tiles) - gap
    strip = Image.new("RGB", (width, size), "white")
    left = 0
    for tile in tiles:
        strip.paste(tile, (left, 0))
        left += tile.width + gap
    return strip


def make_preview(frames: list[Image.Image], fps: float, size: int) -> bytes:
    """Return an animated WebP at the original speed, with the highest quality that fits into 2 MB.

    Raises:
        ValueError: the lowest quality does not fit.
    """
    small = [frame.resize((round(frame.width * size / frame.height), size)) for frame in frames]
    for quality in QUALITIES:
        buffer = io.BytesIO()
        small[0].save(
            buffer,
            format="WEBP",
            save_all=True,
            append_images=small[1:],
            duration=round(1000 / fps),
            loop=0,
            quality=quality,
            method=4,
        )
        if buffer.tell() <= MAX_PREVIEW_BYTES:
            return buffer.getvalue()
    raise ValueError(f"{len(frames)} frames of {size} px do not fit into 2 MB: lower --seconds or --size")


def main() -> int:
    """Read a video and write both images."""
    parser = argparse.ArgumentParser(description="Create a film strip and an animated preview of a video.")
    parser.add_argument("video", type=Path)
    parser.add_argument("strip", type=Path, help="PNG to write")
    parser.add_argument("preview", type=Path, help="WebP to write")
    parser.add_argument("--columns", type=int, default=8, help="frames of the strip (default: 8)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of the preview (default: 6)")
    parser.add_argument("--size", type=int, default=256, help="height of a frame in pixels (default: 256)")
    args = parser.parse_args()
    frames, fps = read_frames(args.video, args.seconds)
    for path in (args.strip, args.preview):
        path.parent.mkdir(parents=True, exist_ok=True)
    make_strip(frames, args.columns, args.size // 2).save(args.strip, optimize=True)
    args.preview.write_bytes(make_preview(frames, fps, args.size))
    for path in (args.strip, args.preview):
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
