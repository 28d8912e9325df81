"""Our networks at the sizes and with the weights of the reference files."""

import gzip
import json
from dataclasses import replace
from typing import Any

import torch
from parity_case import Reference, require_file
from torch import Tensor

from livetalk.checkpoints.adapters import dit_adapter, vae_adapter
from livetalk.checkpoints.encoder_adapters import (
    clip_vision_adapter,
    clip_vision_config,
    umt5_adapter,
    umt5_config,
    wav2vec2_adapter,
    wav2vec2_config,
)
from livetalk.models.audio_projection import AudioProjectionConfig
from livetalk.models.clip_vision import CLIPVisionConfig, CLIPVisionEncoder
from livetalk.models.dit import DiT, DiTConfig
from livetalk.models.umt5 import UMT5Encoder
from livetalk.models.vae import CausalVideoVAE, VAEConfig
from livetalk.models.wav2vec import Wav2Vec2Encoder


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


def read_keys(name: str) -> dict[str, Any]:
    """Read the manifest of a full-size checkpoint: keys and shapes of all its tensors."""
    manifest: dict[str, Any] = json.loads(gzip.decompress(require_file(f"keys_{name}.json.gz").read_bytes()))
    return manifest


def meta_tensors(manifest: dict[str, Any]) -> dict[str, Tensor]:
    """Stand in for the tensors of a manifest, without memory."""
    return {key: torch.empty(entry["shape"], device="meta") for key, entry in manifest["keys"].items()}


def count_parameters(name: str) -> dict[str, Any]:
    """Read the parameter counts of a full-size network."""
    every: dict[str, Any] = json.loads(require_file("counts_parameters.json").read_text())
    entry: dict[str, Any] = every[name]
    return entry


def clip_config(weights: dict[str, Tensor], num_heads: int = 16) -> CLIPVisionConfig:
    """Read the size of an image encoder off its weights."""
    return clip_vision_config(shapes_of(weights), num_heads)


def shapes_of(weights: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor."""
    return {key: tuple(tensor.shape) for key, tensor in weights.items()}


def load_wav2vec(reference: Reference) -> Wav2Vec2Encoder:
    """Build the speech encoder of a reference file."""
    encoder = Wav2Vec2Encoder(wav2vec2_config(reference.meta["config"])).eval()
    encoder.load_state_dict(wav2vec2_adapter().import_weights(encoder, reference.weights()), strict=True)
    return encoder


def load_umt5(reference: Reference) -> UMT5Encoder:
    """Build the text encoder of a reference file."""
    weights = reference.weights()
    encoder = UMT5Encoder(umt5_config(shapes_of(weights))).eval()
    encoder.load_state_dict(umt5_adapter().import_weights(encoder, weights), strict=True)
    return encoder


def load_clip(reference: Reference, *, all_blocks: bool = False) -> CLIPVisionEncoder:
    """Build the image encoder of a reference file; `all_blocks` also runs the last one."""
    published = reference.meta["config"]
    # In a whole checkpoint the tower stands under this prefix; the reference holds the tower alone.
    weights = {f"visual.{key}": tensor for key, tensor in reference.weights().items()}
    config = clip_config(weights, published["num_heads"])
    config = replace(config, num_layers=config.num_layers + all_blocks)
    encoder = CLIPVisionEncoder(config).eval()
    encoder.load_state_dict(clip_vision_adapter(config).import_weights(encoder, weights), strict=True)
    return encoder
