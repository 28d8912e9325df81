"""`livetalk train`: the training stages of the embedded model, each limited in minutes and resumable."""

import argparse
import dataclasses
import itertools
import shutil
import sys
from importlib import resources
from pathlib import Path

from livetalk.assembly.build import find_checkpoint
from livetalk.assembly.native import SPEECH_ENCODER_FILE, save_model
from livetalk.checkpoints.manifest import MANIFEST_NAME
from livetalk.device import choose_device
from livetalk.errors import InputError
from livetalk.media.files import require_output_file, require_output_folder
from livetalk.models.dit import DiT
from livetalk.models.vae import VAEConfig
from livetalk.recipes import embedded
from livetalk.synthetic.clips import ClipStore, clip_specs
from livetalk.synthetic.render_clips import ClipRenderer, render_clips
from livetalk.synthetic.rendering.renderer import Renderer
from livetalk.synthetic.speech.corpus import load_corpus
from livetalk.training.checkpoint import copy_average
from livetalk.training.config import Budget, ReferenceTrainConfig, VAETrainConfig
from livetalk.training.job import (
    MOTION_STAGE,
    REFERENCE_STAGE,
    VAE_FINISHED,
    DiTJob,
    JobPaths,
    ReferenceJob,
    VAEJob,
    finished_vae,
    load_average,
    train_dit,
    train_motion,
    train_reference,
    train_vae,
    tune_decoder,
)
from livetalk.training.metrics import Throughput
from livetalk.training.processes import run_processes
from livetalk.training.waiting import announced

WEIGHTS = Path(str(resources.files("livetalk") / "weights" / "embedded"))

STAGES = ("vae", "decoder", REFERENCE_STAGE, MOTION_STAGE, "dit")
"""Stages that write checkpoints."""

WIDE_SHARE = 0.85
"""Share of the training clips in a random world with `--world wide`."""

VAE_CLIPS = 1500
"""Clips in device memory during VAE training; 77 frames of 256 x 256 take 15 MB."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser("train", help="train the embedded model in resumable stages")
    parser.add_argument(
        "stage",
        choices=("render", "vae", "dit", "decoder", "reference", "motion", "export", "pack", "all"),
        help="stage to run",
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder from `livetalk data speech`")
    parser.add_argument("--work", type=Path, required=True, help="folder for rendered clips (tens of GB)")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and metrics")
    parser.add_argument(
        "--from",
        dest="start",
        help="start from exported weights: a checkpoint folder, or `embedded` for the shipped ones",
    )
    parser.add_argument(
        "--vae",
        help="exported VAE to use unchanged: a folder, or `embedded` for the shipped one",
    )
    parser.add_argument(
        "--latents",
        choices=("full", "motion"),
        default="full",
        help="latents that `dit` learns and `export` writes: of the VAE that paints every frame (default), "
        "or of the `motion` stage, whose decoder warps the portrait",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto)")
    parser.add_argument("--to", type=Path, help="destination of the small checkpoints of `pack`")
    parser.add_argument("--overwrite", action="store_true", help="let `pack` and `export` replace files")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="destination of `export`")
    parser.add_argument("--version", default="1", help="of the exported weights")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clips", type=int, default=1500, help="clips to render")
    parser.add_argument(
        "--clip-frames", type=int, default=77, help="frames per clip (77: twelve windows, four frames apart)"
    )
    parser.add_argument(
        "--first-clips",
        type=int,
        default=300,
        help="clips that `dit` (encoded) and `reference` wait for before their first step",
    )
    parser.add_argument("--heldout", type=int, default=8, help="clips kept for validation")
    parser.add_argument(
        "--world",
        choices=("plain", "wide"),
        default="plain",
        help="what training clips show; wide: also uneven skin, hard light, busy backgrounds, drawings",
    )
    parser.add_argument(
        "--heldout-world",
        choices=("plain", "wide"),
        default="plain",
        help="what held-out clips show; wide: every one is in a random world",
    )
    parser.add_argument("--renderers", type=int, default=2, help="render processes; more hide launch gaps")
    parser.add_argument("--renderer", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--render-minutes", type=float, default=6.0)
    parser.add_argument("--vae-minutes", type=float, default=10.0)
    parser.add_argument("--reference-minutes", type=float, default=10.0)
    parser.add_argument("--dit-minutes", type=float, default=10.0)
    parser.add_argument("--max-steps", type=int, default=1_000_000, help="bound on the steps of each stage")
    parser.add_argument("--batch-size", type=int, help="override the recipe's batch size (smoke runs)")


def run(args: argparse.Namespace) -> int:
    """Run one stage, or rendering, VAE and transformer training concurrently."""
    if args.stage == "all":
        # The transformer stage waits for this file; one of an earlier run would make it start on the old VAE.
        (args.out / VAE_FINISHED).unlink(missing_ok=True)
        # The stages that wait for clips refuse a work folder that nobody has made.
        _paths(args).clips.mkdir(parents=True, exist_ok=True)
        # The stages are processes of the same command line with another stage.
        rest = [word for word in sys.argv[2:] if word != "all"]
        base = [sys.executable, "-m", "livetalk", "train"]
        renderers = [[*base, "render", *rest, "--renderer", str(k)] for k in range(args.renderers)]
        stages = ["dit"] if args.vae is not None else ["vae", "dit"]
        return run_processes([*renderers, *([*base, stage, *rest] for stage in stages)])
    work = {
        "render": _render,
        "vae": _vae,
        "dit": _dit,
        "decoder": _decoder,
        "reference": _reference,
        "motion": _motion,
        "export": _export,
        "pack": _pack,
    }
    work[args.stage](args)
    return 0


def _paths(args: argparse.Namespace) -> JobPaths:
    return JobPaths(
        clips=args.work / "clips",
        heldout=args.work / "heldout",
        run=args.out,
        speech_encoder=WEIGHTS / SPEECH_ENCODER_FILE,
        start=None if args.start is None else find_checkpoint(args.start),
        vae=None if args.vae is None else find_checkpoint(args.vae),
    )


def _render(args: argparse.Namespace) -> None:
    with announced(_paths(args).clips, f"render-{args.renderer}"):
        _render_clips(args)


def _render_clips(args: argparse.Namespace) -> None:
    corpus = load_corpus(args.corpus)
    renderer = Renderer(choose_device(args.device))
    paths = _paths(args)
    clock = Throughput(args.render_minutes, args.clips)

    def report(done: int) -> bool:
        if done % 50 == 0:
            rate = done * args.clip_frames / clock.elapsed_seconds()
            sys.stderr.write(f"render: {done} clips, {rate:.0f} frames/s\n")
        return clock.progress(done) < 1.0

    training_clips = corpus.num_clips - args.heldout
    # A distant seed and the last clips of the corpus: no held-out identity or sentence is in training.
    heldout = itertools.islice(
        clip_specs(900_000 + args.seed, args.heldout, corpus.num_frames, args.clip_frames), args.heldout
    )
    shifted = [dataclasses.replace(spec, corpus_clip=spec.corpus_clip + training_clips) for spec in heldout]
    if args.renderer == 0:
        share = 1.0 if args.heldout_world == "wide" else 0.0
        render_clips(
            shifted, ClipRenderer(renderer, corpus, share), ClipStore(paths.heldout), lambda done: True
        )
    specs = clip_specs(args.seed, training_clips, corpus.num_frames, args.clip_frames)
    # Interleaved: each renderer finishes early clips first, with which training starts.
    mine = itertools.islice(specs, args.renderer, args.clips, args.renderers)
    wide_share = WIDE_SHARE if args.world == "wide" else 0.0
    render_clips(mine, ClipRenderer(renderer, corpus, wide_share), ClipStore(paths.clips), report)


def _vae(args: argparse.Namespace) -> None:
    train_vae(_vae_job(args, embedded.embedded_vae_training(), min_clips=16))


def _decoder(args: argparse.Namespace) -> None:
    tune_decoder(_vae_job(args, embedded.embedded_decoder_training(), min_clips=4))


def _reference(args: argparse.Namespace) -> None:
    train_reference(_reference_job(args, embedded.embedded_reference_training()))


def _motion(args: argparse.Namespace) -> None:
    train_motion(_reference_job(args, embedded.embedded_motion_training()))


def _reference_job(args: argparse.Namespace, training: ReferenceTrainConfig) -> ReferenceJob:
    return ReferenceJob(
        paths=_paths(args),
        model=embedded.embedded_reference_vae(),
        training=embedded.with_batch_size(training, args.batch_size),
        budget=Budget(minutes=args.reference_minutes, max_steps=args.max_steps),
        device=choose_device(args.device),
        seed=args.seed,
        min_clips=min(args.first_clips, args.clips),
        max_clips=args.clips,
    )


def _vae_job(args: argparse.Namespace, training: VAETrainConfig, min_clips: int) -> VAEJob:
    return VAEJob(
        paths=_paths(args),
        model=embedded.embedded_vae(),
        training=embedded.with_batch_size(training, args.batch_size),
        budget=Budget(minutes=args.vae_minutes, max_steps=args.max_steps),
        device=choose_device(args.device),
        seed=args.seed,
        min_clips=min(min_clips, args.clips),
        max_clips=VAE_CLIPS,
    )


def _vae_config(args: argparse.Namespace) -> VAEConfig:
    return embedded.embedded_reference_vae() if args.latents == "motion" else embedded.embedded_vae()


def _export(args: argparse.Namespace) -> None:
    if not args.overwrite:
        for name in (MANIFEST_NAME, "dit.safetensors", "vae.safetensors"):
            require_output_file(args.weights / name)
    vae = finished_vae(_paths(args), _vae_config(args))
    dit = DiT(embedded.embedded_dit())
    load_average(args.out / "dit", dit)
    save_model(
        args.weights,
        spec=embedded.embedded_spec(vae.config),
        version=args.version,
        dit=dit,
        vae=vae,
        # Small enough to ship in the package.
        storage=("int8", "int8"),
    )


def _pack(args: argparse.Namespace) -> None:
    """Copy the averaged weights of all stages; the run may still be in progress."""
    if args.to is None:
        raise InputError("train pack: --to names the folder that light checkpoints are written to")
    if not args.overwrite:
        require_output_folder(args.to)
    stages = [name for name in STAGES if (args.out / name / "state.json").exists()]
    if not stages:
        raise InputError(f"train pack: {args.out} holds no checkpoint yet")
    for name in stages:
        print(f"{name}: {copy_average(args.out / name, args.to / name)} steps")
    for path in [*args.out.glob("metrics_*.jsonl"), *args.out.glob(VAE_FINISHED)]:
        shutil.copy(path, args.to)


def _dit(args: argparse.Namespace) -> None:
    training = embedded.embedded_sft()
    train_dit(
        DiTJob(
            paths=_paths(args),
            vae=_vae_config(args),
            model=embedded.embedded_dit(),
            settings=embedded.embedded_stream(),
            portrait=embedded.PORTRAIT,
            training=embedded.with_batch_size(training, args.batch_size),
            bank=embedded.embedded_motion_bank() if args.latents == "motion" else embedded.embedded_bank(),
            budget=Budget(minutes=args.dit_minutes, max_steps=args.max_steps),
            device=choose_device(args.device),
            seed=args.seed,
            min_clips=min(args.first_clips, args.clips),
            max_clips=args.clips,
        ),
        load_corpus(args.corpus),
    )
