"""Gradients of a rollout: what the frames of a self-generated chunk reach, and what they must not."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from livetalk.streaming.chunk import create_state, denoise_window, drain, finish_window, generate_chunk
from livetalk.streaming.conditioning import Prepared, prepare_stream
from livetalk.streaming.denoise import build_predictor, denoise, normal_noise, sampler_sigmas
from livetalk.streaming.settings import ReferenceLayout, SamplerConfig, SamplerKind
from livetalk.streaming.speech import push_chunk_audio
from livetalk.streaming.state import StreamState
from livetalk.streaming.window import WindowInputs
from livetalk.types import PromptEmbeds
from tiny import DIT_WITH_PROMPT, IMAGE_DIM, IMAGE_SIDE, TEXT_DIM, TinyModel, tiny_model

RNG = torch.Generator().manual_seed(0)
IMAGE = torch.rand(3, IMAGE_SIDE, IMAGE_SIDE, generator=RNG) * 2 - 1
PROMPT = PromptEmbeds(
    text_embeds=torch.randn(1, 3, TEXT_DIM, generator=RNG),
    image_embeds=torch.randn(1, 7, IMAGE_DIM, generator=RNG),
)


def trainable_model(sampler: SamplerConfig, layout: ReferenceLayout) -> TinyModel:
    """Build a model whose transformer alone is trained, each step by itself."""
    model = tiny_model(dit=DIT_WITH_PROMPT, sampler=sampler, layout=layout)
    model.executor.networks.vae.requires_grad_(False)
    return model._replace(executor=replace(model.executor, plan=None))


def speech(model: TinyModel, chunk: int) -> Tensor:
    rng = torch.Generator().manual_seed(100 + chunk)
    return torch.randn(model.settings.geometry.chunk_samples, generator=rng) * 0.1


def roll_out(model: TinyModel, num_chunks: int) -> tuple[Prepared, StreamState]:
    """Generate chunks as a live stream does."""
    prepared = prepare_stream(*model, IMAGE, PROMPT)
    state = create_state(*model, prepared, 0)
    for index in range(num_chunks):
        _, state = generate_chunk(*model, prepared, speech(model, index), state)
    return prepared, state


def keep_velocities(dit: nn.Module) -> list[Tensor]:
    """Collect the velocities that a transformer returns, with their gradients."""
    velocities: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, velocity: Tensor) -> None:
        if velocity.requires_grad:
            velocity.retain_grad()
            velocities.append(velocity)

    dit.register_forward_hook(keep)
    return velocities


@pytest.mark.parametrize("layout", ReferenceLayout)
@pytest.mark.parametrize("kind", SamplerKind)
def test_frames_of_the_third_chunk_reach_every_weight_of_the_transformer(
    kind: SamplerKind, layout: ReferenceLayout
) -> None:
    model = trainable_model(SamplerConfig(num_steps=2, kind=kind), layout)
    dit, vae = model.executor.networks.dit, model.executor.networks.vae
    prepared, state = roll_out(model, 2)
    velocities = keep_velocities(dit)
    with torch.enable_grad():
        chunk, after = generate_chunk(*model, prepared, speech(model, 2), state)
        assert chunk.pixels.requires_grad
        chunk.pixels.square().mean().backward()
    for name, parameter in dit.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    assert all(parameter.grad is None for parameter in vae.parameters())
    assert not state.motion_latents.requires_grad and after.motion_latents.requires_grad
    # Motion latents are clean: what the transformer says there is thrown away.
    known = state.motion_latents.shape[2]
    assert len(velocities) == 2
    for velocity in velocities:
        assert velocity.grad is not None
        assert not velocity.grad[:, :, :known].any() and velocity.grad[:, :, known:].any()


def test_only_the_step_with_gradient_is_trained() -> None:
    """As in distillation: a rollout leaves at one step, and the steps before it carry no gradient."""
    model = trainable_model(SamplerConfig(num_steps=4), ReferenceLayout.FIRST_FRAME)
    executor, settings = model
    prepared, state = roll_out(model, 2)
    context, state = push_chunk_audio(executor, settings, speech(model, 2), state)
    conditioning = prepared.conditioning
    window = WindowInputs(
        motion_latents=state.motion_latents,
        condition=conditioning.condition,
        audio_context=context,
        text_embeds=conditioning.text_embeds,
        image_embeds=conditioning.image_embeds,
    )
    sigmas = sampler_sigmas(settings.sampler)
    velocities = keep_velocities(executor.networks.dit)
    predict = build_predictor(executor, window, sigmas)

    def predict_with_exit(latents: Tensor, sigma: Tensor) -> Tensor:
        with torch.set_grad_enabled(float(sigma) == float(sigmas[2])):
            return predict(latents, sigma)

    noise = normal_noise(torch.Generator().manual_seed(0))
    exit_sigmas = torch.cat((sigmas[:3], sigmas[-1:]))
    with torch.enable_grad():
        latents = denoise(predict_with_exit, window, exit_sigmas, noise)
        pieces, _ = drain(finish_window(executor, settings, prepared, latents, state))
        torch.cat([piece.pixels for piece in pieces], dim=2).mean().backward()
    assert len(velocities) == 1 and velocities[0].grad is not None
    assert executor.networks.dit.head.linear.weight.grad is not None


def test_a_rollout_of_parts_is_the_live_chunk() -> None:
    model = trainable_model(SamplerConfig(num_steps=2), ReferenceLayout.FIRST_FRAME)
    executor, settings = model
    prepared, state = roll_out(model, 2)
    expected, following = generate_chunk(*model, prepared, speech(model, 2), state)
    context, heard = push_chunk_audio(executor, settings, speech(model, 2), state)
    latents, denoised = denoise_window(executor, settings, prepared, context, heard)
    pieces, after = drain(finish_window(executor, settings, prepared, latents, denoised))
    pixels = torch.cat([piece.pixels[0, :, -piece.num_new :] for piece in pieces], dim=1)
    assert torch.equal(pixels, expected.pixels)
    assert torch.equal(after.motion_latents, following.motion_latents)
