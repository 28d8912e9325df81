"""`livetalk avatar new`: render a synthetic portrait from a seed."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from livetalk.device import choose_device
from livetalk.errors import InputError
from livetalk.media.files import free_name, require_output_file
from livetalk.media.image import save_png
from livetalk.synthetic.people.identity import sample_identity
from livetalk.synthetic.performance.performance import FACE_UNITS, Performance
from livetalk.synthetic.rendering.renderer import Renderer

DEFAULT_NAME = Path("portrait.png")
_SMILE = {"mouthSmileLeft": 0.18, "mouthSmileRight": 0.18}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser("avatar", help="render a portrait of a person who does not exist")
    actions = parser.add_subparsers(dest="action", required=True)
    new = actions.add_parser("new", help="render a new portrait; the same seed gives the same person")
    new.add_argument("--seed", type=int, required=True, help="which person, 0 or more")
    new.add_argument(
        "--out", type=Path, help="PNG to write (default: portrait.png, or portrait-2.png if that exists, ...)"
    )
    new.add_argument("--overwrite", action="store_true", help="replace an existing picture")
    new.add_argument("--size", type=int, default=512, help="height and width in pixels (default: 512)")
    new.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:1 (default: cpu)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Render and write the portrait; return 0.

    Raises:
        InputError: the seed is negative or the size is outside 64..2048.
        OutputError: the file exists without `--overwrite`, or cannot be written.
    """
    if args.seed < 0:
        raise InputError(f"--seed {args.seed}: give a number that is 0 or more")
    if not 64 <= args.size <= 2048:
        raise InputError(f"--size {args.size}: give a size between 64 and 2048")
    device = choose_device(args.device)
    default = DEFAULT_NAME if args.overwrite else free_name(DEFAULT_NAME)
    out = require_output_file(args.out or default, ".png", overwrite=args.overwrite)
    written = save_png(out, render_portrait(args.seed, args.size, device), overwrite=args.overwrite)
    print(f"wrote {written} (seed {args.seed}, {args.size} x {args.size})")
    return 0


def render_portrait(seed: int, size: int, device: torch.device) -> NDArray[np.uint8]:
    """Render the identity of a seed with a slight smile, [size, size, 3], uint8."""
    # A slight smile, because neutral faces look stern.
    units = np.zeros((1, len(FACE_UNITS)), np.float32)
    for name, weight in _SMILE.items():
        units[0, FACE_UNITS.index(name)] = weight
    still = Performance(
        units=units,
        head_rotation=np.zeros((1, 3), np.float32),
        head_translation=np.zeros((1, 3), np.float32),
        gaze=np.zeros((1, 2), np.float32),
        breath=np.zeros(1, np.float32),
    )
    with torch.no_grad():
        renderer = Renderer(device, resolution=size)
        frames = renderer.render(renderer.prepare(sample_identity(seed)), still)
    return np.asarray(frames[0].cpu().numpy())
