"""Loading of a published model's networks, one at a time, directly to their device and dtype."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, get_args

import torch
from torch import nn

from livetalk.checkpoints.adapters import OwnKeys, StateDictAdapter, dit_adapter, vae_adapter
from livetalk.checkpoints.config_json import config_from_json
from livetalk.checkpoints.encoder_adapters import clip_vision_adapter, umt5_adapter, wav2vec2_adapter
from livetalk.checkpoints.layouts import PublishedFiles
from livetalk.checkpoints.manifest import MANIFEST_NAME, Manifest
from livetalk.checkpoints.published_config import (
    read_dit_config,
    read_image_config,
    read_speech_config,
    read_text_config,
    read_vae_config,
)
from livetalk.checkpoints.streaming_load import (
    LoadProgress,
    UnitHook,
    canonical_entries,
    fill_network,
)
from livetalk.checkpoints.tensor_files import TensorIndex, index_tensors
from livetalk.errors import WeightsError
from livetalk.models.clip_vision import CLIPVisionConfig, CLIPVisionEncoder
from livetalk.models.dit import DiT, DiTConfig
from livetalk.models.umt5 import UMT5Config, UMT5Encoder
from livetalk.models.vae import CausalVideoVAE, VAEConfig
from livetalk.models.wav2vec import Wav2Vec2Config, Wav2Vec2Encoder
from livetalk.ops.low_precision import FLOAT8, ByteFormat

PartName = Literal["dit", "vae", "text_encoder", "image_encoder", "audio_encoder"]
PART_NAMES: tuple[PartName, ...] = get_args(PartName)

ConfigT = TypeVar("ConfigT")
ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class PublishedNetwork(Generic[ModuleT, ConfigT]):
    """A network of a published model whose files were listed but not read."""

    config: ConfigT
    build: Callable[[ConfigT], ModuleT]
    adapter: StateDictAdapter
    index: TensorIndex

    @property
    def byte_format(self) -> ByteFormat | None:
        """Format of linear weights that are stored as one byte each; None if they are not quantized."""
        kinds = {entry.dtype for entry in self.index.entries.values()}
        return "float8" if FLOAT8 in kinds else "int8" if torch.int8 in kinds else None

    def build_empty(self) -> ModuleT:
        """Build the network on the meta device, where it takes no memory."""
        with torch.device("meta"):
            return self.build(self.config)

    def fill(
        self,
        network: ModuleT,
        *,
        device: torch.device,
        dtype: torch.dtype,
        on_unit: UnitHook | None = None,
        progress: LoadProgress | None = None,
    ) -> ModuleT:
        """Load weights into a network from `build_empty`, see `fill_network`.

        Layers may have been replaced by quantized ones, and `on_unit` may move or replace completed blocks,
        so that the network is never held as a whole in full precision or on one device.
        """
        return fill_network(
            network,
            self.adapter,
            self.index,
            device=device,
            dtype=dtype,
            on_unit=on_unit,
            progress=progress,
        )

    def load(
        self, *, device: torch.device, dtype: torch.dtype, progress: LoadProgress | None = None
    ) -> ModuleT:
        """Build the network and load its weights, see `load_part`."""
        return self.fill(self.build_empty(), device=device, dtype=dtype, progress=progress)


def load_part(
    part: PartName,
    files: PublishedFiles,
    *,
    device: torch.device,
    dtype: torch.dtype,
    progress: LoadProgress | None = None,
) -> nn.Module:
    """Load one network of a published model, in evaluation mode and without gradients.

    Unless the device is the CPU, host memory holds at most a gigabyte of the mapped files, or the largest
    weight. Tensors that are not floating point keep their dtype. `progress` is called with the bytes read and
    the total.

    Raises:
        WeightsError: keys are missing, unexpected or of another shape, a file is damaged, or the
            configuration contradicts the weights.
    """
    network: nn.Module = open_part(part, files).load(device=device, dtype=dtype, progress=progress)
    return network


def open_part(part: PartName, files: PublishedFiles) -> PublishedNetwork[Any, Any]:
    """List the files of a network and read its sizes, see `load_part` for the errors."""
    return _OPENERS[part](files)


def open_dit(files: PublishedFiles) -> PublishedNetwork[DiT, DiTConfig]:
    """List the files of the transformer and read its sizes, see `load_part` for the errors."""
    index = index_tensors(files.dit, *files.dit_overlays)
    if files.manifest is not None:
        return _open_exported(files.manifest, "dit", DiTConfig, DiT, index)
    # The transformer's `config.json` lacks the sizes of the features that it reads.
    speech = open_audio_encoder(files).config
    config = read_dit_config(files.config, index.shapes, speech=(speech.num_layers, speech.width))
    return PublishedNetwork(config, DiT, dit_adapter(config), index)


def open_vae(files: PublishedFiles) -> PublishedNetwork[CausalVideoVAE, VAEConfig]:
    """List the files of the VAE and read its sizes, see `load_part` for the errors."""
    index = index_tensors(files.vae)
    if files.manifest is not None:
        return _open_exported(files.manifest, "vae", VAEConfig, CausalVideoVAE, index)
    config = read_vae_config(files.vae, index.shapes)
    return PublishedNetwork(config, CausalVideoVAE, vae_adapter(config), index)


def open_text_encoder(files: PublishedFiles) -> PublishedNetwork[UMT5Encoder, UMT5Config]:
    """List the files of the text encoder and read its sizes, see `load_part` for the errors."""
    index = index_tensors(files.text_encoder)
    if files.manifest is not None:
        return _open_exported(files.manifest, "text_encoder", UMT5Config, UMT5Encoder, index)
    config = read_text_config(files.text_encoder, index.shapes)
    return PublishedNetwork(config, UMT5Encoder, umt5_adapter(), index)


def open_image_encoder(files: PublishedFiles) -> PublishedNetwork[CLIPVisionEncoder, CLIPVisionConfig]:
    """List the files of the image encoder, without its text tower, and read its sizes."""
    index = index_tensors(files.image_encoder)
    if files.manifest is not None:
        return _open_exported(files.manifest, "image_encoder", CLIPVisionConfig, CLIPVisionEncoder, index)
    config = read_image_config(files.image_encoder, index.shapes)
    return PublishedNetwork(config, CLIPVisionEncoder, clip_vision_adapter(config), index)


def open_audio_encoder(files: PublishedFiles) -> PublishedNetwork[Wav2Vec2Encoder, Wav2Vec2Config]:
    """List the files of the speech encoder, without pre-training heads, and read its sizes."""
    index = index_tensors(files.audio_encoder)
    if files.manifest is not None:
        return _open_exported(files.manifest, "audio_encoder", Wav2Vec2Config, Wav2Vec2Encoder, index)
    adapter = wav2vec2_adapter()
    shapes = {name: entry.shape for name, entry in canonical_entries(adapter, index).items()}
    config = read_speech_config(files.audio_config, files.audio_encoder, shapes)
    return PublishedNetwork(config, Wav2Vec2Encoder, adapter, index)


def _open_exported(
    manifest: Manifest,
    part: PartName,
    kind: type[ConfigT],
    build: Callable[[ConfigT], ModuleT],
    index: TensorIndex,
) -> PublishedNetwork[ModuleT, ConfigT]:
    if part not in manifest.configs:
        raise WeightsError(f"weights {index.origin.parent}: its manifest has no configuration {part!r}")
    path = f"weights {index.origin.parent / MANIFEST_NAME}: {part}"
    config = config_from_json(kind, manifest.configs[part], path)
    return PublishedNetwork(config, build, OwnKeys(()), index)


_OPENERS: dict[PartName, Callable[[PublishedFiles], PublishedNetwork[Any, Any]]] = {
    "dit": open_dit,
    "vae": open_vae,
    "text_encoder": open_text_encoder,
    "image_encoder": open_image_encoder,
    "audio_encoder": open_audio_encoder,
}
