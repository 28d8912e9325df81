"""Export of networks in the published layout, so that the published program and its forks load them."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from livetalk.checkpoints.adapters import StateDictAdapter, dit_adapter, vae_adapter
from livetalk.checkpoints.encoder_adapters import (
    EncoderAdapter,
    clip_vision_adapter,
    umt5_adapter,
    wav2vec2_adapter,
)
from livetalk.checkpoints.layouts import (
    CONFIG_NAME,
    DIT_STEM,
    IMAGE_ENCODER_NAME,
    SPEECH_ENCODER_DIR,
    TEXT_ENCODER_NAME,
    TOKENIZER_NAME,
    VAE_NAME,
    PublishedFiles,
)
from livetalk.checkpoints.published import PartName
from livetalk.checkpoints.shards import MAX_SHARD_BYTES, write_shards
from livetalk.checkpoints.tensor_files import index_tensors, read_tensors
from livetalk.errors import WeightsError
from livetalk.models.clip_vision import CLIPVisionEncoder
from livetalk.models.dit import DiT, DiTConfig
from livetalk.models.umt5 import UMT5Encoder
from livetalk.models.vae import CausalVideoVAE
from livetalk.models.wav2vec import Wav2Vec2Encoder

_TORCH_FILES: tuple[tuple[PartName, str], ...] = (
    ("vae", VAE_NAME),
    ("text_encoder", TEXT_ENCODER_NAME),
    ("image_encoder", IMAGE_ENCODER_NAME),
)
_SPEECH_NAME = "model.safetensors"


def export_published(
    directory: Path,
    networks: Mapping[PartName, nn.Module],
    *,
    source: PublishedFiles,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Write a model in the published layout and return its folder, named like that of `source`.

    Weights keep the dtype of `networks`, the parts to write, often only the transformer. The published dtypes
    are bfloat16 for the transformer and the text encoder, float16 for the image encoder and float32 for the
    others. Other parts are copied from `source`, a model in the published layout, and so are the weights of
    its files that the networks do not use.

    Raises:
        WeightsError: the source is an export in this package's format, or a network is quantized.
        OSError: a folder already exists, or the disk is full or not writable.
    """
    if source.manifest is not None:
        raise WeightsError(
            f"weights {source.model_dir}: an export cannot be the source of the published files"
        )
    model_dir = directory / source.model_dir.resolve().name
    speech_dir = directory / SPEECH_ENCODER_DIR
    model_dir.mkdir(parents=True)
    speech_dir.mkdir()
    _write_dit(model_dir, networks.get("dit"), source, max_shard_bytes)
    for part, name in _TORCH_FILES:
        _write_torch_file(model_dir / name, networks.get(part), getattr(source, part))
    shutil.copytree(source.tokenizer, model_dir / TOKENIZER_NAME)
    _write_speech_encoder(speech_dir, networks.get("audio_encoder"), source)
    return model_dir


def published_adapter(network: nn.Module) -> StateDictAdapter:
    """Return the adapter between a network's keys and the published ones; `TypeError` if there is none."""
    if isinstance(network, DiT):
        return dit_adapter(network.config)
    if isinstance(network, CausalVideoVAE):
        return vae_adapter(network.config)
    if isinstance(network, UMT5Encoder):
        return umt5_adapter()
    if isinstance(network, CLIPVisionEncoder):
        return clip_vision_adapter(network.config)
    if isinstance(network, Wav2Vec2Encoder):
        return wav2vec2_adapter()
    raise TypeError(f"a {type(network).__name__} has no published form")


def _published_weights(network: nn.Module) -> dict[str, Tensor]:
    if any(tensor.dtype.itemsize < 2 and tensor.ndim > 1 for tensor in network.state_dict().values()):
        raise WeightsError(
            f"the weights of this {type(network).__name__} are stored as bytes, which the published layout "
            "does not know; load the model in bfloat16"
        )
    return published_adapter(network).export_weights(network)


def _write_dit(model_dir: Path, dit: nn.Module | None, source: PublishedFiles, max_bytes: int) -> None:
    weights: Iterator[tuple[str, Tensor]]
    if dit is None:
        entries = index_tensors(source.dit, *source.dit_overlays).entries
        weights = read_tensors(entries)
        sizes = {name: entry.num_bytes for name, entry in entries.items()}
        shutil.copyfile(source.config, model_dir / CONFIG_NAME)
    else:
        state = _published_weights(dit)
        weights = iter(state.items())
        sizes = {name: tensor.nbytes for name, tensor in state.items()}
        assert isinstance(dit, DiT)
        text = json.dumps(_dit_json(dit.config), indent=2)
        (model_dir / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")
    write_shards(model_dir, DIT_STEM, sizes, weights, max_bytes=max_bytes)


def _dit_json(config: DiTConfig) -> dict[str, Any]:
    """Return the published `config.json`, without the fields that are constant in the published code."""
    return {
        "_class_name": "WanModel",
        "_diffusers_version": "0.30.0",
        "audio_window": config.audio.window,
        "context_tokens": config.audio.context_tokens,
        "dim": config.dim,
        "eps": config.eps,
        "ffn_dim": config.ffn_dim,
        "freq_dim": config.freq_dim,
        "in_dim": config.in_channels,
        "intermediate_dim": config.audio.hidden_dim,
        "model_type": "i2v",
        "norm_input_visual": True,
        "norm_output_audio": True,
        "num_heads": config.num_heads,
        "num_layers": config.num_layers,
        "out_dim": config.out_channels,
        "output_dim": config.audio.output_dim,
        "text_len": config.text_len,
        "vae_scale": config.audio.latent_stride,
    }


def _write_torch_file(path: Path, network: nn.Module | None, source: Path) -> None:
    if network is None:
        shutil.copyfile(source, path)
        return
    # The published program expects its files complete.
    state = _unused_weights(network, source) | _published_weights(network)
    # Copies, because torch.save writes the whole storage behind a view.
    torch.save({name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}, path)


def _write_speech_encoder(folder: Path, network: nn.Module | None, source: PublishedFiles) -> None:
    for path in sorted(source.audio_encoder.parent.glob("*.json")):
        shutil.copyfile(path, folder / path.name)
    if network is None:
        shutil.copyfile(source.audio_encoder, folder / source.audio_encoder.name)
        return
    state = _unused_weights(network, source.audio_encoder) | _published_weights(network)
    sizes = {name: tensor.nbytes for name, tensor in state.items()}
    write_shards(folder, Path(_SPEECH_NAME).stem, sizes, iter(state.items()), max_bytes=sum(sizes.values()))


def _unused_weights(network: nn.Module, source: Path) -> dict[str, Tensor]:
    """Read the weights of a published file that the network does not use."""
    adapter = published_adapter(network)
    if not isinstance(adapter, EncoderAdapter):
        return {}
    entries = index_tensors(source).entries
    unused = {name: entry for name, entry in entries.items() if adapter.canonical(name) is None}
    return {name: tensor.clone() for name, tensor in read_tensors(unused)}
