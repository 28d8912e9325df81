"""`livetalk flashtalk-compat`: the command line of the published program, for scripts written for it."""

import argparse
from datetime import datetime
from pathlib import Path

from livetalk.assembly.published import PUBLISHED_DEFAULTS
from livetalk.assembly.run import RunConfig
from livetalk.assembly.source import ModelSource
from livetalk.avatar import Avatar
from livetalk.cli.byte_progress import ByteProgress
from livetalk.cli.progress import VideoProgress
from livetalk.compat.flashtalk import infer_params
from livetalk.compat.pipeline import UNSEEDED
from livetalk.media.audio import open_audio
from livetalk.media.files import require_output_file
from livetalk.media.image import load_image
from livetalk.placement.apply import PlacementConfig
from livetalk.streaming.spec import StreamOptions, StreamSpec

AUDIO_MODES = {"stream": "stream", "once": "whole"}
"""Maps published names of audio modes to those of this package."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the sub-command and its options."""
    parser = subparsers.add_parser(
        "flashtalk-compat",
        help="generate a video with the published flags",
        description="Generate a video as generate_video.py of the published model does, with its flags. New "
        "scripts should use livetalk generate.",
    )
    parser.add_argument("--ckpt_dir", type=Path, required=True, help="folder of the model")
    parser.add_argument("--wav2vec_dir", type=Path, required=True, help="folder of the speech encoder")
    parser.add_argument("--cond_image", type=Path, required=True, help="portrait: any image file")
    parser.add_argument("--audio_path", type=Path, required=True, help="recording: any audio or video file")
    parser.add_argument(
        "--save_file", type=Path, help="the .mp4 to write (default: sample_results/res_DATE-TIME.mp4)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an existing video (not a published flag)"
    )
    parser.add_argument(
        "--base_seed", type=int, default=UNSEEDED, help=f"seed of the noise; negative: {UNSEEDED} (default)"
    )
    parser.add_argument("--input_prompt", default=PUBLISHED_DEFAULTS.prompt, help="description of the video")
    parser.add_argument("--audio_encode_mode", choices=AUDIO_MODES, default="stream", help="default: stream")
    parser.add_argument(
        "--cpu_offload", action="store_true", help="keep the transformer's blocks in host memory"
    )


def run(args: argparse.Namespace) -> int:
    """Check the arguments, load the model and generate the video.

    Raises:
        LivetalkError: an argument, a file or the machine is unsuitable.
        GenerationInterrupted: Ctrl-C.
    """
    output = require_output_file(args.save_file or _default_output(), ".mp4", overwrite=args.overwrite)
    options = StreamOptions(
        seed=UNSEEDED if args.base_seed < 0 else args.base_seed,
        prompt=args.input_prompt,
        audio_mode=AUDIO_MODES[args.audio_encode_mode],
        size=f"{infer_params['height']}x{infer_params['width']}",
        loudness=infer_params["loudness"],
        num_steps=infer_params["sample_steps"],
    )
    # Errors of options and inputs show before the model is loaded, which may take minutes.
    StreamSpec.from_options(options)
    load_image(args.cond_image)
    audio = open_audio(args.audio_path)
    with ByteProgress(f"loading {args.ckpt_dir}") as loading:
        avatar = Avatar.load(
            ModelSource(model=args.ckpt_dir, wav2vec_dir=args.wav2vec_dir),
            RunConfig(placement=PlacementConfig(resident_blocks=0 if args.cpu_offload else None)),
            progress=loading,
        )
    title = f"{avatar.model.name} on {avatar.model.executor.device} in {avatar.model.precision}"
    with VideoProgress(title, avatar.fps) as progress:
        result = avatar.generate(
            args.cond_image, audio, output, overwrite=args.overwrite, progress=progress, **options
        )
    print(f"{result.path}: {result.num_frames} frames, {result.duration_seconds:.2f} s of audio")
    return 0


def _default_output() -> Path:
    return Path("sample_results") / f"res_{datetime.now().astimezone():%Y%m%d-%H%M%S-%f}.mp4"
