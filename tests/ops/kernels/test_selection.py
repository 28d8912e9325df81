import logging

import pytest
import torch

from livetalk.errors import InputError
from livetalk.ops.kernels import selection
from livetalk.ops.kernels.selection import select_kernels, triton_problem

CPU = torch.device("cpu")


@pytest.mark.parametrize("choice", ["auto", "torch"])
def test_a_cpu_runs_the_plain_form_and_says_so(
    choice: selection.KernelChoice, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "livetalk"):
        assert select_kernels(choice, CPU).name == "torch"
    assert "fused kernels: torch" in caplog.text


def test_triton_is_never_replaced_silently() -> None:
    with pytest.raises(InputError, match="cannot run on cpu: they need a CUDA device"):
        select_kernels("triton", CPU)


def test_an_old_gpu_and_a_missing_package_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert "8.9" in str(triton_problem(torch.device("cuda")))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(selection.importlib.util, "find_spec", lambda name: None)
    assert triton_problem(torch.device("cuda")) == "no package triton"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_hopper_gpu_runs_triton() -> None:
    assert select_kernels("auto", torch.device("cuda")).name == "triton"
