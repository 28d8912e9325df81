from dataclasses import replace

import pytest
import torch
from torch import Tensor

from livetalk.models.vae import CausalVideoVAE, VAEConfig
from livetalk.parallel.mesh import ParallelConfig, build_mesh
from livetalk.parallel.vae import parallelize_vae
from parallel.gloo_ranks import run_ranks
from tiny import VAE, VAE_PATCHED, tiny_vae

LATENT_COLUMNS = 7
WHOLE_FRAME = replace(VAE, dim_multipliers=(1, 2, 2, 3), temporal_downsample=(False, True, True))


def latents() -> Tensor:
    return torch.randn(
        1, VAE.latent_channels, 3, 5, LATENT_COLUMNS, generator=torch.Generator().manual_seed(1)
    )


def video(config: VAEConfig) -> Tensor:
    side = config.spatial_stride
    rng = torch.Generator().manual_seed(2)
    return torch.rand(1, 3, 9, 5 * side, LATENT_COLUMNS * side, generator=rng) * 2 - 1


def run_vae(vae: CausalVideoVAE) -> dict[str, Tensor]:
    """Encode and decode, whole and in pieces."""
    pixels = video(vae.config)
    first, cache = vae.encode(pixels[:, :, :5])
    second, _ = vae.encode(pixels[:, :, 5:], cache)
    results = {
        "encode": vae.encode(pixels)[0],
        "encode in pieces": torch.cat((first, second), dim=2),
        "decode": vae.decode(latents())[0],
        "decode raw": vae.decode_raw(latents()),
        "decode without the first frames": vae.decode(latents(), None, 4)[0],
    }
    pieces, cache = [], None
    for index in range(3):
        frames, cache = vae.decode(latents()[:, :, index : index + 1], cache)
        pieces.append(frames)
    return results | {"decode in pieces": torch.cat(pieces, dim=2)}


def sharded_vae(config: VAEConfig, num_ranks: int) -> dict[str, Tensor]:
    mesh = build_mesh(ParallelConfig(ulysses_degree=num_ranks), torch.device("cpu"))
    return run_vae(parallelize_vae(tiny_vae(config), mesh.everyone))


@pytest.mark.parametrize("num_ranks", [2, 3, 4, 7])
@pytest.mark.parametrize("config", [WHOLE_FRAME, VAE_PATCHED], ids=["pixels", "patches"])
def test_columns_that_do_not_divide_give_the_pictures_of_one_rank(config: VAEConfig, num_ranks: int) -> None:
    with torch.no_grad():
        expected = run_vae(tiny_vae(config))
    found = run_ranks(sharded_vae, num_ranks, config, num_ranks)
    for name, value in expected.items():
        for rank in found:
            assert torch.equal(rank[name], found[0][name]), name
        torch.testing.assert_close(found[0][name], value, rtol=0, atol=1e-5, msg=name)
