"""Dry run of a stream on the meta device, which measures the memory of each stage."""

import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from livetalk.assembly.spec import ModelSpec, PortraitConfig
from livetalk.doctor.allocation import AllocationTracker
from livetalk.models.audio_encoder import SpeechEncoder, SpeechEncoderConfig
from livetalk.models.clip_vision import CLIPVisionConfig, CLIPVisionEncoder
from livetalk.models.dit import DiT
from livetalk.models.dit_plan import ExecutionPlan
from livetalk.models.dit_precompute import precompute_chunk, precompute_stream
from livetalk.models.umt5 import UMT5Config, UMT5Encoder
from livetalk.models.vae import CausalVideoVAE
from livetalk.models.wav2vec import Wav2Vec2Config, Wav2Vec2Encoder
from livetalk.placement.apply import WeightForm
from livetalk.placement.linear import count_weight_bytes, quantize_linears
from livetalk.streaming.chunk import create_state, generate_chunk
from livetalk.streaming.conditioning import prepare_stream
from livetalk.streaming.executor import Executor
from livetalk.streaming.networks import Networks
from livetalk.streaming.settings import LoudnessMode, StreamSettings
from livetalk.tracing import SpanObserver, observe_spans
from livetalk.types import PromptEmbeds

ModuleT = TypeVar("ModuleT", bound=nn.Module)

META = torch.device("meta")
IMAGE_TOKENS = 257
"""Output tokens of the published image encoder: 16 x 16 patches and a class token."""
STAGE_OF_SPAN = {
    "step.reference": "reference",
    "step.speech": "speech",
    "step.denoise": "transformer",
    "step.decode": "decode",
    "step.color": "decode",
    "step.encode": "decode",
}
"""Span of the streaming code -> stage of the forecast."""

StageObserver = Callable[[str], AbstractContextManager[object]]
"""Returns a context manager that surrounds the work of the named stage."""

DRY_RUN_STEPS = 2
DRY_RUN_LAYERS = 2
"""Blocks of a network are alike and release their temporaries, so two give the peak of all.

Constants that every block keeps are counted separately, see `constant_bytes`.
"""


@functools.lru_cache(maxsize=64)
def dry_run(
    spec: ModelSpec, portrait: PortraitConfig, dtype: torch.dtype, weights: WeightForm
) -> Mapping[str, int]:
    """Run the start of a stream and its first chunks on the meta device.

    The portrait's sides are multiples of `spec.size_multiple`; `weights` are converted to `dtype` at use.

    Returns:
        Stage -> peak in bytes without weights, including tensors that outlive the stage. Stages are "prompt",
        "reference", "speech", "transformer" and "decode".
    """
    executor = Executor(networks=_build_networks(spec, dtype, weights))
    settings = replace(spec.settings, sampler=replace(spec.settings.sampler, num_steps=DRY_RUN_STEPS))
    encoders = _build_prompt_encoders(spec)
    peaks: dict[str, int] = {}
    with torch.no_grad(), AllocationTracker() as tracker:
        stage = functools.partial(tracker.stage, peaks)
        with stage("prompt"):
            text, image = _encode_prompt(spec, *encoders)
        embeds = PromptEmbeds(text_embeds=text, image_embeds=image)
        picture = torch.empty(3, portrait.height, portrait.width, device=META)
        run_observed(executor, settings, picture, embeds, stage)
    return MappingProxyType(peaks)


def run_observed(
    executor: Executor, settings: StreamSettings, picture: Tensor, embeds: PromptEmbeds, stage: StageObserver
) -> None:
    """Start a stream and compute its first chunks, on any device including the meta device.

    `picture` is the portrait, `[3, H, W]`, -1..1. `stage` is called with "reference", "speech", "transformer"
    or "decode" around the work of each stage.
    """
    # Loudness depends on the values of the samples, which the meta device does not have.
    settings = replace(settings, loudness=LoudnessMode.OFF)
    samples = torch.zeros(settings.geometry.chunk_samples, device=executor.device)
    with observe_spans(_by_stage(stage)):
        prepared = prepare_stream(executor, settings, picture, embeds)
        state = create_state(executor, settings, prepared, seed=0)
        # The second chunk needs more memory than the first only with seam correction, which keeps a frame.
        for _ in range(2 if settings.seam.enabled else 1):
            chunk, state = generate_chunk(executor, settings, prepared, samples, state, torch.empty_like)
            with stage("decode"):
                # The conversion is part of delivering a chunk, and needs a second copy of the frames.
                chunk.to_uint8()


def _by_stage(stage: StageObserver) -> SpanObserver:
    def observe(span: str) -> AbstractContextManager[object]:
        name = STAGE_OF_SPAN.get(span)
        return nullcontext() if name is None else stage(name)

    return observe


@functools.lru_cache(maxsize=64)
def constant_bytes(spec: ModelSpec, portrait: PortraitConfig, dtype: torch.dtype) -> tuple[int, int]:
    """Return the bytes of the constants that one resident block keeps: for a stream, and for a chunk."""
    config, geometry = spec.dit, spec.settings.geometry
    dit = _build_dit(spec, dtype, "full", num_layers=1)
    sides = (side // spec.vae.spatial_stride for side in (portrait.height, portrait.width))
    channels = config.in_channels - config.out_channels
    condition = torch.empty(1, channels, geometry.window_latents, *sides, device=META)
    text, image = _encode_prompt(spec, None, None)
    audio = config.audio
    context_shape = (1, geometry.window_frames, audio.window, audio.num_blocks, audio.channels)
    stream = precompute_stream(dit, ExecutionPlan(), condition, (0.0,), text, image)
    speech = dit.project_audio(torch.empty(context_shape, device=META))
    block = precompute_chunk(dit, ExecutionPlan(), stream, speech).layers[0]
    return _count_bytes((block.text, block.image)), _count_bytes(block.speech)


def _count_bytes(values: object) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


def weight_bytes(spec: ModelSpec, dtype: torch.dtype, weights: WeightForm) -> dict[str, int]:
    """Return part -> bytes of its weights; "block" is a single block of the transformer.

    The speech encoder is float32, text and image encoder are bfloat16.
    """
    dit = _build_dit(spec, dtype, weights, num_layers=1)
    block = count_weight_bytes(dit.blocks)
    parts = {
        "block": block,
        "transformer, other": count_weight_bytes(dit) - block,
        "VAE": count_weight_bytes(_on_meta(lambda: CausalVideoVAE(spec.vae)).to(dtype)),
        "speech encoder": count_weight_bytes(_build_speech(spec.speech)),
    }
    if spec.text is not None:
        parts["text encoder"] = count_weight_bytes(_build_text(spec.text))
    if spec.image is not None:
        parts["image encoder"] = count_weight_bytes(_build_image(spec.image))
    return parts


def _build_networks(spec: ModelSpec, dtype: torch.dtype, weights: WeightForm) -> Networks:
    vae = _on_meta(lambda: CausalVideoVAE(spec.vae)).to(dtype)
    vae.use_channels_last()
    return Networks(
        dit=_build_dit(spec, dtype, weights, min(DRY_RUN_LAYERS, spec.dit.num_layers)),
        vae=vae,
        audio_encoder=_build_speech(spec.speech),
    )


def _build_dit(spec: ModelSpec, dtype: torch.dtype, weights: WeightForm, num_layers: int) -> DiT:
    dit = _on_meta(lambda: DiT(replace(spec.dit, num_layers=num_layers))).to(dtype)
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


def _build_prompt_encoders(spec: ModelSpec) -> tuple[UMT5Encoder | None, CLIPVisionEncoder | None]:
    text, image = spec.text, spec.image
    return (
        None if text is None else _build_text(replace(text, num_layers=DRY_RUN_LAYERS)),
        None if image is None else _build_image(replace(image, num_layers=DRY_RUN_LAYERS)),
    )


def _encode_prompt(
    spec: ModelSpec, text_encoder: UMT5Encoder | None, image_encoder: CLIPVisionEncoder | None
) -> tuple[Tensor | None, Tensor | None]:
    """Return text and image embeddings from the encoders, or empty ones of their shapes without encoders."""
    text = image = None
    if text_encoder is not None:
        tokens = torch.empty(1, spec.dit.text_len, dtype=torch.int64, device=META)
        text = text_encoder(tokens, torch.ones_like(tokens))
    elif spec.dit.text_dim is not None:
        text = torch.empty(1, spec.dit.text_len, spec.dit.text_dim, device=META)
    if image_encoder is not None:
        side = image_encoder.config.image_size
        image = image_encoder(torch.empty(1, 3, side, side, device=META))
    elif spec.dit.image_dim is not None:
        image = torch.empty(1, IMAGE_TOKENS, spec.dit.image_dim, device=META)
    return text, image
