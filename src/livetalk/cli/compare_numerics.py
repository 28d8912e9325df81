"""`livetalk compare-numerics`: measure how far configurations of a model differ, stage by stage."""

import argparse
import dataclasses
import importlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from livetalk.assembly.build import load_model
from livetalk.assembly.model import AvatarModel
from livetalk.assembly.run_options import (
    add_chunk_options,
    add_model_options,
    add_run_options,
    chunk_options,
    model_source,
    run_config,
)
from livetalk.assembly.stream_plan import plan_stream
from livetalk.device import choose_device
from livetalk.errors import InputError
from livetalk.media.framing import frame_portrait
from livetalk.media.image import image_to_tensor, load_image
from livetalk.numerics.compare import (
    Comparison,
    StreamSource,
    compare_numerics,
)
from livetalk.numerics.configurations import (
    Configuration,
    apply_configuration,
    check_device,
    parse_configuration,
    sharpen_attention,
)
from livetalk.streaming.spec import StreamSpec

EXIT_OUT_OF_BOUND = 1


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the sub-command and its options."""
    parser = subparsers.add_parser(
        "compare-numerics",
        help="compare the numbers of two or more run configurations, stage by stage",
        description="Run a short stream in two or more configurations with the same weights, noise and "
        "inputs, and print relative errors against the first. A configuration is words joined by hyphens: "
        "eager or compile; full, float8 or int8 weights; plain, fast for the fast forms that differ by "
        "rounding only, or fp8 for them and the blocks' products in FP8; offload or offloadN (N blocks "
        "stay on the device); the name of an attention kernel without hyphens; float32 or bfloat16. The "
        "options below apply to all configurations where no word overrides them.",
        epilog="example: livetalk compare-numerics float32 bfloat16 fast-bfloat16 fp8-fa3fp8-bfloat16",
    )
    parser.add_argument("first", help="the reference, such as eager-float32")
    parser.add_argument(
        "seconds", metavar="second", nargs="+", help="compared with the reference, such as fast-bfloat16"
    )
    parser.add_argument(
        "--sharpen",
        type=float,
        metavar="X",
        help="factor for the self-attention logits of random weights, which are nearly uniform; with 4 they "
        "deviate as trained ones do (default: 1)",
    )
    parser.add_argument("--image", type=Path, help="portrait (default: a drawn pattern)")
    parser.add_argument("--audio", type=Path, help="recording (default: noise)")
    parser.add_argument("--chunks", type=int, default=2, help="chunks of the stream (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="seed of noise and random weights (default: 0)")
    parser.add_argument(
        "--bound", type=float, metavar="X", help="return exit code 1 if a relative error exceeds X"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    add_model_options(parser)
    add_run_options(parser)
    add_chunk_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print the comparisons; return 1 if `--bound` was given and exceeded, otherwise 0.

    Raises:
        LivetalkError: an option is out of range or cannot be used on this machine.
    """
    base = run_config(args)
    configurations = [parse_configuration(name, base) for name in (args.first, *args.seconds)]
    _check(args, configurations)
    first, *seconds = configurations
    source = StreamSource(
        picture=None if args.image is None else _portrait_reader(args.image),
        audio=None if args.audio is None else _audio_reader(args.audio, args.chunks),
        num_chunks=args.chunks,
        seed=args.seed,
    )
    answers, within = [], True
    for second, comparison in zip(
        seconds, compare_numerics(_builder(args), first, seconds, source), strict=True
    ):
        answers.append(to_json(first, second, comparison))
        within &= args.bound is None or comparison.worst() <= args.bound
        if not args.json:
            # Flush at once: the next configuration may take minutes or fail.
            print("\n".join(describe(first, second, comparison)), flush=True)
    if args.json:
        print(json.dumps(answers, indent=2))
    return 0 if within else EXIT_OUT_OF_BOUND


def _check(args: argparse.Namespace, configurations: list[Configuration]) -> None:
    """Check everything that does not need a loaded model."""
    if args.chunks < 1:
        raise InputError(f"--chunks {args.chunks}: at least 1 is needed")
    if args.sharpen is not None:
        if args.random_weights is None or not args.sharpen > 0:
            raise InputError(f"--sharpen {args.sharpen:g}: needs --random-weights and a number above 0")
        # Weights of offloaded blocks are views of shared slots, so that a change of them would be lost.
        if any(configuration.run.placement.resident_blocks is not None for configuration in configurations):
            raise InputError("--sharpen: needs all blocks on the device; leave offload out")
    device = choose_device(args.device)
    for configuration in configurations:
        check_device(configuration, device)


def describe(first: Configuration, second: Configuration, comparison: Comparison) -> list[str]:
    """Return the lines of a comparison's table."""
    lines = [f"{second.name} against {first.name}"]
    for configuration, form in zip((first, second), comparison.forms, strict=True):
        lines += [f"{configuration.name}: {form}"] if form else []
    lines.append(f"{'stage':<24}{'relative':>12}{'alone':>12}{'largest':>12}")
    for error in comparison.errors:
        alone = "" if error.alone is None else f"{error.alone:.2e}"
        lines.append(f"{error.stage:<24}{error.relative:>12.2e}{alone:>12}{error.largest:>12.2e}")
    return [*lines, f"{'worst':<24}{comparison.worst():>12.2e}"]


def to_json(first: Configuration, second: Configuration, comparison: Comparison) -> dict[str, object]:
    """Return a comparison as values for `json.dumps`."""
    return {
        "first": first.name,
        "second": second.name,
        "first_form": comparison.forms[0],
        "second_form": comparison.forms[1],
        "worst": comparison.worst(),
        "stages": [dataclasses.asdict(error) for error in comparison.errors],
    }


def _builder(args: argparse.Namespace) -> Callable[[Configuration], AvatarModel]:
    source, stream_spec = model_source(args), StreamSpec.from_options(chunk_options(args))

    def build(configuration: Configuration) -> AvatarModel:
        model = load_model(source, configuration.run, seed=args.seed)
        if args.sharpen is not None:
            sharpen_attention(model.executor.networks.dit, args.sharpen)
        model = apply_configuration(model, configuration)
        plan = plan_stream(model, stream_spec)
        spec = dataclasses.replace(model.spec, settings=plan.settings, portrait=plan.portrait)
        return dataclasses.replace(model, spec=spec)

    return build


def _portrait_reader(path: Path) -> Callable[[AvatarModel], Tensor]:
    def read(model: AvatarModel) -> Tensor:
        portrait, crop = model.spec.portrait, model.spec.defaults.crop
        framed = frame_portrait(
            load_image(path), portrait.height, portrait.width, crop=crop, name=f"image {path}"
        )
        return image_to_tensor(framed)

    return read


def _audio_reader(path: Path, num_chunks: int) -> Callable[[AvatarModel], tuple[Tensor, ...]]:
    # Imported here only: without an audio file the comparison does not need PyAV.
    try:
        media = importlib.import_module("livetalk.media.audio")
    except ModuleNotFoundError as error:
        raise InputError(
            f"audio {path}: the package {error.name}, which reads it, is not installed"
        ) from error

    def read(model: AvatarModel) -> tuple[Tensor, ...]:
        geometry = model.settings.geometry
        num_samples = num_chunks * geometry.chunk_samples
        found = np.zeros(0, np.float32)
        for block in media.open_audio(path).mono_blocks(geometry.sample_rate):
            found = np.concatenate((found, block))[:num_samples]
            if found.shape[0] == num_samples:
                break
        # All configurations need the same whole chunks, so a short recording is padded with silence.
        samples = torch.from_numpy(np.pad(found, (0, num_samples - found.shape[0])))
        return torch.split(samples, geometry.chunk_samples)

    return read
