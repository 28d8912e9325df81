"""The full-size published state dicts: every key, shape and parameter count, on the meta device."""

from dataclasses import replace
from typing import Any

import torch
from parity_networks import (
    clip_config,
    count_parameters,
    dit_config,
    meta_tensors,
    read_keys,
    vae_config,
)
from torch import nn

from livetalk.checkpoints.adapters import (
    StateDictAdapter,
    dit_adapter,
    published_dit_config,
    published_vae_config,
    vae_adapter,
)
from livetalk.checkpoints.encoder_adapters import (
    EncoderAdapter,
    clip_vision_adapter,
    umt5_adapter,
    umt5_config,
    wav2vec2_adapter,
    wav2vec2_config,
)
from livetalk.models.clip_vision import CLIPVisionEncoder, clip_vit_h14
from livetalk.models.dit import DiT
from livetalk.models.umt5 import UMT5Encoder, umt5_xxl
from livetalk.models.vae import CausalVideoVAE
from livetalk.models.wav2vec import Wav2Vec2Encoder, wav2vec2_base


def check(network: nn.Module, adapter: StateDictAdapter, manifest: dict[str, Any], name: str) -> None:
    """Compare our translated keys and shapes with the manifest, and import all of it strictly.

    What a file holds beyond the network is named by its adapter; both together are the whole file.
    """
    published = meta_tensors(manifest)
    assert manifest["count"] == len(published)
    used = adapter.select(published) if isinstance(adapter, EncoderAdapter) else published
    shapes = {key: tuple(tensor.shape) for key, tensor in adapter.export_weights(network).items()}
    assert shapes == {key: tuple(tensor.shape) for key, tensor in used.items()}
    assert {adapter.to_ours(key) for key in used} == set(network.state_dict())
    network.load_state_dict(adapter.import_weights(network, published), strict=True, assign=True)
    unused = {key: tensor for key, tensor in published.items() if key not in used}
    groups = dict.fromkeys(manifest["groups"], 0)
    for key, tensor in (adapter.export_weights(network) | unused).items():
        groups[key.split(".")[0]] += tensor.numel()
    expected = count_parameters(name)
    assert groups == expected["groups"]
    in_use = sum(parameter.numel() for parameter in network.parameters())
    assert in_use + sum(tensor.numel() for tensor in unused.values()) == expected["parameters"]


def test_parity_dit_keys() -> None:
    manifest = read_keys("dit_14b")
    config = dit_config(manifest["config"], meta_tensors(manifest))
    assert config == published_dit_config()
    with torch.device("meta"):
        dit = DiT(config)
    check(dit, dit_adapter(config), manifest, "dit_14b")


def test_parity_vae_keys() -> None:
    manifest = read_keys("vae")
    config = vae_config(manifest["config"])
    assert config == replace(published_vae_config(), latents_mean=(), latents_std=())
    with torch.device("meta"):
        vae = CausalVideoVAE(config)
    check(vae, vae_adapter(config), manifest, "vae")


def test_parity_clip_keys() -> None:
    manifest = read_keys("clip")
    config = clip_config(meta_tensors(manifest))
    assert config == clip_vit_h14()
    with torch.device("meta"):
        encoder = CLIPVisionEncoder(config)
    check(encoder, clip_vision_adapter(config), manifest, "clip")
    assert sum(p.numel() for p in encoder.parameters()) == count_parameters("clip")["visual_used"]


def test_parity_umt5_keys() -> None:
    manifest = read_keys("umt5_xxl_encoder")
    config = umt5_config({key: tuple(tensor.shape) for key, tensor in meta_tensors(manifest).items()})
    assert config == umt5_xxl()
    with torch.device("meta"):
        encoder = UMT5Encoder(config)
    adapter = umt5_adapter()
    assert adapter.unused == ()
    check(encoder, adapter, manifest, "umt5_xxl_encoder")


def test_parity_wav2vec_keys() -> None:
    manifest = read_keys("wav2vec2_base")
    assert wav2vec2_config({}) == wav2vec2_base()
    with torch.device("meta"):
        encoder = Wav2Vec2Encoder(wav2vec2_base())
    adapter = wav2vec2_adapter()
    assert [key for key in manifest["keys"] if adapter.canonical(key) is None] == ["masked_spec_embed"]
    check(encoder, adapter, manifest, "wav2vec2_base")
