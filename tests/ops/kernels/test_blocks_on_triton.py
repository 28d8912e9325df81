from dataclasses import replace

import pytest
import torch

from livetalk.accelerate.fused_blocks import fuse_blocks
from livetalk.accelerate.fused_vae import fuse_vae
from livetalk.ops.backends import ATTENTION_KERNELS, apply_attention
from livetalk.ops.kernels.interface import FusedKernels
from livetalk.placement.float8 import apply_float8
from tiny import AUDIO, DIT_WITH_PROMPT, dit_inputs, tiny_dit, tiny_vae

PROMPT = replace(
    DIT_WITH_PROMPT, dim=64, ffn_dim=112, num_heads=4, num_layers=1, audio=replace(AUDIO, output_dim=16)
)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@torch.no_grad()
@pytest.mark.parametrize(("float8", "tolerance"), [(False, 1e-5), (True, 0.1)])
def test_the_transformer_runs_on_triton(
    triton: FusedKernels, device: torch.device, float8: bool, tolerance: float
) -> None:
    inputs = [None if x is None else x.to(device) for x in dit_inputs(PROMPT)]
    plain, fused = tiny_dit(PROMPT).to(device), tiny_dit(PROMPT).to(device)
    if float8:
        apply_float8(fused, allow_reference=True)
        apply_attention(fused, ATTENTION_KERNELS["fp8-reference"], ("self_attention",))
    fuse_blocks(fused, triton)
    error = relative(fused(*inputs), plain(*inputs))
    assert error < tolerance
    assert not float8 or error > 1e-3


@torch.no_grad()
def test_the_vae_runs_on_triton(triton: FusedKernels, device: torch.device) -> None:
    plain, fused = tiny_vae().to(device), tiny_vae().to(device)
    fuse_vae(fused, triton)
    latents = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0)).to(device)
    assert relative(fused.decode(latents)[0], plain.decode(latents)[0]) < 1e-4
