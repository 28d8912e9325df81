import logging

import pytest
import torch

from livetalk.accelerate import selection
from livetalk.accelerate.fused_color import match_color_fused
from livetalk.accelerate.selection import select_attention, select_fused, select_kernels, triton_problem
from livetalk.errors import InputError
from livetalk.ops.backends import AttentionSpec
from livetalk.streaming.color import match_color

CPU = torch.device("cpu")
WORK = AttentionSpec(CPU, torch.float32, 16, 3)


@pytest.mark.parametrize("choice", ["auto", "torch"])
def test_a_cpu_runs_the_plain_form_and_logs_it(
    choice: selection.KernelChoice, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "livetalk"):
        assert select_fused(choice, CPU).name == "torch"
    assert "fused kernels: torch" in caplog.text


def test_triton_is_never_replaced_silently() -> None:
    with pytest.raises(InputError, match="cannot run on cpu: they need a CUDA device"):
        select_fused("triton", CPU)


def test_an_old_gpu_and_a_missing_package_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert "8.9" in str(triton_problem(torch.device("cuda")))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(selection.importlib.util, "find_spec", lambda name: None)
    assert triton_problem(torch.device("cuda")) == "no package triton"


def test_the_choice_of_pytorch_is_named_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "livetalk"):
        kernel = select_attention("auto", WORK)
    assert kernel.name == "flash"
    assert "attention: flash" in caplog.text


@pytest.mark.parametrize(
    ("name", "reason"), [("cudnn", "CUDA"), ("fa3-fp8", "CUDA"), ("fa4", "one of cudnn")]
)
def test_a_kernel_that_cannot_run_is_an_error(name: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        select_attention(name, WORK)


@pytest.mark.parametrize(("fused", "name"), [(None, "plain"), ("torch", "torch"), ("auto", "torch")])
def test_all_kernels_of_a_model_are_selected_at_once(
    fused: selection.KernelChoice | None, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "livetalk"):
        kernels = select_kernels(WORK, "math", fused)
    assert "colour matching: plain" in caplog.text
    assert (kernels.attention.name, kernels.name) == ("math", name)
    assert (kernels.fused is None) == (fused is None)
    assert kernels.match_color is match_color


def test_colours_are_matched_on_triton_where_the_rest_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere:
        name = "triton"

    monkeypatch.setattr(selection, "select_fused", lambda choice, device: Elsewhere())
    assert select_kernels(WORK, "auto", "triton").match_color is match_color_fused


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_hopper_gpu_runs_triton() -> None:
    assert select_fused("auto", torch.device("cuda")).name == "triton"
