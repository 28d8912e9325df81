"""Samplers with a known answer: the velocity towards one x0."""

import pytest
import torch
from torch import Tensor

from livetalk.diffusion.flow import velocity_from_x0
from livetalk.diffusion.samplers import pin_motion, sample_euler, sample_renoise
from livetalk.diffusion.schedule import sigmas_from_steps
from tolerance import assert_near, rounding

RNG = torch.Generator().manual_seed(0)
TARGET = torch.randn(1, 2, 4, 3, 3, generator=RNG)
NOISE = torch.randn(1, 2, 4, 3, 3, generator=RNG)
MOTION = torch.randn(1, 2, 1, 3, 3, generator=RNG)
SIGMAS = sigmas_from_steps(4, 5.0)
LIMIT = rounding(4 * 6)
"""Four steps of some six operations each."""


def towards_target(latents: Tensor, sigma: Tensor) -> Tensor:
    return velocity_from_x0(latents, TARGET, sigma)


class CountedNoise:
    """Noise that counts its draws."""

    def __init__(self) -> None:
        self.draws = 0
        self.rng = torch.Generator().manual_seed(1)

    def __call__(self, like: Tensor) -> Tensor:
        self.draws += 1
        return torch.randn(like.shape, generator=self.rng)


def test_both_samplers_reach_the_target() -> None:
    noise = CountedNoise()
    assert_near(sample_euler(towards_target, NOISE, SIGMAS), TARGET, LIMIT)
    assert_near(sample_renoise(towards_target, NOISE, SIGMAS, noise), TARGET, LIMIT)
    assert noise.draws == 4


def test_renoise_uses_fresh_noise_and_euler_none() -> None:
    seen: list[Tensor] = []

    def watch(latents: Tensor, sigma: Tensor) -> Tensor:
        seen.append(latents)
        return towards_target(latents, sigma)

    sample_euler(watch, NOISE, SIGMAS)
    expected = (1 - SIGMAS[1]) * TARGET + SIGMAS[1] * NOISE
    assert_near(seen[1], expected, LIMIT)
    seen.clear()
    sample_renoise(watch, NOISE, SIGMAS, CountedNoise())
    fresh = CountedNoise()(NOISE)
    assert_near(seen[1], (1 - SIGMAS[1]) * TARGET + SIGMAS[1] * fresh, LIMIT)


@pytest.mark.parametrize("kind", ["renoise", "euler"])
def test_pin_holds_before_and_after_every_step(kind: str) -> None:
    seen: list[Tensor] = []

    def watch(latents: Tensor, sigma: Tensor) -> Tensor:
        seen.append(latents[:, :, :1].clone())
        return towards_target(latents, sigma)

    pin = pin_motion(MOTION)
    if kind == "renoise":
        result = sample_renoise(watch, NOISE, SIGMAS, CountedNoise(), pin)
    else:
        result = sample_euler(watch, NOISE, SIGMAS, pin)
    assert len(seen) == 4 and all(torch.equal(latents, MOTION) for latents in seen)
    assert torch.equal(result[:, :, :1], MOTION)
    assert_near(result[:, :, 1:], TARGET[:, :, 1:], LIMIT)


def test_gradients_flow_through_the_sampler() -> None:
    scale = torch.ones((), requires_grad=True)
    result = sample_euler(lambda x, sigma: scale * towards_target(x, sigma), NOISE, SIGMAS)
    (gradient,) = torch.autograd.grad(result.sum(), scale)
    assert gradient != 0
