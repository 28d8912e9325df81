"""Every command asks in the same words how a model runs, and means the same by them."""

import argparse
import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from livetalk.accelerate.apply import AccelerationConfig
from livetalk.accelerate.fused_qkv import FusedSelfAttention
from livetalk.assembly.build import build_model
from livetalk.assembly.run import RunConfig, parse_run
from livetalk.assembly.run_options import (
    add_model_options,
    add_run_options,
    model_source,
    run_config,
    to_options,
)
from livetalk.assembly.source import ModelSource
from livetalk.bench.model import build_measured
from livetalk.bench.options import bench_options
from livetalk.cli.main import COMMANDS, main
from livetalk.models.dit_blocks import DiTBlock
from livetalk.ops.backends import KernelCore
from livetalk.placement.apply import PlacementConfig
from media_files import voice, write_audio

DOORS = {
    "generate": ["--image", "face.png", "--audio", "voice.wav", "-o", "out.mp4"],
    "bench": [],
    "doctor": [],
    "compare-numerics": ["float32", "bfloat16"],
}
"""The commands that run a model, and what each of them needs besides."""

TINY = ["--random-weights", "tiny", "--device", "cpu"]


def parse(door: str, *options: str) -> argparse.Namespace:
    """Return the options of a command."""
    parser = argparse.ArgumentParser()
    importlib.import_module(COMMANDS[door].module).add_parser(parser.add_subparsers())
    return parser.parse_args([door, *DOORS[door], *options])


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder, made the current one, with the files that a command needs."""
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "face.png")
    write_audio(tmp_path / "voice.wav", voice(0.2), 16_000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("door", DOORS)
def test_every_command_has_every_option_of_a_run(door: str) -> None:
    shared = argparse.ArgumentParser()
    add_model_options(shared)
    add_run_options(shared)
    own = parse(door)
    assert vars(shared.parse_args([])).items() <= vars(own).items()
    assert run_config(own) == RunConfig() and model_source(own) == ModelSource()


@pytest.mark.parametrize(
    "run",
    [
        RunConfig(device="cuda:1", precision="bfloat16", threads=3, compile=True, compile_cache=Path("here")),
        RunConfig(gpus=2, acceleration=AccelerationConfig(float8=True, attention="fa3-fp8", graphs=False)),
        RunConfig(acceleration=AccelerationConfig(fast=True, kernels="torch")),
        RunConfig(placement=PlacementConfig(weights="int8", encoders="resident", resident_blocks=0)),
    ],
)
@pytest.mark.parametrize("door", DOORS)
def test_a_run_is_asked_for_in_the_same_words_everywhere(door: str, run: RunConfig) -> None:
    source = ModelSource(model="a folder", wav2vec_dir=Path("speech"), infinitetalk=Path("audio"))
    args = parse(door, *to_options(source), *to_options(run))
    assert (model_source(args), run_config(args)) == (source, run)


@pytest.mark.parametrize("door", DOORS)
def test_an_attention_kernel_brings_no_other_fast_form(door: str) -> None:
    run = run_config(parse(door, "--attention", "math", "--precision", "float32", *TINY))
    assert run == parse_run("math-float32", RunConfig(device="cpu"))
    model = build_model(ModelSource(random_weights="tiny"), run)
    assert str(model.acceleration) == "attention math, plain kernels"
    for block in model.executor.networks.dit.blocks.layers:
        attention = block.get_submodule("self_attention")
        assert isinstance(block, DiTBlock) and block.fast_form is None
        assert not isinstance(attention, FusedSelfAttention)
        assert isinstance(attention.get_submodule("core"), KernelCore)


def test_a_measurement_is_of_the_model_that_is_built_everywhere_else() -> None:
    options = bench_options(parse("bench", "--attention", "math", "--precision", "float32", *TINY))
    measured = build_measured(options, torch.device("cpu"))
    built = build_model(options.source, options.run)
    assert str(measured.acceleration) == str(built.acceleration)
    assert {type(part) for part in measured.executor.networks.dit.modules()} == {
        type(part) for part in built.executor.networks.dit.modules()
    }


@pytest.mark.parametrize("door", DOORS)
def test_float8_products_take_stored_float8_and_not_int8(
    door: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = run_config(parse(door, "--float8", "--weights", "float8"))
    assert stored == parse_run("fp8-float8")
    assert main([door, *DOORS[door], *TINY, "--float8", "--weights", "int8"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors == [
        "livetalk: error: float8: multiplies weights that are full or stored as float8, not as int8"
    ]
    assert not (files / "out.mp4").exists()


@pytest.mark.parametrize("door", ["generate", "bench", "doctor"])
def test_float8_products_that_cannot_run_here_are_one_line(
    door: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([door, *DOORS[door], *TINY, "--float8", "--weights", "float8"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith(
        "livetalk: error: float8 cannot run here: FP8 tensor cores need a CUDA device"
    )


def test_float8_products_over_stored_float8_are_compared_by_their_reference(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["float32", "fp8-float8-float32"]
    assert main(["compare-numerics", *words, *TINY, "--chunks", "1", "--num-steps", "1"]) == 0
    assert "32 layers in FP8 by the reference" in capsys.readouterr().out


def test_several_processes_are_refused_where_they_make_no_sense(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare-numerics", *DOORS["compare-numerics"], *TINY, "--gpus", "2"]) == 2
    assert "gpus 2: numerics are compared in one process" in capsys.readouterr().err
    assert main(["doctor", *TINY, "--gpus", "2"]) == 2
    assert "gpus 2: the forecast for a CPU is of one process" in capsys.readouterr().err
