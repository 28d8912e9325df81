"""Several GPUs give the results of one. The other tests of this package do the same on CPUs with gloo."""

from dataclasses import replace
from typing import cast

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from livetalk.accelerate.apply import AccelerationConfig, accelerate
from livetalk.accelerate.graphs import graph_blocks
from livetalk.accelerate.selection import select_fused
from livetalk.models.dit import DiT, DiTConfig
from livetalk.models.vae import CausalVideoVAE
from livetalk.ops.attention import AttentionCore
from livetalk.ops.fa3 import fa3_problem
from livetalk.ops.kernels.interface import HeadRange
from livetalk.ops.low_precision import FLOAT8
from livetalk.parallel.mesh import ParallelConfig, build_mesh
from livetalk.parallel.peer_memory import open_peer_memory
from livetalk.parallel.sequence import parallelize_dit
from livetalk.parallel.shard import Shard
from livetalk.parallel.ulysses import UlyssesAttention
from livetalk.parallel.vae import parallelize_vae
from parallel.gloo_ranks import run_ranks
from tiny import DIT_WITH_PROMPT, VAE, randomize
from tolerance import assert_near, expect, relative

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
]

CONFIG = replace(DIT_WITH_PROMPT, dim=512, ffn_dim=1024, num_heads=8)
FRAMES, ROWS, COLUMNS = 9, 13, 9
"""1,053 tokens, divisible by neither two nor four ranks."""

SEVERAL = pytest.mark.parametrize(
    "num_gpus",
    [2, pytest.param(4, marks=pytest.mark.skipif(torch.cuda.device_count() < 4, reason="needs four GPUs"))],
)


def build_dit(dtype: torch.dtype, config: DiTConfig = CONFIG) -> DiT:
    dit = DiT(config).eval()
    randomize(dit)
    return dit.to("cuda", dtype)


def build_vae(dtype: torch.dtype) -> CausalVideoVAE:
    vae = CausalVideoVAE(replace(VAE, base_dim=32)).eval()
    randomize(vae)
    vae.to("cuda", dtype)
    vae.use_channels_last()
    return vae


def exact_products() -> None:
    """Disable TF32, as the test session does in its own process."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def velocity(dit: nn.Module) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    audio = CONFIG.audio

    def draw(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=rng).cuda()

    grid = (FRAMES, 2 * ROWS, 2 * COLUMNS)
    with torch.no_grad():
        found: Tensor = dit(
            draw(CONFIG.out_channels, *grid),
            torch.full((1,), 500.0, device="cuda"),
            draw(CONFIG.in_channels - CONFIG.out_channels, *grid),
            draw(4 * FRAMES - 3, audio.window, audio.num_blocks, audio.channels),
            draw(3, CONFIG.text_dim or 0),
            draw(7, CONFIG.image_dim or 0),
        )
    return found.cpu()


def pictures(vae: CausalVideoVAE) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    latents = torch.randn(1, VAE.latent_channels, 3, 12, 17, generator=rng).cuda()
    video = torch.rand(1, 3, 5, 48, 68, generator=rng).cuda() * 2 - 1
    with torch.no_grad():
        return vae.decode_raw(latents).float().cpu(), vae.encode(video)[0].float().cpu()


def on_several(dtype: torch.dtype, ring: bool, compiled: bool) -> tuple[Tensor, Tensor, Tensor]:
    exact_products()
    num_ranks = dist.get_world_size()
    config = ParallelConfig(ulysses_degree=1 if ring else num_ranks, ring_degree=num_ranks if ring else 1)
    mesh = build_mesh(config, torch.device("cuda", dist.get_rank()))
    dit = build_dit(dtype)
    parallelize_dit(dit, mesh)
    vae = parallelize_vae(build_vae(dtype), mesh.world)
    if compiled:
        dit.compile(fullgraph=True)
    return velocity(dit), *pictures(vae)


def run_exchanges(through_peers: bool) -> list[Tensor]:
    """Run the exchanges of many blocks, with different delays on each rank in between."""
    device = torch.device("cuda", dist.get_rank())
    num_ranks = dist.get_world_size()
    mesh = build_mesh(ParallelConfig(ulysses_degree=num_ranks), device)
    shard = Shard(mesh.world, "tokens", dim=1)
    own = shard.resize(FRAMES * ROWS * COLUMNS)
    peers = open_peer_memory(mesh) if through_peers else None
    assert (peers is not None) == through_peers
    core, kernels = UlyssesAttention(AttentionCore(), shard, mesh, 8, peers), select_fused("auto", device)
    rng = torch.Generator(device).manual_seed(dist.get_rank())
    found = []
    for turn in range(30):
        # Later windows are larger and need larger buffers.
        batch = 1 + turn // 15
        bounds = core.gather_bounds(torch.randn(3, 3, 8, 64, generator=rng, device=device)).clone()
        buffer = core.open_send_buffer(batch, 64, FLOAT8 if turn % 2 else torch.bfloat16)
        if turn % 3 == dist.get_rank():
            torch.cuda._sleep(2_000_000)
        for targets in buffer.targets:
            x = torch.randn(batch, own.size, 512, generator=rng, device=device).bfloat16()
            whole, head_range = kernels.split_heads(x, None, None, None, (8, 1), measure=True)
            if turn % 2:
                kernels.quantize_heads_into(whole[0], cast(HeadRange, head_range), targets, centre=False)
            else:
                kernels.split_heads(x, None, None, None, (8, num_ranks), out=targets)
        if turn % 4 == dist.get_rank():
            torch.cuda._sleep(2_000_000)
        q, k, v = (part.bfloat16() for part in core.send_heads(buffer))
        heads = core.return_results(q + k * v)
        assert heads.shape == (batch, own.size, num_ranks, 512 // num_ranks)
        found += [bounds, heads.clone()]
        # The same results read in peer memory; the exchange of bounds in between allows reuse of the buffer.
        core.gather_bounds(torch.zeros(3, 3, 8, 64, device=device))
        results = core.open_result_buffer(batch, 64, torch.bfloat16)
        if results is not None:
            parts = core.read_peer_results(results.copy_(q + k * v))
            assert torch.equal(torch.stack([part.flatten(2) for part in parts], dim=2), found[-1])
    return [x.cpu() for x in found]


@SEVERAL
def test_peer_memory_gives_the_results_of_collectives(num_gpus: int) -> None:
    expected = run_ranks(run_exchanges, num_gpus, False, backend="nccl")
    for rank, wanted in zip(run_ranks(run_exchanges, num_gpus, True, backend="nccl"), expected, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(rank, wanted, strict=True))


@pytest.mark.parametrize("ring", [False, True], ids=["ulysses", "ring"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@SEVERAL
def test_several_gpus_give_what_one_gives(
    dtype: torch.dtype, ring: bool, compiled: bool, num_gpus: int
) -> None:
    found = run_ranks(on_several, num_gpus, dtype, ring, compiled, backend="nccl")
    for first, *others in zip(*found, strict=True):
        assert all(torch.equal(first, other) for other in others)
    dit, vae = build_dit(torch.float32), build_vae(torch.float32)
    exact = [
        expect(lambda: velocity(dit), dit),
        *(expect(lambda index=index: pictures(vae)[index], vae) for index in range(2)),
    ]
    one = (velocity(build_dit(dtype)), *pictures(build_vae(dtype)))
    for own, one_gpu, (truth, limit) in zip(found[0], one, exact, strict=True):
        if dtype is torch.float32:
            assert_near(own, truth, limit)
        else:
            # In bfloat16 several GPUs round other sums than one; their error must not be larger.
            assert relative(own, truth) < 1.5 * relative(one_gpu, truth)


def fast_dit(float8: bool) -> DiT:
    """Build a transformer with all fast forms of a GPU."""
    dit = build_dit(torch.bfloat16)
    attention = "fa3-fp8" if float8 else "cudnn"
    config = AccelerationConfig(fast=True, float8=float8, attention=attention)
    accelerate(dit, build_vae(torch.bfloat16), torch.device("cuda"), config)
    return dit


def fast_on_several(float8: bool, graphed: bool) -> list[Tensor]:
    """Predict the same velocity three times."""
    device = torch.device("cuda", dist.get_rank())
    mesh = build_mesh(ParallelConfig(ulysses_degree=dist.get_world_size()), device)
    dit = fast_dit(float8)
    if graphed:
        graph_blocks(dit)
    parallelize_dit(dit, mesh)
    return [velocity(dit) for _ in range(3)]


@SEVERAL
@pytest.mark.parametrize("float8", [False, True])
def test_fast_forms_and_graphs_on_several_gpus(float8: bool, num_gpus: int) -> None:
    if float8 and fa3_problem(torch.device("cuda"), torch.bfloat16, 64) is not None:
        pytest.skip("needs a Hopper GPU and fa3-fwd")
    exact = velocity(build_dit(torch.float32))
    one = relative(velocity(fast_dit(float8)), exact)
    launched = run_ranks(fast_on_several, num_gpus, float8, False, backend="nccl")
    graphed = run_ranks(fast_on_several, num_gpus, float8, True, backend="nccl")
    assert relative(launched[0][0], exact) < 1.2 * one
    for found in (*launched, *graphed):
        assert all(torch.equal(repeated, launched[0][0]) for repeated in found)
