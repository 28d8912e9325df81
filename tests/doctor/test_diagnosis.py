from dataclasses import replace

import pytest

from bare_host import HOST
from livetalk.accelerate.apply import AccelerationConfig
from livetalk.assembly.run import RunConfig
from livetalk.assembly.source import ModelSource
from livetalk.doctor.diagnosis import CARD_GIBIBYTES, Question, describe_options, diagnose
from livetalk.doctor.environment import Environment, GpuInfo
from livetalk.doctor.memory import CONTEXT_BYTES, GIB
from livetalk.errors import InputError, WeightsError
from livetalk.placement.apply import PlacementConfig

FLASHTALK = Question(source=ModelSource(random_weights="flashtalk-14b"), size="720x416")


@pytest.fixture(autouse=True)
def _no_gpu_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the machines below have GPUs without this one having any."""
    monkeypatch.setattr("livetalk.doctor.diagnosis.find_attention_backends", lambda *arguments: ())
    monkeypatch.setattr("livetalk.doctor.diagnosis.name_precision", lambda precision, device: "bfloat16")


def with_gpus(*free: float, total: float = 80) -> Environment:
    """Return a machine with GPUs of so many free GiB."""
    gpus = (
        GpuInfo(name="GPU", capability="9.0", total_bytes=round(total * GIB), free_bytes=round(f * GIB))
        for f in free
    )
    return replace(HOST, gpus=tuple(gpus))


def test_a_large_gpu_says_yes() -> None:
    diagnosis = diagnose(FLASHTALK, with_gpus(79))
    assert diagnosis.fits and diagnosis.problem is None and diagnosis.suggestion is None
    assert diagnosis.gpu_bytes == 79 * GIB + CONTEXT_BYTES, "this process has its context already"


def test_a_small_gpu_says_no_and_what_would_fit() -> None:
    diagnosis = diagnose(FLASHTALK, with_gpus(39, total=40))
    assert not diagnosis.fits
    assert diagnosis.problem is not None and diagnosis.problem.startswith("a GPU must have 4")
    assert diagnosis.suggestion is not None
    assert describe_options(diagnosis.suggestion) == "--size 720x416 --precision bfloat16 --weights float8"


def test_the_suggestion_is_an_answer_to_its_own_question() -> None:
    machine = with_gpus(23, total=24)
    suggestion = diagnose(FLASHTALK, machine).suggestion
    assert suggestion is not None
    again = replace(FLASHTALK, run=suggestion.request.run)
    assert diagnose(again, machine).fits


def test_a_busy_gpu_counts_for_what_is_free() -> None:
    assert not diagnose(FLASHTALK, with_gpus(20)).fits


def test_more_gpus_than_there_are() -> None:
    diagnosis = diagnose(replace(FLASHTALK, run=RunConfig(gpus=2)), with_gpus(79))
    assert diagnosis.problem == "there are 1 CUDA devices, 2 are asked for"
    assert diagnosis.suggestion is not None and diagnosis.suggestion.request.num_gpus == 1


def test_imagined_gpus_need_no_real_ones() -> None:
    assert diagnose(replace(FLASHTALK, gpu_bytes=80 * GIB), HOST).fits
    assert not diagnose(replace(FLASHTALK, gpu_bytes=30 * GIB), HOST).fits
    run = RunConfig(placement=PlacementConfig(weights="float8"))
    assert diagnose(replace(FLASHTALK, gpu_bytes=32 * GIB, run=run), HOST).fits


def test_the_gpu_that_is_named_is_the_one_that_counts() -> None:
    machine = with_gpus(20, 79)
    assert not diagnose(replace(FLASHTALK, run=RunConfig(device="cuda:0")), machine).fits
    assert diagnose(replace(FLASHTALK, run=RunConfig(device="cuda:1")), machine).fits
    assert diagnose(replace(FLASHTALK, run=RunConfig(device="cpu")), machine).plan.request.num_gpus == 0


def test_what_would_fit_in_host_memory_leaves_the_fast_forms_out() -> None:
    fast = RunConfig(acceleration=AccelerationConfig(float8=True, attention="cudnn"))
    diagnosis = diagnose(replace(FLASHTALK, run=fast, gpu_bytes=24 * GIB), HOST)
    assert diagnosis.suggestion is not None
    found = diagnosis.suggestion.request.run
    assert found.placement.resident_blocks is not None
    assert found.acceleration == AccelerationConfig(attention="cudnn")


def test_without_a_gpu_the_embedded_model_runs_and_the_large_one_says_what_it_needs() -> None:
    assert diagnose(Question(), HOST).fits
    diagnosis = diagnose(FLASHTALK, replace(HOST, host_bytes=16 * GIB))
    assert diagnosis.problem is not None and diagnosis.problem.startswith("the host must have")
    assert tuple(diagnosis.by_card) == CARD_GIBIBYTES
    largest = diagnosis.by_card[80]
    assert largest is not None and largest.request.placement == PlacementConfig()


@pytest.mark.parametrize(
    ("question", "error", "message"),
    [
        (Question(source=ModelSource(model="no-such-model")), WeightsError, "no-such-model"),
        (Question(size="banana"), InputError, "HEIGHTxWIDTH"),
        (Question(size="512x512"), InputError, "256x256 pictures only"),
        (replace(FLASHTALK, size="720x410"), InputError, "multiples of 16"),
        (replace(FLASHTALK, run=RunConfig(device="cpu", gpus=2)), InputError, "gpus 2: .* one process"),
        (
            replace(FLASHTALK, run=RunConfig(device="cpu", acceleration=AccelerationConfig(float8=True))),
            InputError,
            "float8 cannot run here: FP8",
        ),
    ],
)
def test_impossible_questions_are_refused(question: Question, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        diagnose(question, HOST)
