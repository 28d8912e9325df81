"""Recipes of runs are complete, and are what the documentation tells to type."""

from dataclasses import replace

import pytest
import torch

from bare_host import HOST
from livetalk.assembly.build import build_model
from livetalk.assembly.run import RunConfig, parse_run
from livetalk.assembly.run_options import to_options
from livetalk.assembly.source import ModelSource
from livetalk.doctor.diagnosis import Question, diagnose
from livetalk.doctor.memory import GIB
from livetalk.recipes.runs import laptop, serve_h200, serve_h200_exact, serve_h200_x2, small_gpu

GPU = RunConfig(device="cuda", precision="bfloat16")


def test_the_runs_that_were_measured_are_asked_for_as_documented() -> None:
    measured = {
        "--float8 --attention fa3-fp8": serve_h200(),
        "--gpus 2 --float8 --attention fa3-fp8": serve_h200_x2(),
        "--fast --attention fa3": serve_h200_exact(),
    }
    for options, run in measured.items():
        assert (run.device, run.precision) == (GPU.device, GPU.precision)
        assert " ".join(to_options(replace(run, device="auto", precision="auto"))) == options
    assert serve_h200() == parse_run("fp8-fa3fp8", GPU) == replace(serve_h200_x2(), gpus=1)
    assert serve_h200_exact() == parse_run("fast-fa3", GPU)


def test_a_laptop_runs_a_model_plainly() -> None:
    model = build_model(ModelSource(random_weights="tiny"), laptop())
    assert model.executor.device.type == "cpu" and model.dtype is torch.float32
    assert model.acceleration is None


@pytest.mark.parametrize(
    ("run", "gibibytes"), [(serve_h200(), 80), (serve_h200_x2(), 80), (small_gpu(20), 24), (small_gpu(4), 16)]
)
def test_the_published_model_fits_the_cards_that_recipes_are_for(run: RunConfig, gibibytes: int) -> None:
    question = Question(
        source=ModelSource(random_weights="flashtalk-14b"),
        run=run,
        size="720x416",
        gpu_bytes=gibibytes * GIB,
    )
    assert diagnose(question, HOST).fits
    assert not diagnose(replace(question, gpu_bytes=gibibytes * GIB // 2), HOST).fits
