"""The flow convention: conversions are inverses of each other."""

import torch

from livetalk.diffusion.flow import (
    add_noise,
    noise_from_velocity,
    timesteps_from_sigma,
    velocity_from,
    velocity_from_x0,
    x0_from_velocity,
)
from tolerance import assert_near, rounding

X0, NOISE = torch.randn(2, 3, 4, 2, 5, 5, generator=torch.Generator().manual_seed(0))
SIGMA = torch.tensor([0.2, 0.5, 0.9])
LIMIT = rounding(8)
"""Some four operations there, and four back."""


def test_sigma_one_is_noise_and_zero_is_clean() -> None:
    assert torch.equal(add_noise(X0, NOISE, torch.tensor(1.0)), NOISE)
    assert torch.equal(add_noise(X0, NOISE, torch.tensor(0.0)), X0)


def test_each_sample_has_its_own_sigma() -> None:
    mixed = add_noise(X0, NOISE, SIGMA)
    for i, sigma in enumerate(SIGMA):
        assert_near(mixed[i], add_noise(X0[i], NOISE[i], sigma), LIMIT)


def test_velocity_leads_back_to_both_ends() -> None:
    latents, velocity = add_noise(X0, NOISE, SIGMA), velocity_from(X0, NOISE)
    assert_near(x0_from_velocity(latents, velocity, SIGMA), X0, LIMIT)
    assert_near(noise_from_velocity(latents, velocity, SIGMA), NOISE, LIMIT)
    # A difference is divided by sigma, and its rounding with it.
    assert_near(velocity_from_x0(latents, X0, SIGMA), velocity, LIMIT / SIGMA.min().item())


def test_timesteps_are_thousandths() -> None:
    assert_near(timesteps_from_sigma(SIGMA.double()), torch.tensor([200.0, 500.0, 900.0]), LIMIT)
