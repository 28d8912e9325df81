"""Models with random weights: graph and memory of the real ones without files.

For benchmarks, dry runs and comparisons of numerics; the frames they generate are noise.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from livetalk.assembly.model import AvatarModel
from livetalk.assembly.prompt import PromptEncoder
from livetalk.assembly.published import PUBLISHED_DEFAULTS, PUBLISHED_PORTRAIT, PUBLISHED_SETTINGS
from livetalk.assembly.random_prompt import RandomEncoders, RandomPromptEncoder
from livetalk.assembly.random_weights import draw_weights
from livetalk.assembly.spec import ModelSpec, PortraitConfig
from livetalk.checkpoints.adapters import published_dit_config, published_vae_config
from livetalk.errors import InputError
from livetalk.models.audio_projection import AudioProjectionConfig
from livetalk.models.clip_vision import CLIPVisionConfig, clip_vit_h14
from livetalk.models.dit import DiT, DiTConfig
from livetalk.models.dit_plan import ExecutionPlan
from livetalk.models.umt5 import UMT5Config, umt5_xxl
from livetalk.models.vae import CausalVideoVAE, VAEConfig
from livetalk.models.wav2vec import Wav2Vec2Config, Wav2Vec2Encoder, wav2vec2_base
from livetalk.placement.apply import DiTPlacement, PlacementConfig
from livetalk.streaming.executor import Executor
from livetalk.streaming.geometry import ChunkGeometry
from livetalk.streaming.networks import Networks
from livetalk.streaming.settings import AudioConfig, SamplerConfig, StreamSettings

RANDOM_VERSION = "random"  # no released weights carry this version


def flashtalk_14b_spec() -> ModelSpec:
    """Return the specification of the published model: 18.9 billion parameters."""
    return ModelSpec(
        name="flashtalk-14b",
        dit=published_dit_config(),
        vae=published_vae_config(),
        speech=wav2vec2_base(),
        text=umt5_xxl(),
        image=clip_vit_h14(),
        settings=PUBLISHED_SETTINGS,
        portrait=PUBLISHED_PORTRAIT,
        any_size=True,
        defaults=PUBLISHED_DEFAULTS,
    )


def tiny_spec() -> ModelSpec:
    """Return a model with every branch of the published one, small enough for tests on a CPU."""
    return ModelSpec(
        name="tiny",
        dit=DiTConfig(
            dim=48,
            ffn_dim=96,
            num_heads=4,
            num_layers=4,
            in_channels=12,
            out_channels=4,
            text_dim=32,
            image_dim=16,
            text_len=16,
            freq_dim=32,
            audio=AudioProjectionConfig(
                num_blocks=2, channels=8, hidden_dim=16, context_tokens=4, output_dim=16
            ),
        ),
        vae=VAEConfig(
            base_dim=8,
            latent_channels=4,
            dim_multipliers=(1, 2, 2, 2),
            num_res_blocks=1,
            temporal_downsample=(False, True, True),
        ),
        speech=Wav2Vec2Config(
            width=8, num_layers=2, num_heads=2, ffn_dim=16, conv_dims=(8,) * 7, position_groups=2
        ),
        text=UMT5Config(vocabulary=64, dim=32, attention_dim=16, ffn_dim=32, num_heads=2, num_layers=2),
        image=CLIPVisionConfig(image_size=28, patch_size=14, dim=16, ffn_dim=32, num_heads=2, num_layers=2),
        portrait=PortraitConfig(height=64, width=48),
        any_size=True,
        defaults=PUBLISHED_DEFAULTS,
        settings=StreamSettings(
            geometry=ChunkGeometry(window_frames=13),
            audio=AudioConfig(buffer_seconds=2),
            sampler=SamplerConfig(num_steps=2),
            loudness=PUBLISHED_SETTINGS.loudness,
        ),
    )


_SPECS: dict[str, Callable[[], ModelSpec]] = {"flashtalk-14b": flashtalk_14b_spec, "tiny": tiny_spec}
RANDOM_MODELS = tuple(_SPECS)


def random_spec(name: str) -> ModelSpec:
    """Return the specification of a model in `RANDOM_MODELS`; `InputError` for any other name."""
    if name not in _SPECS:
        raise InputError(f"random weights {name}: is not one of {', '.join(_SPECS)}")
    return _SPECS[name]()


def build_random_model(
    name: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    seed: int = 0,
    placement: PlacementConfig | None = None,
    portrait: PortraitConfig | None = None,
    with_encoders: bool = False,
) -> AvatarModel:
    """Build a model with random weights, drawn on their device without a copy in host memory.

    Args:
        name: one of `RANDOM_MODELS`.
        device: of the networks.
        dtype: of the transformer and the VAE; the speech encoder is float32.
        seed: of the weights, which are bfloat16 numbers in every dtype, as published ones are: one seed gives
            equal weights for all dtypes on one kind of device.
        placement: of the transformer's blocks; None keeps all of them on the device in full precision.
        portrait: frame size; None for the model's own.
        with_encoders: encode prompts with networks of the real encoders' sizes, drawn when a stream
            starts; otherwise embeddings are drawn.

    Raises:
        InputError: `name` is not in `RANDOM_MODELS`.
    """
    spec = random_spec(name)
    if portrait is not None:
        spec = replace(spec, portrait=portrait)
    assert isinstance(spec.speech, Wav2Vec2Config), "both graphs are of the published form"
    # One generator for all networks: the order of the draws below is part of what a seed means.
    rng = torch.Generator(device).manual_seed(seed)
    with torch.device("meta"):
        dit, vae = DiT(spec.dit), CausalVideoVAE(spec.vae)
        speech = Wav2Vec2Encoder(spec.speech)
    placement = placement or PlacementConfig()
    placing = DiTPlacement(dit, placement, device)
    # Block by block: the whole transformer in full precision may exceed the device.
    for index, block in enumerate(dit.blocks.layers):
        draw_weights(block, device=device, dtype=dtype, rng=rng)
        placing.place_block(index)
    for network in (dit, vae):
        draw_weights(network, device=device, dtype=dtype, rng=rng)
    plan = ExecutionPlan(offloaded=placing.finish())
    draw_weights(speech, device=device, dtype=torch.float32, rng=rng)
    vae.use_channels_last()
    return AvatarModel(
        spec=spec,
        version=RANDOM_VERSION,
        executor=Executor(networks=Networks(dit=dit, vae=vae, audio_encoder=speech), plan=plan),
        dtype=dtype,
        image_dtype=dtype,
        prompt_encoder=_prompt_encoder(spec, dtype, placement, seed, with_encoders=with_encoders),
        random_weights=True,
    )


def _prompt_encoder(
    spec: ModelSpec,
    dtype: torch.dtype,
    placement: PlacementConfig,
    seed: int,
    *,
    with_encoders: bool,
) -> PromptEncoder:
    assert spec.text is not None and spec.image is not None, "both graphs are of the published form"
    if not with_encoders:
        return RandomPromptEncoder(spec.text, spec.image, spec.dit.text_len, seed)
    return RandomEncoders(
        spec.text,
        spec.image,
        text_len=spec.dit.text_len,
        dtype=dtype,
        place=placement.encoders,
        seed=seed,
    )
