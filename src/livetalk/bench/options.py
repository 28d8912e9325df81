"""Options of a measurement, and their form on the command line."""

import argparse
from dataclasses import dataclass, field

from livetalk.assembly.run import RunConfig
from livetalk.assembly.run_options import (
    add_chunk_options,
    add_model_options,
    add_run_options,
    model_source,
    run_config,
    to_options,
)
from livetalk.assembly.source import ModelSource
from livetalk.bench.record import require_commit
from livetalk.errors import InputError

DEFAULT_CHUNKS = 20
DEFAULT_WARM_UP = 3
"""The first chunk of a stream has fewer motion latents than the others; each shape must run before timing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """One measurement."""

    source: ModelSource = field(default_factory=ModelSource)
    run: RunConfig = field(default_factory=RunConfig)
    size: str | None = None  # of the frames, None for the model's own
    num_steps: int | None = None  # denoising steps, None for the model's own
    latents_per_decode: int | None = None  # latent frames that are decoded together, None for the model's own
    chunks: int = DEFAULT_CHUNKS  # number of measured chunks
    warm_up: int = DEFAULT_WARM_UP  # number of chunks before them
    commit: str | None = None  # of the source, for a copy without its repository

    def __post_init__(self) -> None:
        """Raise `InputError` for too few chunks or an invalid commit."""
        # Two chunks are the least that have an interval; two warm-up chunks contain both shapes of a window.
        least = {"chunks": 2, "warm_up": 2}
        for name, number in least.items():
            if (value := getattr(self, name)) < number:
                raise InputError(f"{name.replace('_', '-')} {value}: at least {number} is needed")
        if self.commit is not None:
            require_commit(self.commit)

    def to_arguments(self) -> list[str]:
        """Return the arguments of `livetalk bench` for these options, without defaults."""
        return to_options(self)


def add_bench_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `bench_options` reads."""
    add_model_options(parser)
    add_run_options(parser)
    add_chunk_options(parser)
    group = parser.add_argument_group("what is measured")
    group.add_argument("--chunks", type=int, default=DEFAULT_CHUNKS, help="measured chunks (default: 20)")
    group.add_argument(
        "--warm-up", type=int, default=DEFAULT_WARM_UP, help="untimed first chunks (default: 3)"
    )
    group.add_argument("--commit", help="commit of the source, for a copy without its repository")


def bench_options(args: argparse.Namespace) -> BenchOptions:
    """Build the options from parsed arguments; `InputError` if they are invalid or contradictory."""
    return BenchOptions(
        source=model_source(args),
        run=run_config(args),
        size=args.size,
        num_steps=args.num_steps,
        latents_per_decode=args.latents_per_decode,
        chunks=args.chunks,
        warm_up=args.warm_up,
        commit=args.commit,
    )
