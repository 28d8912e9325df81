import argparse
from pathlib import Path

import pytest

from livetalk.bench.options import BenchOptions
from livetalk.cli.bench import add_parser


def parse(arguments: list[str]) -> BenchOptions:
    subparsers = argparse.ArgumentParser()
    add_parser(subparsers.add_subparsers())
    args = subparsers.parse_args(["bench", *arguments])
    return BenchOptions(**{name: getattr(args, name) for name in BenchOptions.__dataclass_fields__})


def test_defaults_need_no_arguments() -> None:
    assert BenchOptions().to_arguments() == []
    assert parse([]) == BenchOptions()


@pytest.mark.parametrize(
    "options",
    [
        BenchOptions(random_weights="tiny", gpus=2, size="720x416", precision="bfloat16", steps=2),
        BenchOptions(model="a folder", wav2vec_dir=Path("speech"), weights="int8", attention="math"),
        BenchOptions(device="cpu", kernels="torch", float8=True, compile=True, threads=1, commit="0" * 40),
        BenchOptions(resident_blocks=0, weights="float8", chunks=200, warm_up=5),
    ],
)
def test_another_process_is_asked_for_the_same(options: BenchOptions) -> None:
    assert parse(options.to_arguments()) == options
