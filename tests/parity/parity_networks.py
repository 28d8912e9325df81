"""Our networks at the sizes and with the weights of the reference files."""

from typing import Any

from parity_case import Reference
from torch import Tensor

from livetalk.checkpoints.adapters import dit_adapter, vae_adapter
from livetalk.models.audio_projection import AudioProjectionConfig
from livetalk.models.dit import DiT, DiTConfig
from livetalk.models.vae import CausalVideoVAE, VAEConfig


def dit_config(
    published: dict[str, Any], weights: dict[str, Tensor], speech: tuple[int, int] = (12, 768)
) -> DiTConfig:
    """Translate a published configuration.

    What it does not state is taken from the shapes of the weights, and from `speech`: the layers and channels
    of the speech encoder.
    """
    num_blocks, channels = speech
    image = weights.get("img_emb.proj.1.weight")
    return DiTConfig(
        dim=published["dim"],
        ffn_dim=published["ffn_dim"],
        num_heads=published["num_heads"],
        num_layers=published["num_layers"],
        in_channels=published["in_dim"],
        out_channels=published["out_dim"],
        patch_size=tuple(published["patch_size"]),
        freq_dim=published["freq_dim"],
        text_dim=published["text_dim"],
        text_len=published["text_len"],
        image_dim=None if image is None else image.shape[1],
        eps=published["eps"],
        audio=AudioProjectionConfig(
            window=published["audio_window"],
            num_blocks=num_blocks,
            channels=channels,
            hidden_dim=published["intermediate_dim"],
            context_tokens=published["context_tokens"],
            output_dim=published["output_dim"],
            latent_stride=published["vae_scale"],
        ),
    )


def load_dit(reference: Reference) -> DiT:
    """Build the transformer of a reference file."""
    weights = reference.weights()
    first = reference.case(next(iter(reference.meta["cases"])))
    num_blocks, channels = first["in.audio"].shape[-2:]
    dit = DiT(dit_config(reference.meta["config"], weights, (num_blocks, channels))).eval()
    dit.load_state_dict(dit_adapter(dit.config).import_weights(dit, weights), strict=True)
    return dit


def vae_config(
    published: dict[str, Any], mean: Tensor | None = None, inv_std: Tensor | None = None
) -> VAEConfig:
    """Translate a published configuration and the scale of its latents (`[C]` each)."""
    return VAEConfig(
        base_dim=published["dim"],
        latent_channels=published["z_dim"],
        dim_multipliers=tuple(published["dim_mult"]),
        num_res_blocks=published["num_res_blocks"],
        temporal_downsample=tuple(published["temperal_downsample"]),
        latents_mean=() if mean is None else tuple(mean.tolist()),
        latents_std=() if inv_std is None else tuple((1 / inv_std.double()).tolist()),
    )


def load_vae(reference: Reference) -> CausalVideoVAE:
    """Build the VAE of a reference file; the scale of the latents is in its first case."""
    case = reference.case(next(iter(reference.meta["cases"])))
    vae = CausalVideoVAE(
        vae_config(reference.meta["config"], case["scale.mean"], case["scale.inv_std"])
    ).eval()
    vae.load_state_dict(vae_adapter(vae.config).import_weights(vae, reference.weights()), strict=True)
    vae.use_channels_last()
    return vae


def load_pair(dit_name: str, vae_name: str) -> tuple[DiT, CausalVideoVAE]:
    """Build the transformer and the VAE of two reference files."""
    return load_dit(Reference.load(dit_name)), load_vae(Reference.load(vae_name))
