import argparse
from pathlib import Path

import pytest

from livetalk.accelerate.apply import AccelerationConfig
from livetalk.assembly.run import RunConfig
from livetalk.assembly.source import ModelSource
from livetalk.bench.options import BenchOptions, bench_options
from livetalk.cli.bench import add_parser
from livetalk.placement.apply import PlacementConfig


def parse(arguments: list[str]) -> BenchOptions:
    subparsers = argparse.ArgumentParser()
    add_parser(subparsers.add_subparsers())
    return bench_options(subparsers.parse_args(["bench", *arguments]))


def test_defaults_need_no_arguments() -> None:
    assert BenchOptions().to_arguments() == []
    assert parse([]) == BenchOptions()


@pytest.mark.parametrize(
    "options",
    [
        BenchOptions(
            source=ModelSource(random_weights="tiny"),
            run=RunConfig(gpus=2, precision="bfloat16"),
            size="720x416",
            num_steps=2,
        ),
        BenchOptions(
            source=ModelSource(model="a folder", wav2vec_dir=Path("speech")),
            run=RunConfig(
                placement=PlacementConfig(weights="int8"), acceleration=AccelerationConfig(attention="math")
            ),
            chunks=200,
            warm_up=5,
            commit="0" * 40,
        ),
    ],
)
def test_another_process_is_asked_for_the_same(options: BenchOptions) -> None:
    assert parse(options.to_arguments()) == options
