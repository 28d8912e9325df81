import pytest
import torch
from torch import nn

from livetalk.accelerate.selection import select_attention
from livetalk.errors import InputError
from livetalk.ops import attention_float8
from livetalk.ops import fa3 as fa3_module
from livetalk.ops.attention import AttentionCore, attention
from livetalk.ops.attention_lse import reference_attention_with_lse
from livetalk.ops.backends import (
    ATTENTION_KERNELS,
    AttentionSpec,
    KernelCore,
    apply_attention,
    find_attention_backends,
)
from livetalk.ops.low_precision import FLOAT8
from tiny import DIT_WITH_PROMPT, dit_inputs, tiny_dit
from tolerance import assert_near, expect, expect_narrow, relative, rounding, unit_roundoff

CPU = torch.device("cpu")
WORK = AttentionSpec(CPU, torch.float32, 16, 3)
GPU_WORK = AttentionSpec(torch.device("cuda"), torch.bfloat16, 128, 5)
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

FLOAT8_LIMIT = unit_roundoff(FLOAT8) * 3**0.5
"""Independent rounding of queries, keys and values."""


def qkv(work: AttentionSpec = WORK, queries: int = 11, keys: int = 19) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, length, work.num_heads, work.head_dim, generator=rng).to(work.device, work.dtype)
        for length in (queries, keys, keys)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_of_pytorchs_own_kernels_is_chosen(dtype: torch.dtype) -> None:
    found = find_attention_backends(CPU, dtype, head_dim=64, num_heads=4)
    assert [backend.name for backend in found] == list(ATTENTION_KERNELS)
    chosen = [backend for backend in found if backend.chosen]
    assert len(chosen) == 1 and chosen[0].available and chosen[0].name in ("flash", "math")
    assert all(backend.reason for backend in found)


def test_the_package_is_found_without_an_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    cuda = torch.device("cuda")
    monkeypatch.setattr(fa3_module, "PACKAGE", "no_such_kernels")
    assert "no_such_kernels" in str(fa3_module.fa3_problem(cuda, torch.bfloat16, 128))
    # "antigravity" opens a browser when it is imported.
    monkeypatch.setattr(fa3_module, "PACKAGE", "antigravity")
    assert fa3_module.fa3_problem(cuda, torch.bfloat16, 128) is None
    assert "bfloat16" in str(fa3_module.fa3_problem(cuda, torch.float32, 128))
    assert "257" in str(fa3_module.fa3_problem(cuda, torch.bfloat16, 257))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (10, 0))
    assert "Hopper" in str(fa3_module.fa3_problem(cuda, torch.bfloat16, 128))


def test_kernels_that_fail_to_load_give_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fa3_module, "PACKAGE", "no_such_kernels")
    with pytest.raises(InputError, match="no_such_kernels"):
        fa3_module.load_fa3()


def test_every_kernel_that_runs_here_is_attention() -> None:
    q, k, v = qkv()
    exact, exact_lse = reference_attention_with_lse(q, k, v)
    ran = []
    for name, kernel in ATTENTION_KERNELS.items():
        if kernel.problem(WORK) is None:
            core = KernelCore(kernel)
            limit = FLOAT8_LIMIT if kernel.float8 else rounding(16 + 2 * 19)
            assert_near(core(q, k, v), exact, limit)
            assert_near(core.with_lse(q, k, v)[1], exact_lse, limit)
            ran.append(name)
    assert ran == ["flash", "math", "fp8-reference"]


def test_output_alone_skips_the_restored_log_sum_exp(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = qkv()
    core, restored = KernelCore(ATTENTION_KERNELS["fp8-reference"]), []
    restore = attention_float8.restore_lse

    def record(*args: torch.Tensor) -> torch.Tensor:
        restored.append(args)
        return restore(*args)

    monkeypatch.setattr(attention_float8, "restore_lse", record)
    out = core(q, k, v)
    assert not restored
    assert torch.equal(out, core.with_lse(q, k, v)[0])
    assert len(restored) == 1


def test_a_named_kernel_takes_no_mask_and_rounds_to_the_values() -> None:
    q, k, v = qkv()
    core = KernelCore(ATTENTION_KERNELS["math"])
    with pytest.raises(ValueError, match="math takes no mask"):
        core(q, k, v, torch.ones(11, 19, dtype=torch.bool))
    rounded = core(q, k, v.bfloat16())
    assert rounded.dtype == torch.bfloat16
    # One kernel rounds the weights of the keys, the other does not; both round the result.
    expected = attention(q.bfloat16(), k.bfloat16(), v.bfloat16())
    assert_near(rounded, expected, 2 * rounding(dtype=torch.bfloat16))
    out, lse = core.with_lse(q, k[:, :0], v[:, :0])
    assert not out.any() and lse.isneginf().all()


def test_a_kernel_applies_to_named_parts_of_a_transformer() -> None:
    dit, inputs = tiny_dit(DIT_WITH_PROMPT), dit_inputs(DIT_WITH_PROMPT)
    exact, limit = expect(lambda: dit(*inputs), dit)
    _, narrow_limit = expect_narrow(lambda: dit(*inputs), FLOAT8, dit.blocks)
    with torch.no_grad():
        kernel = ATTENTION_KERNELS["math"]
        assert apply_attention(dit, kernel, ("self_attention",)) == DIT_WITH_PROMPT.num_layers
        block = dit.blocks.layers[0]
        assert isinstance(block.get_submodule("self_attention.core"), KernelCore)
        assert type(block.get_submodule("audio_attention.core")) is AttentionCore
        assert_near(dit(*inputs), exact, limit)
        apply_attention(dit, ATTENTION_KERNELS["fp8-reference"], ("self_attention",))
        assert 1e-5 < relative(dit(*inputs), exact) < narrow_limit


def test_a_core_of_another_class_is_unchanged() -> None:
    class RingCore(AttentionCore):
        pass

    owner = nn.Module()
    owner.self_attention = nn.Module()
    owner.self_attention.core = RingCore()
    assert apply_attention(owner, ATTENTION_KERNELS["math"], ("self_attention",)) == 0
    assert type(owner.self_attention.core) is RingCore


@pytest.mark.gpu
@NEEDS_CUDA
def test_on_a_gpu_bfloat16_does_not_fall_back_to_the_plain_form() -> None:
    found = find_attention_backends(torch.device("cuda"), torch.bfloat16, head_dim=128, num_heads=40)
    assert next(backend for backend in found if backend.chosen).name in ("cudnn", "flash")


@pytest.mark.gpu
@NEEDS_CUDA
@pytest.mark.parametrize("name", list(ATTENTION_KERNELS))
def test_every_kernel_of_a_gpu_is_attention(name: str) -> None:
    kernel = ATTENTION_KERNELS[name]
    problem = kernel.problem(GPU_WORK)
    if problem is not None:
        pytest.skip(problem)
    q, k, v = qkv(GPU_WORK, 333, 257)
    core = KernelCore(select_attention(name, GPU_WORK))
    exact, exact_lse = reference_attention_with_lse(q, k, v)
    # The weights of the keys and the result are rounded.
    limit = unit_roundoff(FLOAT8) if kernel.float8 else 2 * unit_roundoff(torch.bfloat16)
    assert relative(core(q, k, v), exact) < limit
    lse_limit = FLOAT8_LIMIT if kernel.float8 else unit_roundoff(torch.bfloat16)
    assert (core.with_lse(q, k, v)[1] - exact_lse).abs().max() <= lse_limit
