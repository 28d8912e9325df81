"""A stage starts from exported weights, narrowed where the recipe asks for it."""

import dataclasses
from pathlib import Path

import pytest
import torch

from livetalk.checkpoints.native import Part, load_checkpoint, save_checkpoint
from livetalk.errors import WeightsError
from livetalk.models.audio_projection import AudioProjectionConfig
from livetalk.models.dit import DiT, DiTConfig
from livetalk.models.vae import CausalVideoVAE, VAEConfig
from livetalk.training.start import start_dit, start_vae
from tolerance import assert_same_network

AUDIO = AudioProjectionConfig(num_blocks=1, channels=16, hidden_dim=8, context_tokens=2, output_dim=8)
DIT = DiTConfig(dim=32, ffn_dim=64, num_heads=2, num_layers=2, in_channels=12, out_channels=4, audio=AUDIO)
NARROW = dataclasses.replace(DIT, ffn_dim=48)
VAE = VAEConfig(
    base_dim=8,
    latent_channels=4,
    dim_multipliers=(1, 2),
    num_res_blocks=1,
    temporal_downsample=(True,),
    latents_mean=(0.1, 0.2, 0.3, 0.4),
    latents_std=(1.0, 2.0, 3.0, 4.0),
)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    dit, vae = DiT(DIT), CausalVideoVAE(VAE)
    with torch.no_grad():
        for name, parameter in dit.named_parameters():
            parameter.normal_(0, 0.1)
            # A quarter of the hidden units reaches nothing: dropping them must change nothing.
            if name.endswith("ffn.2.weight"):
                parameter[:, ::4] = 0
    save_checkpoint(
        tmp_path,
        name="tiny",
        version="1",
        configs={"dit": DIT, "vae": VAE},
        parts={"dit": Part(dit.state_dict(), "float32"), "vae": Part(vae.state_dict(), "float32")},
    )
    return tmp_path


def test_vae_starts_with_weights_and_latent_statistics(exported: Path) -> None:
    vae = start_vae(exported, dataclasses.replace(VAE, latents_mean=(), latents_std=()))
    assert vae.config == VAE
    stored = load_checkpoint(exported).state_dict("vae")
    for name, tensor in vae.state_dict().items():
        assert torch.equal(tensor, stored[name])


def test_narrower_layers_keep_the_units_that_matter(exported: Path) -> None:
    wide, narrow = start_dit(exported, DIT).eval(), start_dit(exported, NARROW).eval()
    latents, condition = torch.randn(1, 4, 2, 4, 4), torch.randn(1, 8, 2, 4, 4)
    audio = torch.randn(1, 5, 5, 1, 16)
    inputs = latents, torch.tensor([500.0]), condition, audio
    with torch.no_grad():
        found = narrow(*inputs)
    assert float(found.std()) > 0
    assert_same_network(found, lambda: wide(*inputs), wide)


def test_other_sizes_are_refused(exported: Path) -> None:
    with pytest.raises(WeightsError, match="other sizes"):
        start_dit(exported, dataclasses.replace(DIT, num_layers=1))
    with pytest.raises(WeightsError, match="other sizes"):
        start_vae(exported, dataclasses.replace(VAE, base_dim=16))
