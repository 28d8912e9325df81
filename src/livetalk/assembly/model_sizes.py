"""Sizes of every network of a model, read without its weights."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError, safe_open

from livetalk.assembly.build import SPEECH_ENCODER_FILE, find_checkpoint
from livetalk.assembly.model import PortraitConfig
from livetalk.assembly.published import PUBLISHED_PORTRAIT, PUBLISHED_SETTINGS
from livetalk.assembly.random_model import RANDOM_MODELS, random_model_config
from livetalk.assembly.source import ModelSource
from livetalk.checkpoints.config_json import config_from_json
from livetalk.checkpoints.layouts import Layout, find_published, recognise_layout
from livetalk.checkpoints.manifest import MANIFEST_NAME, Manifest, read_manifest
from livetalk.checkpoints.published import read_configs
from livetalk.errors import WeightsError
from livetalk.models.audio_encoder import SpeechEncoderConfig
from livetalk.models.clip_vision import CLIPVisionConfig
from livetalk.models.dit import DiTConfig
from livetalk.models.umt5 import UMT5Config
from livetalk.models.vae import VAEConfig
from livetalk.models.wav2vec import Wav2Vec2Config
from livetalk.streaming.settings import StreamSettings

ConfigT = TypeVar("ConfigT")

FLASHTALK = "flashtalk-14b"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSizes:
    """Sizes of the networks of a model.

    Attributes:
        name: of the model.
        dit: of the transformer.
        vae: of the VAE.
        speech: of the speech encoder.
        text: of the text encoder; None for a model without one.
        image: of the image encoder; None for a model without one.
        stream: timeline and sampler.
        portrait: picture size, or the usual one of a model that makes any size.
        any_size: it makes any size that its strides divide.
    """

    name: str
    dit: DiTConfig
    vae: VAEConfig
    speech: SpeechEncoderConfig | Wav2Vec2Config
    text: UMT5Config | None
    image: CLIPVisionConfig | None
    stream: StreamSettings
    portrait: PortraitConfig
    any_size: bool

    @property
    def size_multiple(self) -> int:
        """What both sides of a picture must be a multiple of, pixels."""
        return self.vae.spatial_stride * max(self.dit.patch_size[1:])


def read_model_sizes(source: ModelSource) -> ModelSizes:
    """Read the sizes of a model.

    Args:
        source: which model; `flashtalk-14b` and the others of `RANDOM_MODELS`, whose sizes are known without
            any file, may be named as the model, too.

    Raises:
        WeightsError: there is no such model, or a file cannot be read.
        InputError: there is no such graph.
    """
    if source.random_weights is not None:
        return _known_sizes(source.random_weights)
    if source.model in RANDOM_MODELS:
        return _known_sizes(str(source.model))
    folder = find_checkpoint(source.model)
    if recognise_layout(folder) is Layout.NATIVE:
        return _native_sizes(folder, read_manifest(folder))
    return _published_sizes(folder, source)


def _known_sizes(name: str) -> ModelSizes:
    config = random_model_config(name)
    return ModelSizes(
        name=name,
        dit=config.dit,
        vae=config.vae,
        speech=config.speech,
        text=config.text,
        image=config.image,
        stream=config.stream,
        portrait=config.portrait,
        any_size=True,
    )


def _published_sizes(folder: Path, source: ModelSource) -> ModelSizes:
    files = find_published(folder, wav2vec_dir=source.wav2vec_dir, infinitetalk=source.infinitetalk)
    configs = read_configs(files)
    return ModelSizes(
        name=files.name,
        dit=configs.dit,
        vae=configs.vae,
        speech=configs.audio_encoder,
        text=configs.text_encoder,
        image=configs.image_encoder,
        stream=PUBLISHED_SETTINGS,
        portrait=PUBLISHED_PORTRAIT,
        any_size=True,
    )


def _native_sizes(folder: Path, manifest: Manifest) -> ModelSizes:
    def read(name: str, kind: type[ConfigT]) -> ConfigT:
        if name not in manifest.configs:
            raise WeightsError(f"weights {folder / MANIFEST_NAME}: has no configuration {name!r}")
        return config_from_json(kind, manifest.configs[name], f"weights {folder / MANIFEST_NAME}: {name}")

    return ModelSizes(
        name=manifest.name,
        dit=read("dit", DiTConfig),
        vae=read("vae", VAEConfig),
        speech=_speech_sizes(folder / SPEECH_ENCODER_FILE),
        text=None,
        image=None,
        stream=read("stream", StreamSettings),
        portrait=read("portrait", PortraitConfig),
        any_size=False,
    )


def _speech_sizes(path: Path) -> SpeechEncoderConfig:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
        return SpeechEncoderConfig(**json.loads(metadata["config"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"weights {path}: does not hold a speech encoder ({error})") from error
