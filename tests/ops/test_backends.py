import pytest
import torch

from livetalk.ops import backends
from livetalk.ops.backends import find_attention_backends

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_of_pytorchs_own_kernels_is_chosen(dtype: torch.dtype) -> None:
    found = find_attention_backends(CPU, dtype, head_dim=64, num_heads=4)
    assert [backend.name for backend in found] == ["cudnn", "flash", "efficient", "math", "fa3", "sage"]
    chosen = [backend for backend in found if backend.chosen]
    assert len(chosen) == 1 and chosen[0].available and chosen[0].name in ("flash", "math")
    assert all(backend.reason for backend in found)


def test_packages_are_found_by_name_and_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    # "antigravity" opens a browser when it is imported.
    monkeypatch.setattr(
        backends, "_OTHER_PACKAGES", {"fa3": ("no_such_kernels", "antigravity"), "sage": ("x_y",)}
    )
    fa3, sage = find_attention_backends(CPU, torch.float32, head_dim=64, num_heads=4)[-2:]
    assert fa3.available and not fa3.chosen and "antigravity is installed" in fa3.reason
    assert not sage.available and "x_y" in sage.reason


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_bfloat16_does_not_fall_back_to_the_plain_form() -> None:
    found = find_attention_backends(torch.device("cuda"), torch.bfloat16, head_dim=128, num_heads=40)
    assert next(backend for backend in found if backend.chosen).name in ("cudnn", "flash")
