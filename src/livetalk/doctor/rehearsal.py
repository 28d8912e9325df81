"""The stages of a stream run on the meta device, to learn what memory each of them takes."""

import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from livetalk.assembly.model import PortraitConfig
from livetalk.assembly.model_sizes import ModelSizes
from livetalk.assembly.stages import Observer, StageInputs, run_stages
from livetalk.doctor.allocation import AllocationTracker
from livetalk.models.audio_encoder import SpeechEncoder, SpeechEncoderConfig
from livetalk.models.clip_vision import CLIPVisionConfig, CLIPVisionEncoder
from livetalk.models.dit import DiT
from livetalk.models.dit_constants import prepare_chunk, prepare_session
from livetalk.models.dit_plan import ExecutionPlan
from livetalk.models.umt5 import UMT5Config, UMT5Encoder
from livetalk.models.vae import CausalVideoVAE
from livetalk.models.wav2vec import Wav2Vec2Config, Wav2Vec2Encoder
from livetalk.placement.apply import WeightForm
from livetalk.placement.linear import count_weight_bytes, quantize_linears
from livetalk.streaming.models import Models
from livetalk.types import PromptEmbeds

ModuleT = TypeVar("ModuleT", bound=nn.Module)

META = torch.device("meta")
IMAGE_TOKENS = 257
REHEARSED_STEPS = 2
REHEARSED_LAYERS = 2
"""Blocks of one network are alike, and their temporaries die with them: two tell what forty need.

What each block keeps is another matter, see `constant_bytes`.
"""


@functools.lru_cache(maxsize=64)
def rehearse(
    sizes: ModelSizes, portrait: PortraitConfig, dtype: torch.dtype, weights: WeightForm
) -> Mapping[str, int]:
    """Run a session's start and its first chunks without numbers.

    Args:
        sizes: of the model.
        portrait: picture size; both sides multiples of `sizes.size_multiple`.
        dtype: of the transformer and the VAE.
        weights: form of the transformer's weights, which are widened where they are used.

    Returns:
        Bytes at the peak of each stage besides weights, with all that outlives it: "prompt", "reference",
        "speech", "transformer", "decode".
    """
    models = _build_models(sizes, dtype, weights)
    encoders = _build_prompt_encoders(sizes)
    peaks: dict[str, int] = {}
    with torch.no_grad(), AllocationTracker() as tracker:
        observer = _PeakObserver(tracker, peaks)
        with observer.stage("prompt"):
            text, image = _encode_prompt(sizes, *encoders)
        inputs = StageInputs(
            picture=torch.empty(3, portrait.height, portrait.width, device=META),
            prompt=PromptEmbeds(text_embeds=text, image_embeds=image),
            # A second chunk needs more than the first only where it remembers the last frame of that.
            sounds=(torch.empty(sizes.stream.geometry.chunk_samples, device=META),)
            * (2 if sizes.stream.seam.enabled else 1),
            noise=torch.empty_like,
        )
        run_stages(models, inputs, observer)
    return MappingProxyType(peaks)


@functools.lru_cache(maxsize=64)
def constant_bytes(sizes: ModelSizes, portrait: PortraitConfig, dtype: torch.dtype) -> tuple[int, int]:
    """Return the bytes made for each block that is resident: for a session, and for a chunk.

    Args:
        sizes: of the model.
        portrait: picture size.
        dtype: of the transformer.
    """
    config, geometry = sizes.dit, sizes.stream.geometry
    dit = _build_dit(sizes, dtype, "full", num_layers=1)
    sides = (side // sizes.vae.spatial_stride for side in (portrait.height, portrait.width))
    channels = config.in_channels - config.out_channels
    condition = torch.empty(1, channels, geometry.window_latents, *sides, device=META)
    text, image = _encode_prompt(sizes, None, None)
    audio = config.audio
    heard = (1, geometry.window_frames, audio.window, audio.num_blocks, audio.channels)
    session = prepare_session(dit, ExecutionPlan(), condition, (0.0,), text, image)
    speech = dit.project_audio(torch.empty(heard, device=META))
    chunk = prepare_chunk(dit, ExecutionPlan(), session, speech)
    block = chunk.conditioning.layers[0]
    return _count_bytes((block.text, block.image)), _count_bytes(block.speech)


def _count_bytes(values: object) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


class _PeakObserver(Observer):
    """Notes the peak of each stage."""

    def __init__(self, tracker: AllocationTracker, peaks: dict[str, int]) -> None:
        self._tracker = tracker
        self._peaks = peaks

    def stage(self, name: str) -> AbstractContextManager[None]:
        return self._tracker.stage(self._peaks, name)


def weight_bytes(sizes: ModelSizes, dtype: torch.dtype, weights: WeightForm) -> dict[str, int]:
    """Return the bytes of each part of a model, "block" standing for one of the transformer's.

    The speech encoder computes in float32; text and image encoder in two bytes a number.
    """
    dit = _build_dit(sizes, dtype, weights, num_layers=1)
    block = count_weight_bytes(dit.blocks)
    parts = {
        "block": block,
        "transformer, other": count_weight_bytes(dit) - block,
        "VAE": count_weight_bytes(_on_meta(lambda: CausalVideoVAE(sizes.vae)).to(dtype)),
        "speech encoder": count_weight_bytes(_build_speech(sizes.speech)),
    }
    if sizes.text is not None:
        parts["text encoder"] = count_weight_bytes(_build_text(sizes.text))
    if sizes.image is not None:
        parts["image encoder"] = count_weight_bytes(_build_image(sizes.image))
    return parts


def _build_models(sizes: ModelSizes, dtype: torch.dtype, weights: WeightForm) -> Models:
    vae = _on_meta(lambda: CausalVideoVAE(sizes.vae)).to(dtype)
    vae.use_channels_last()
    return Models(
        dit=_build_dit(sizes, dtype, weights, min(REHEARSED_LAYERS, sizes.dit.num_layers)),
        vae=vae,
        audio_encoder=_build_speech(sizes.speech),
        config=replace(sizes.stream, sampler=replace(sizes.stream.sampler, num_steps=REHEARSED_STEPS)),
    )


def _build_dit(sizes: ModelSizes, dtype: torch.dtype, weights: WeightForm, num_layers: int) -> DiT:
    dit = _on_meta(lambda: DiT(replace(sizes.dit, num_layers=num_layers))).to(dtype)
    if weights != "full":
        quantize_linears(dit, weights)
    return dit


def _build_speech(config: SpeechEncoderConfig | Wav2Vec2Config) -> SpeechEncoder | Wav2Vec2Encoder:
    if isinstance(config, Wav2Vec2Config):
        return _on_meta(lambda: Wav2Vec2Encoder(config))
    return _on_meta(lambda: SpeechEncoder(config))


def _build_text(config: UMT5Config) -> UMT5Encoder:
    return _on_meta(lambda: UMT5Encoder(config)).to(torch.bfloat16)


def _build_image(config: CLIPVisionConfig) -> CLIPVisionEncoder:
    return _on_meta(lambda: CLIPVisionEncoder(config)).to(torch.bfloat16)


def _on_meta(build: Callable[[], ModuleT]) -> ModuleT:
    with META:
        return build().requires_grad_(False).eval()


def _build_prompt_encoders(sizes: ModelSizes) -> tuple[UMT5Encoder | None, CLIPVisionEncoder | None]:
    text, image = sizes.text, sizes.image
    return (
        None if text is None else _build_text(replace(text, num_layers=REHEARSED_LAYERS)),
        None if image is None else _build_image(replace(image, num_layers=REHEARSED_LAYERS)),
    )


def _encode_prompt(
    sizes: ModelSizes, text_encoder: UMT5Encoder | None, image_encoder: CLIPVisionEncoder | None
) -> tuple[Tensor | None, Tensor | None]:
    """Run what encodes the prompt and the portrait, or make the shapes of it where there is no encoder."""
    text = image = None
    if text_encoder is not None:
        tokens = torch.empty(1, sizes.dit.text_len, dtype=torch.int64, device=META)
        text = text_encoder(tokens, torch.ones_like(tokens))
    elif sizes.dit.text_dim is not None:
        text = torch.empty(1, sizes.dit.text_len, sizes.dit.text_dim, device=META)
    if image_encoder is not None:
        side = image_encoder.config.image_size
        image = image_encoder(torch.empty(1, 3, side, side, device=META))
    elif sizes.dit.image_dim is not None:
        image = torch.empty(1, IMAGE_TOKENS, sizes.dit.image_dim, device=META)
    return text, image
