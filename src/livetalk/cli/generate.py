"""`livetalk generate`: a portrait and a voice in, an MP4 out."""

import argparse
from pathlib import Path

from livetalk.cli.progress import VideoProgress
from livetalk.data.files import require_output_file
from livetalk.data.framing import CROPS
from livetalk.data.image import load_image
from livetalk.data.media import open_audio
from livetalk.runtime.avatar import Avatar
from livetalk.runtime.build import PRECISIONS


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the sub-command and its options."""
    parser = subparsers.add_parser(
        "generate",
        help="make a talking video from a portrait and a voice",
        description="Make an MP4 in which the person of a portrait speaks a recording.",
    )
    parser.add_argument("--image", type=Path, required=True, help="portrait: any picture file")
    parser.add_argument("--audio", type=Path, required=True, help="voice: any audio or video file")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the .mp4 to make")
    parser.add_argument("--overwrite", action="store_true", help="replace existing results")
    parser.add_argument("--preview", type=Path, metavar="PNG", help="also make a contact sheet of frames")
    parser.add_argument(
        "--crop", choices=CROPS, default="face", help="what of the picture to use (default: face)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the model's own)")
    parser.add_argument(
        "--model", default="embedded", help="shipped model or checkpoint folder (default: embedded)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="of the networks (default: auto)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")


def run(args: argparse.Namespace) -> int:
    """Check what can be checked in a moment, load the model, make the video, say how fast it went.

    Raises:
        LivetalkError: something the user can mend.
        GenerationInterrupted: Ctrl-C.
    """
    require_output_file(args.output, ".mp4", overwrite=args.overwrite)
    if args.preview is not None:
        require_output_file(args.preview, ".png", overwrite=args.overwrite)
    load_image(args.image)
    audio = open_audio(args.audio)
    avatar = Avatar.load(args.model, device=args.device, precision=args.precision, threads=args.threads)
    model = avatar.model
    title = f"{model.name} on {model.models.device} in {model.precision}"
    with VideoProgress(title, avatar.fps) as progress:
        result = avatar.generate(
            args.image,
            audio,
            args.output,
            seed=args.seed,
            crop=args.crop,
            num_steps=args.steps,
            preview=args.preview,
            overwrite=args.overwrite,
            progress=progress,
        )
        elapsed = progress.elapsed_seconds
        speed = progress.speed
    print(f"{result.path}: {result.num_frames} frames, {result.duration_seconds:.2f} s of sound")
    if result.preview is not None:
        print(f"{result.preview}: contact sheet")
    print(f"{title}: {elapsed:.1f} s, {speed}")
    return 0
