"""From noise to the latents of a window. Gradients flow if the caller lets them.

Shapes: B batch · C channels · T latent frames · h w latent height, width.
"""

import torch
from torch import Tensor

from livetalk.diffusion.flow import timesteps_from_sigma
from livetalk.diffusion.samplers import NoiseSource, PredictVelocity, sample_euler, sample_renoise
from livetalk.diffusion.schedule import sigmas_from_steps
from livetalk.models.dit import DiT
from livetalk.models.dit_constants import SessionConstants, prepare_chunk, prepare_session, with_timesteps
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
    """Denoise one window from pure noise.

    Args:
        predict_velocity: from `make_predictor`, or any function of latents and sigma.
        window: the motion latents and the shape of the window.
        sigmas: `[num_steps + 1]` float32 on the CPU, falling from 1 to 0, or to the level where to stop.
        noise_source: called for the initial noise, then by the sampler.
        kind: sampler.
        noise_dtype: of the initial noise.

    Returns:
        Normalised latents, `[B, C, T, h, w]` float32.
    """
    noise = noise_source(window.motion_latents.new_empty(window.latent_shape, dtype=noise_dtype))
    if kind is SamplerKind.EULER:
        return sample_euler(predict_velocity, noise, sigmas, window.pin)
    return sample_renoise(predict_velocity, noise, sigmas, noise_source, window.pin)


def make_predictor(
    executor: Executor, window: WindowInputs, sigmas: Tensor, constants: SessionConstants | None = None
) -> PredictVelocity:
    """Return the velocity of one window as a function of latents and sigma.

    Args:
        executor: whose transformer is run, as its plan says.
        window: conditioning, speech and motion of the window.
        sigmas: `[num_steps + 1]` on the CPU; the function takes all but the last.
        constants: of the stream, to save their computation.
    """
    dit = executor.networks.dit
    plan = executor.plan
    if plan is None:
        return _plain_predictor(dit, window)
    timesteps = step_timesteps(sigmas)
    # Timesteps are copied to the device together, before the first step: a step must not wait for a copy.
    on_device = to_device(timesteps_from_sigma(sigmas), window.audio_context.device)
    positions = {float(sigma): index for index, sigma in enumerate(sigmas[:-1])}
    with span("step.prepare"):
        if constants is None:
            constants = prepare_session(
                dit, plan, window.condition, timesteps, window.text_embeds, window.image_embeds
            )
        session = with_timesteps(dit, constants, timesteps)
        chunk = prepare_chunk(dit, plan, session, dit.project_audio(window.audio_context))

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
                prepared=chunk.step(timesteps[index]),
            )
        return velocity

    return predict_velocity


def _plain_predictor(dit: DiT, window: WindowInputs) -> PredictVelocity:
    def predict_velocity(latents: Tensor, sigma: Tensor) -> Tensor:
        with span("step.transformer"):
            return window.predict_velocity(dit, latents, sigma)

    return predict_velocity


def sampler_sigmas(sampler: SamplerConfig) -> Tensor:
    """Return the noise levels of a sampler, `[num_steps + 1]` on the CPU: scalars for any device."""
    return sigmas_from_steps(sampler.num_steps, sampler.shift)


def step_timesteps(sigmas: Tensor) -> tuple[float, ...]:
    """Return the timestep of each step, 0..1000, from `[num_steps + 1]` sigmas."""
    return tuple(timesteps_from_sigma(sigmas[:-1]).tolist())


def normal_noise(rng: torch.Generator) -> NoiseSource:
    """Return a source of standard normal noise, of the shape and in the precision of what it is given."""

    def draw(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=rng, device=like.device, dtype=like.dtype)

    return draw
