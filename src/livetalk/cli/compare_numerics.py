"""`livetalk compare-numerics`: how far two ways of running a model are apart, stage by stage."""

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from livetalk.data.framing import frame_portrait
from livetalk.data.image import load_image
from livetalk.data.media import open_audio
from livetalk.errors import InputError
from livetalk.runtime.build import BuildConfig, Precision, build_avatar, choose_device
from livetalk.runtime.model import AvatarModel
from livetalk.runtime.numerics import (
    Comparison,
    Configuration,
    StreamSource,
    apply_configuration,
    compare_numerics,
    parse_configuration,
)
from livetalk.runtime.random_model import RANDOM_MODELS, build_random_model
from livetalk.runtime.session import SessionOptions, check_options, plan_session
from livetalk.streaming.conditioning import image_to_tensor

EXIT_OUT_OF_BOUND = 1

_PRECISIONS: dict[torch.dtype, Precision] = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the sub-command and its options."""
    parser = subparsers.add_parser(
        "compare-numerics",
        help="compare two ways of running a model, stage by stage",
        description="Run a short stream in two configurations with the same weights, noise and inputs, and "
        "print relative errors. A configuration is words joined by hyphens: eager or compile; full, float8 "
        "or int8 weights; offload or offloadN (N blocks stay on the device); the name of an attention "
        "kernel without hyphens; float32 or bfloat16.",
        epilog="example: livetalk compare-numerics eager-float32 compile-float8-bfloat16",
    )
    parser.add_argument("first", help="the reference, such as eager-float32")
    parser.add_argument("second", help="what is compared with it, such as compile-bfloat16")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", default="embedded", help="as for generate (default: embedded)")
    which.add_argument("--random-weights", choices=RANDOM_MODELS, help="a graph without its weights")
    parser.add_argument("--wav2vec-dir", type=Path, help="speech encoder of a published model")
    parser.add_argument("--size", help="picture size, as for generate (default: the model's own)")
    parser.add_argument("--num-steps", type=int, help="denoising steps (default: the model's own)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto)")
    parser.add_argument("--image", type=Path, help="portrait (default: a drawn pattern)")
    parser.add_argument("--audio", type=Path, help="voice (default: noise)")
    parser.add_argument("--chunks", type=int, default=2, help="length of the stream (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of noise and random weights (default: 0)")
    parser.add_argument(
        "--bound", type=float, metavar="X", help="end with exit code 1 if a relative error is above X"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Compare and print; return 1 if a bound was given and exceeded.

    Raises:
        LivetalkError: an option cannot be used.
    """
    if args.chunks < 1:
        raise InputError(f"--chunks {args.chunks}: at least 1 is needed")
    first, second = (parse_configuration(name) for name in (args.first, args.second))
    source = StreamSource(
        picture=None if args.image is None else _portrait_reader(args.image),
        sounds=None if args.audio is None else _sound_reader(args.audio, args.chunks),
        num_chunks=args.chunks,
        seed=args.seed,
    )
    comparison = compare_numerics(_builder(args), first, second, source)
    if args.json:
        print(json.dumps(to_json(first, second, comparison), indent=2))
    else:
        print("\n".join(describe(first, second, comparison)))
    out_of_bound = args.bound is not None and not comparison.worst() <= args.bound
    return EXIT_OUT_OF_BOUND if out_of_bound else 0


def describe(first: Configuration, second: Configuration, comparison: Comparison) -> list[str]:
    """Return the lines of a table."""
    lines = [f"{second.name} against {first.name}"]
    lines.append(f"{'stage':<24}{'relative':>12}{'alone':>12}{'largest':>12}")
    for error in comparison.errors:
        alone = "" if error.alone is None else f"{error.alone:.2e}"
        lines.append(f"{error.stage:<24}{error.relative:>12.2e}{alone:>12}{error.largest:>12.2e}")
    return [*lines, f"{'worst':<24}{comparison.worst():>12.2e}"]


def to_json(first: Configuration, second: Configuration, comparison: Comparison) -> dict[str, object]:
    """Return values that `json.dumps` writes."""
    return {
        "first": first.name,
        "second": second.name,
        "worst": comparison.worst(),
        "stages": [dataclasses.asdict(error) for error in comparison.errors],
    }


def _builder(args: argparse.Namespace) -> Callable[[Configuration], AvatarModel]:
    options = SessionOptions(size=args.size, num_steps=args.num_steps)
    check_options(options)

    def build(configuration: Configuration) -> AvatarModel:
        model = _build_random(args, configuration) if args.random_weights else _load(args, configuration)
        model = apply_configuration(model, configuration)
        session = plan_session(model, options)
        return dataclasses.replace(model, models=session.models, portrait=session.portrait)

    return build


def _build_random(args: argparse.Namespace, configuration: Configuration) -> AvatarModel:
    return build_random_model(
        args.random_weights,
        device=choose_device(args.device),
        dtype=configuration.dtype,
        seed=args.seed,
        placement=configuration.placement,
    )


def _load(args: argparse.Namespace, configuration: Configuration) -> AvatarModel:
    return build_avatar(
        BuildConfig(
            model=args.model,
            device=args.device,
            precision=_PRECISIONS[configuration.dtype],
            placement=configuration.placement,
            wav2vec_dir=args.wav2vec_dir,
        )
    )


def _portrait_reader(path: Path) -> Callable[[AvatarModel], Tensor]:
    def read(model: AvatarModel) -> Tensor:
        portrait, crop = model.portrait, model.defaults.crop
        framed = frame_portrait(
            load_image(path), portrait.height, portrait.width, crop=crop, name=f"image {path}"
        )
        return image_to_tensor(framed)

    return read


def _sound_reader(path: Path, num_chunks: int) -> Callable[[AvatarModel], tuple[Tensor, ...]]:
    def read(model: AvatarModel) -> tuple[Tensor, ...]:
        geometry = model.models.config.geometry
        num_samples = num_chunks * geometry.chunk_samples
        found = np.zeros(0, np.float32)
        for block in open_audio(path).mono_blocks(geometry.sample_rate):
            found = np.concatenate((found, block))[:num_samples]
            if found.shape[0] == num_samples:
                break
        samples = torch.from_numpy(np.pad(found, (0, num_samples - found.shape[0])))
        return torch.split(samples, geometry.chunk_samples)

    return read
