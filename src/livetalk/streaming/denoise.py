"""Denoising of one window: noise to latents. Gradients flow unless the caller disables them.

Shapes: B batch · C channels · T latent frames · h w latent height, width.
"""

import torch
from torch import Tensor

from livetalk.diffusion.flow import timesteps_from_sigma
from livetalk.diffusion.samplers import NoiseSource, PredictVelocity, sample_euler, sample_renoise
from livetalk.diffusion.schedule import sigmas_from_steps
from livetalk.models.dit import DiT
from livetalk.models.dit_precompute import (
    StreamConstants,
    precompute_chunk,
    precompute_stream,
    with_timesteps,
)
from livetalk.ops.transfer import to_device
from livetalk.streaming.executor import Executor
from livetalk.streaming.settings import SamplerConfig, SamplerKind
from livetalk.streaming.window import WindowInputs
from livetalk.tracing import span


def denoise(
    predict_velocity: PredictVelocity,
    window: WindowInputs,
    sigmas: Tensor,
    noise_source: NoiseSource,
    kind: SamplerKind = SamplerKind.RENOISE,
    noise_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Denoise one window from pure noise to normalised latents `[B, C, T, h, w]` float32.

    `sigmas` is `[num_steps + 1]` float32 on the CPU, descending from 1 to 0 or to the level at which to stop.
    `noise_source` draws the initial noise, in `noise_dtype`, and then serves the sampler.
    """
    noise = noise_source(window.motion_latents.new_empty(window.latent_shape, dtype=noise_dtype))
    if kind is SamplerKind.EULER:
        return sample_euler(predict_velocity, noise, sigmas, window.pin)
    return sample_renoise(predict_velocity, noise, sigmas, noise_source, window.pin)


def build_predictor(
    executor: Executor, window: WindowInputs, sigmas: Tensor, constants: StreamConstants | None = None
) -> PredictVelocity:
    """Return the velocity of one window as a function of latents and sigma.

    `sigmas` is `[num_steps + 1]` on the CPU; the function accepts all but the last. `constants`, if given,
    are reused instead of computed.
    """
    dit = executor.networks.dit
    plan = executor.plan
    if plan is None:
        return _plain_predictor(dit, window)
    timesteps = step_timesteps(sigmas)
    # One copy for all timesteps before the first step: a step must not wait for a host-to-device copy.
    on_device = to_device(timesteps_from_sigma(sigmas), window.audio_context.device)
    # A sampler passes each sigma back by value, which identifies the step.
    positions = {float(sigma): index for index, sigma in enumerate(sigmas[:-1])}
    with span("step.prepare"):
        if constants is None:
            constants = precompute_stream(
                dit, plan, window.condition, timesteps, window.text_embeds, window.image_embeds
            )
        stream = with_timesteps(dit, constants, timesteps)
        conditioning = precompute_chunk(dit, plan, stream, dit.project_audio(window.audio_context))

    def predict_velocity(latents: Tensor, sigma: Tensor) -> Tensor:
        index = positions[float(sigma)]
        with span("step.transformer"):
            velocity: Tensor = dit(
                latents,
                on_device[index].expand(latents.shape[0]),
                window.condition,
                window.audio_context,
                window.text_embeds,
                window.image_embeds,
                prepared=stream.step(timesteps[index], conditioning),
            )
        return velocity

    return predict_velocity


def _plain_predictor(dit: DiT, window: WindowInputs) -> PredictVelocity:
    def predict_velocity(latents: Tensor, sigma: Tensor) -> Tensor:
        with span("step.transformer"):
            return window.predict_velocity(dit, latents, sigma)

    return predict_velocity


def sampler_sigmas(sampler: SamplerConfig) -> Tensor:
    """Return the noise levels of a sampler, `[num_steps + 1]` float32 on the CPU."""
    return sigmas_from_steps(sampler.num_steps, sampler.shift)


def step_timesteps(sigmas: Tensor) -> tuple[float, ...]:
    """Return the timestep (0..1000) of each step, from `[num_steps + 1]` sigmas."""
    return tuple(timesteps_from_sigma(sigmas[:-1]).tolist())


def normal_noise(rng: torch.Generator) -> NoiseSource:
    """Return a source of standard normal noise with the shape, dtype and device of its argument."""

    def draw(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=rng, device=like.device, dtype=like.dtype)

    return draw
