"""`livetalk generate`: generate an MP4 from a portrait and a recording."""

import argparse
import dataclasses
from pathlib import Path

from livetalk.assembly.build import build_model
from livetalk.assembly.model import AvatarModel
from livetalk.assembly.run import RunConfig
from livetalk.assembly.run_options import (
    add_chunk_options,
    add_model_options,
    add_run_options,
    chunk_options,
    model_source,
    run_config,
)
from livetalk.assembly.source import ModelSource
from livetalk.avatar import NOISE_NOTICE, Avatar
from livetalk.cli.byte_progress import ByteProgress
from livetalk.cli.guard import run_workers
from livetalk.cli.progress import VideoProgress
from livetalk.crop import CROPS
from livetalk.engine.worker import choose_worker_device, require_gpus, require_place, run_worker
from livetalk.env import WorkerPlace, worker_place
from livetalk.media.audio import AudioReader, open_audio
from livetalk.media.files import remove_leftovers, require_output_file
from livetalk.media.image import load_image
from livetalk.streaming.settings import AudioMode, LoudnessMode
from livetalk.streaming.spec import StreamOptions, StreamSpec


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the sub-command and its options."""
    parser = subparsers.add_parser(
        "generate",
        help="generate a talking video from a portrait and a recording",
        description="Generate an MP4 in which the person of a portrait speaks a recording.",
    )
    parser.add_argument("--image", type=Path, required=True, help="portrait: any image file")
    parser.add_argument("--audio", type=Path, required=True, help="recording: any audio or video file")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the .mp4 to write")
    parser.add_argument("--overwrite", action="store_true", help="replace existing results")
    parser.add_argument("--preview", type=Path, metavar="PNG", help="also write a contact sheet of frames")
    _add_stream_options(parser)
    add_chunk_options(parser)
    add_model_options(parser)
    add_run_options(parser)


def _add_stream_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--crop", choices=CROPS, help="part of the image to use (default: the model's own)")
    parser.add_argument("--seed", type=int, help="seed of the noise (default: the model's own)")
    parser.add_argument("--prompt", help="description of the video, for a model with a text branch")
    parser.add_argument(
        "--audio-mode",
        choices=[mode.value for mode in AudioMode],
        help="stream: each frame depends on past audio only, as live; whole: also on the future "
        "(default: stream)",
    )
    parser.add_argument(
        "--loudness",
        choices=[mode.value for mode in LoudnessMode],
        help="level of the audio: off: as recorded; running: a slow gain that does not amplify noise; "
        "published: as in the published code (default: the model's own)",
    )


def run(args: argparse.Namespace) -> int:
    """Check the arguments, load the model, generate the video and print the speed.

    Raises:
        LivetalkError: an argument, a file or the machine is unsuitable.
        GenerationInterrupted: Ctrl-C.
    """
    require_output_file(args.output, ".mp4", overwrite=args.overwrite)
    if args.preview is not None:
        require_output_file(args.preview, ".png", overwrite=args.overwrite)
    # Errors of the inputs show before the model is loaded, which may take minutes.
    load_image(args.image)
    StreamSpec.from_options(_stream_options(args))
    source, how = model_source(args), run_config(args)
    audio = open_audio(args.audio)
    place = worker_place()
    if place is None:
        require_gpus(how.gpus, how.device)
        if how.gpus > 1:
            try:
                return run_workers(_run_rank, [args, source, how], how.gpus)
            finally:
                # Of a worker that was killed.
                remove_leftovers(args.output.absolute().parent)
    else:
        require_place(place, how.gpus)
        if place.num_ranks > 1:
            return _run_rank(place, args, source, how)
    return _generate(args, audio, Avatar(_load(source, how)))


def _run_rank(place: WorkerPlace, args: argparse.Namespace, source: ModelSource, how: RunConfig) -> int:
    """Run one of several worker processes; the leader generates the video with all of them."""
    audio = open_audio(args.audio)
    device = choose_worker_device(how.device, place)
    return run_worker(
        place,
        device,
        lambda: _load(source, dataclasses.replace(how, device=str(device)), quiet=place.rank > 0),
        lambda leader: _generate(args, audio, Avatar(leader.model, leader)),
    )


def _generate(args: argparse.Namespace, audio: AudioReader, avatar: Avatar) -> int:
    model = avatar.model
    title = model.title if args.gpus == 1 else f"{model.title}, {args.gpus} processes"
    with VideoProgress(title, avatar.fps) as progress:
        result = avatar.generate(
            args.image,
            audio,
            args.output,
            preview=args.preview,
            overwrite=args.overwrite,
            progress=progress,
            **_stream_options(args),
        )
        elapsed = progress.elapsed_seconds
        speed = progress.speed
    print(f"{result.path}: {result.num_frames} frames, {result.duration_seconds:.2f} s of audio")
    if result.preview is not None:
        print(f"{result.preview}: contact sheet")
    print(f"{title}: {elapsed:.1f} s, {speed}")
    if model.random_weights:
        print(f"{result.path}: {NOISE_NOTICE}; only its length, its audio and its speed are meaningful")
    return 0


def _stream_options(args: argparse.Namespace) -> StreamOptions:
    return StreamOptions(
        **chunk_options(args),
        seed=args.seed,
        crop=args.crop,
        prompt=args.prompt,
        audio_mode=args.audio_mode,
        loudness=args.loudness,
    )


def _load(source: ModelSource, run: RunConfig, *, quiet: bool = False) -> AvatarModel:
    """Load the model; `quiet` shows no progress, which another rank shows."""
    if quiet or source.random_weights is not None:
        return build_model(source, run)
    with ByteProgress(f"loading {source.title}") as progress:
        return build_model(source, run, progress=progress)
