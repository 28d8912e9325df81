import pytest
import torch
from parallel.gloo_ranks import run_ranks
from tiny import DIT, DIT_WITH_PROMPT, dit_inputs, tiny_dit
from torch import Tensor

from livetalk.parallel.mesh import ParallelConfig, build_mesh
from livetalk.parallel.sequence import parallelize_dit

CPU = torch.device("cpu")


def odd_inputs(seed: int = 0) -> tuple[Tensor | None, ...]:
    """Draw arguments for a transformer: 5 latent frames of 5 x 7 tokens, 175 in all."""
    rng = torch.Generator().manual_seed(seed)
    config = DIT_WITH_PROMPT

    def draw(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=rng)

    audio = config.audio
    return (
        draw(config.out_channels, 5, 10, 14),
        torch.full((1,), 500.0),
        draw(config.in_channels - config.out_channels, 5, 10, 14),
        draw(17, audio.window, audio.num_blocks, audio.channels),
        draw(3, config.text_dim),
        draw(7, config.image_dim),
    )


def velocity(ulysses: int, ring: int) -> Tensor:
    dit = tiny_dit(DIT_WITH_PROMPT)
    parallelize_dit(dit, build_mesh(ParallelConfig(ulysses_degree=ulysses, ring_degree=ring), CPU))
    return dit(*odd_inputs())


@pytest.mark.parametrize(("ulysses", "ring"), [(2, 1), (1, 2), (1, 3), (2, 2), (1, 4)])
def test_every_mesh_gives_the_velocity_of_one_rank(ulysses: int, ring: int) -> None:
    with torch.no_grad():
        expected = tiny_dit(DIT_WITH_PROMPT)(*odd_inputs())
    found = run_ranks(velocity, ulysses * ring, ulysses, ring)
    for other in found[1:]:
        assert torch.equal(other, found[0])
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-5)
