"""`livetalk generate`: a portrait and a voice in, an MP4 out."""

import argparse
from pathlib import Path

from livetalk.accelerate.apply import AUTO, AccelerationConfig
from livetalk.assembly.build import BuildConfig, build_avatar
from livetalk.assembly.model import AvatarModel
from livetalk.assembly.random_model import RANDOM_MODELS
from livetalk.assembly.session import SIZES, SessionOptions, check_options
from livetalk.avatar import NOISE_NOTICE, Avatar
from livetalk.cli.byte_progress import ByteProgress
from livetalk.cli.guard import run_workers
from livetalk.cli.progress import VideoProgress
from livetalk.crop import CROPS
from livetalk.device import PRECISIONS, set_threads
from livetalk.engine.worker import choose_worker_device, require_gpus, require_place, run_worker
from livetalk.env import WorkerPlace, worker_place
from livetalk.errors import InputError
from livetalk.media.audio import AudioReader, open_audio
from livetalk.media.files import require_output_file
from livetalk.media.image import load_image
from livetalk.ops.backends import ATTENTION_KERNELS
from livetalk.placement.apply import ENCODER_PLACES, WEIGHT_FORMS, PlacementConfig
from livetalk.streaming.settings import AudioMode, LoudnessMode


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
    _add_session_options(parser)
    _add_model_options(parser)


def _add_session_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--crop", choices=CROPS, help="what of the picture to use (default: the model's own)")
    parser.add_argument(
        "--size",
        help="of the video: HEIGHTxWIDTH in pixels, such as 720x416, or "
        f"{', '.join(SIZES)} (default: the model's own)",
    )
    parser.add_argument("--seed", type=int, help="of the noise (default: the model's own)")
    parser.add_argument(
        "--num-steps", "--steps", type=int, dest="steps", help="denoising steps (default: the model's own)"
    )
    parser.add_argument("--prompt", help="what the video shall show, for a model that reads one")
    parser.add_argument(
        "--audio-mode",
        choices=[mode.value for mode in AudioMode],
        help="stream: each frame hears the past only, as live; whole: the future too (default: stream)",
    )
    parser.add_argument(
        "--loudness",
        choices=[mode.value for mode in LoudnessMode],
        help="level of the voice: off: as recorded; running: a slow gain that leaves noise alone; "
        "published: as the published code (default: the model's own)",
    )


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--model",
        default="embedded",
        help="shipped model, or the folder of a checkpoint, such as SoulX-FlashTalk-14B (default: embedded)",
    )
    which.add_argument(
        "--random-weights",
        choices=RANDOM_MODELS,
        help="the graph of a model without its weights, to rehearse and to measure; it makes noise",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="of the networks (default: auto)"
    )
    parser.add_argument("--wav2vec-dir", type=Path, help="speech encoder of a published model")
    parser.add_argument(
        "--infinitetalk", type=Path, help="audio weights to lay over a published base model (file or folder)"
    )
    parser.add_argument(
        "--weights",
        choices=WEIGHT_FORMS,
        default="full",
        help="form of the transformer's weights; float8 and int8 halve them (default: full, as stored)",
    )
    parser.add_argument(
        "--resident-blocks",
        type=int,
        metavar="N",
        help="keep only N blocks of the transformer on the device, the others in host memory",
    )
    parser.add_argument(
        "--encoders",
        choices=ENCODER_PLACES,
        default="cpu-after-use",
        help="where text and image encoder live between sessions (default: cpu-after-use)",
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    _add_speed_options(parser)


def _add_speed_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gpus",
        type=int,
        default=1,
        metavar="N",
        help="GPUs that share the work, one process each; with --device cpu processes (default: 1)",
    )
    parser.add_argument(
        "--fast", action="store_true", help="put the fast forms in place that change numbers by rounding only"
    )
    parser.add_argument(
        "--float8", action="store_true", help="the fast forms, and the blocks' products in FP8 (Hopper)"
    )
    parser.add_argument(
        "--attention",
        choices=[AUTO, *ATTENTION_KERNELS],
        default=AUTO,
        help="the fast forms, and this kernel for the self-attention (default: auto, PyTorch's choice)",
    )


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
    check_options(_session_options(args))
    audio = open_audio(args.audio)
    place = worker_place()
    if place is None:
        require_gpus(args.gpus, args.device)
        if args.gpus > 1:
            return run_workers(_run_rank, [args], args.gpus)
    else:
        require_place(place, args.gpus)
        if place.num_ranks > 1:
            return _run_rank(place, args)
    return _make(args, audio, Avatar(_load(args, args.device)))


def _run_rank(place: WorkerPlace, args: argparse.Namespace) -> int:
    """Be one of several processes; the first of them makes the video with all."""
    audio = open_audio(args.audio)
    device = choose_worker_device(args.device, place)
    return run_worker(
        place,
        device,
        lambda: _load(args, str(device), quiet=place.rank > 0),
        lambda leader: _make(args, audio, Avatar(leader.model, leader)),
    )


def _make(args: argparse.Namespace, audio: AudioReader, avatar: Avatar) -> int:
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
            **_session_options(args),
        )
        elapsed = progress.elapsed_seconds
        speed = progress.speed
    print(f"{result.path}: {result.num_frames} frames, {result.duration_seconds:.2f} s of sound")
    if result.preview is not None:
        print(f"{result.preview}: contact sheet")
    print(f"{title}: {elapsed:.1f} s, {speed}")
    if model.random_weights:
        print(f"{result.path}: {NOISE_NOTICE}; only its length, its sound and its speed mean anything")
    return 0


def _session_options(args: argparse.Namespace) -> SessionOptions:
    return SessionOptions(
        seed=args.seed,
        crop=args.crop,
        num_steps=args.steps,
        size=args.size,
        prompt=args.prompt,
        audio_mode=args.audio_mode,
        loudness=args.loudness,
    )


def _require_no_files(args: argparse.Namespace) -> None:
    for option, value in (("wav2vec-dir", args.wav2vec_dir), ("infinitetalk", args.infinitetalk)):
        if value is not None:
            raise InputError(f"{option} {value}: random weights come from no file; leave it out")


def _load(args: argparse.Namespace, device: str, *, quiet: bool = False) -> AvatarModel:
    """Load the model on a device; `quiet` shows no progress, for another process does."""
    set_threads(args.threads)
    placement = PlacementConfig(
        weights=args.weights, encoders=args.encoders, resident_blocks=args.resident_blocks
    )
    acceleration = None
    if args.fast or args.float8 or args.attention != AUTO:
        acceleration = AccelerationConfig(float8=args.float8, attention=args.attention)
    if args.random_weights is not None:
        _require_no_files(args)
        return Avatar.with_random_weights(
            args.random_weights,
            device=device,
            precision=args.precision,
            placement=placement,
            acceleration=acceleration,
        ).model
    config = BuildConfig(
        model=args.model,
        device=device,
        precision=args.precision,
        placement=placement,
        acceleration=acceleration,
        wav2vec_dir=args.wav2vec_dir,
        infinitetalk=args.infinitetalk,
    )
    if quiet:
        return build_avatar(config)
    with ByteProgress(f"loading {args.model}") as progress:
        return build_avatar(config, progress)
