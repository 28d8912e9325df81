"""Command-line options for `ModelSource`, `RunConfig` and a chunk's size, shared by every command."""

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from livetalk.accelerate.apply import AUTO, AccelerationConfig
from livetalk.accelerate.selection import KERNEL_CHOICES
from livetalk.assembly.random_model import RANDOM_MODELS
from livetalk.assembly.run import RunConfig
from livetalk.assembly.source import ModelSource
from livetalk.device import PRECISIONS
from livetalk.ops.backends import ATTENTION_KERNELS
from livetalk.placement.apply import ENCODER_PLACEMENTS, WEIGHT_FORMS, PlacementConfig
from livetalk.streaming.spec import SIZES, StreamOptions


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `model_source` reads."""
    group = parser.add_argument_group("model")
    which = group.add_mutually_exclusive_group()
    which.add_argument(
        "--model",
        default="embedded",
        help="shipped model, or the folder of a checkpoint, such as SoulX-FlashTalk-14B (default: embedded)",
    )
    which.add_argument(
        "--random-weights",
        choices=RANDOM_MODELS,
        help="graph of a model with random weights, for dry runs and benchmarks; the frames are noise",
    )
    group.add_argument("--wav2vec-dir", type=Path, help="speech encoder of a published model")
    group.add_argument(
        "--infinitetalk", type=Path, help="audio weights for a published base model (file or folder)"
    )


def model_source(args: argparse.Namespace) -> ModelSource:
    """Build a `ModelSource` from the options of `add_model_options`.

    Raises:
        InputError: two options exclude each other.
    """
    return ModelSource(**{name: getattr(args, name) for name, _ in _flatten(ModelSource())})


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `run_config` reads."""
    _add_device_options(parser.add_argument_group("device"))
    _add_placement_options(parser.add_argument_group("weights"))
    _add_speed_options(parser.add_argument_group("fast forms"))


def run_config(args: argparse.Namespace) -> RunConfig:
    """Build a `RunConfig` from the options of `add_run_options`.

    Raises:
        InputError: a value is out of range, or two options exclude each other.
    """
    return RunConfig(
        device=args.device,
        precision=args.precision,
        threads=args.threads,
        gpus=args.gpus,
        compile=args.compile,
        compile_cache=args.compile_cache,
        placement=PlacementConfig(
            weights=args.weights, encoders=args.encoders, resident_blocks=args.resident_blocks
        ),
        acceleration=AccelerationConfig(
            fast=args.fast,
            float8=args.float8,
            attention=args.attention,
            kernels=args.kernels,
            graphs=args.graphs,
        ),
    )


def add_chunk_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that decide how much a chunk computes; `chunk_options` reads them."""
    group = parser.add_argument_group("size of a chunk's work")
    group.add_argument(
        "--size",
        help="frame size: HEIGHTxWIDTH in pixels, such as 720x416, or "
        f"{', '.join(SIZES)} (default: the model's own)",
    )
    group.add_argument("--num-steps", "--steps", type=int, help="denoising steps (default: the model's own)")
    group.add_argument(
        "--latents-per-decode",
        type=int,
        metavar="N",
        help="latent frames (4 frames each) that are decoded together (default: the model's own)",
    )


def chunk_options(args: argparse.Namespace) -> StreamOptions:
    """Read the options of `add_chunk_options`; `StreamSpec.from_options` checks their values."""
    return StreamOptions(size=args.size, num_steps=args.num_steps, latents_per_decode=args.latents_per_decode)


def to_options(config: Any) -> list[str]:
    """Return the command-line options that describe `config` without its defaults.

    `config` is a `RunConfig`, a `ModelSource` or another dataclass whose fields are named as options or are
    such dataclasses themselves.
    """
    defaults = dict(_flatten(type(config)()))
    options = []
    for name, value in _flatten(config):
        if value == defaults[name]:
            continue
        option = name.replace("_", "-")
        options.append(f"--no-{option}" if value is False else f"--{option}")
        if not isinstance(value, bool):
            options.append(str(value))
    return options


def describe_options(config: Any) -> dict[str, object]:
    """Return the value of every option of a configuration by its command-line name."""
    return {name.replace("_", "-"): value for name, value in _flatten(config)}


def _flatten(config: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and value of every field, with nested dataclasses replaced by their own fields."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _flatten(value)
        else:
            yield field.name, value


def _add_device_options(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--device", default=AUTO, help="auto, cpu, cuda or cuda:1 (default: auto)")
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="precision of the transformer and the VAE (default: auto)",
    )
    group.add_argument("--threads", type=int, help="CPU threads of each process (default: PyTorch's choice)")
    group.add_argument(
        "--gpus",
        type=int,
        default=1,
        metavar="N",
        help="GPUs that share a stream, one process each; with --device cpu, processes (default: 1)",
    )


def _add_placement_options(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--weights",
        choices=WEIGHT_FORMS,
        default="full",
        help="storage of the transformer's weights; float8 and int8 halve it (default: full, as in files)",
    )
    group.add_argument(
        "--resident-blocks",
        type=int,
        metavar="N",
        help="blocks of the transformer kept on the device; the others stay in host memory (default: all)",
    )
    group.add_argument(
        "--encoders",
        choices=ENCODER_PLACEMENTS,
        default="cpu-after-use",
        help="where the text and the image encoder are kept between streams (default: cpu-after-use)",
    )


def _add_speed_options(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--fast", action="store_true", help="use the fast forms whose results differ by rounding only"
    )
    group.add_argument(
        "--float8",
        action="store_true",
        help="use the forms of --fast, and FP8 for the matrix products of the blocks (Hopper)",
    )
    group.add_argument(
        "--attention",
        choices=[AUTO, *ATTENTION_KERNELS],
        default=AUTO,
        help="kernel of the self-attention only (default: auto, PyTorch's choice)",
    )
    group.add_argument(
        "--kernels", choices=KERNEL_CHOICES, default=AUTO, help="kernels of the fast forms (default: auto)"
    )
    group.add_argument(
        "--graphs",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="replay the fast forms from CUDA graphs when several GPUs share a stream (default: yes)",
    )
    group.add_argument("--compile", action="store_true", help="compile the blocks of the transformer")
    group.add_argument(
        "--compile-cache",
        type=Path,
        metavar="DIR",
        help="folder for compiled code (default: ~/.cache/livetalk/compiled)",
    )
