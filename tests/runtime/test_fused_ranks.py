"""Fused blocks, FP8 and named attention kernels on tokens that are spread over ranks."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from livetalk.models.dit import DiT
from livetalk.models.fused_qkv import fuse_qkv
from livetalk.ops.backends import ATTENTION_KERNELS, apply_attention
from livetalk.ops.kernels.reference import TorchKernels
from livetalk.parallel.mesh import ParallelConfig, build_mesh
from livetalk.parallel.sequence import parallelize_dit
from livetalk.parallel.ulysses import UlyssesAttention
from livetalk.quantization.float8 import apply_float8
from livetalk.runtime.fused_blocks import fuse_blocks
from parallel.gloo_ranks import run_ranks
from tiny import AUDIO, DIT_WITH_PROMPT, dit_inputs, tiny_dit

CONFIG = replace(DIT_WITH_PROMPT, dim=64, ffn_dim=128, num_heads=4, audio=replace(AUDIO, output_dim=16))


def build(*, fused: bool, attention: str, float8: bool) -> DiT:
    """Build the same transformer on every rank, as fast as it is told to be."""
    dit = fuse_qkv(tiny_dit(CONFIG))
    if float8:
        apply_float8(dit, allow_reference=True)
    apply_attention(dit, ATTENTION_KERNELS[attention], ("self_attention",))
    if fused:
        fuse_blocks(dit, TorchKernels())
    return dit


def velocity(degrees: tuple[int, int], attention: str, *, float8: bool) -> Tensor:
    """Predict a velocity together with the other ranks."""
    mesh = build_mesh(ParallelConfig(ulysses_degree=degrees[0], ring_degree=degrees[1]), torch.device("cpu"))
    dit = parallelize_dit(build(fused=True, attention=attention, float8=float8), mesh)
    result: Tensor = dit(*dit_inputs(CONFIG))
    return result


def exact_velocity(degrees: tuple[int, int]) -> Tensor:
    """Predict with exact kernels."""
    return velocity(degrees, "flash", float8=False)


def rounded_velocity(degrees: tuple[int, int]) -> Tensor:
    """Predict with products and attention in FP8."""
    return velocity(degrees, "fp8-reference", float8=True)


@pytest.mark.parametrize("degrees", [(2, 1), (1, 2)])
def test_ranks_give_the_velocity_of_the_plain_transformer(degrees: tuple[int, int]) -> None:
    with torch.no_grad():
        expected = tiny_dit(CONFIG)(*dit_inputs(CONFIG))
    for found in run_ranks(exact_velocity, 2, degrees):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_fp8_on_ranks_is_as_near_as_on_one() -> None:
    with torch.no_grad():
        exact = tiny_dit(CONFIG)(*dit_inputs(CONFIG))
        alone = build(fused=True, attention="fp8-reference", float8=True)(*dit_inputs(CONFIG))
    error = (alone - exact).norm()
    # Two ranks share four heads evenly, and exchange bytes; three round what they have exchanged.
    for num_ranks in (2, 3):
        for found in run_ranks(rounded_velocity, num_ranks, (num_ranks, 1)):
            # Not to the bit: other tokens in a product move a sum's last place, and that an entry's level.
            assert (found - exact).norm() < 1.2 * error
            assert (found - alone).norm() < error


def bytes_exchanged() -> list[tuple[torch.dtype, int]]:
    """Predict with attention in FP8, and note what the ranks exchange."""
    exchanged = []

    class Watching(UlyssesAttention):
        def exchange_parcel(self, parcel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            exchanged.append((parcel.dtype, parcel.numel()))
            return super().exchange_parcel(parcel)

    mesh = build_mesh(ParallelConfig(ulysses_degree=2), torch.device("cpu"))
    dit = parallelize_dit(build(fused=True, attention="fp8-reference", float8=True), mesh)
    for core in dit.modules():
        if isinstance(core, UlyssesAttention):
            core.__class__ = Watching
    dit(*dit_inputs(CONFIG))
    return exchanged


def test_fp8_attention_exchanges_single_bytes() -> None:
    for found in run_ranks(bytes_exchanged, 2):
        assert len(found) == CONFIG.num_layers
        assert {dtype for dtype, _ in found} == {torch.float8_e4m3fn}
