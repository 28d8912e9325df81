"""Schedules: published values, ends, errors."""

import pytest
import torch

from livetalk.diffusion.schedule import FEW_STEPS, shift_sigmas, sigmas_from_steps, sigmas_from_timesteps
from tolerance import assert_near, rounding

PUBLISHED = torch.tensor([1000.0, 937.5, 833.33333, 625.0, 0.0]) / 1000


def test_few_steps_are_the_published_ones() -> None:
    assert_near(sigmas_from_timesteps(FEW_STEPS, 5.0), PUBLISHED, rounding(5))
    assert_near(sigmas_from_steps(4, 5.0), PUBLISHED, rounding(5))


def test_no_shift_is_even() -> None:
    assert_near(sigmas_from_steps(5, 1.0), torch.tensor([1.0, 0.8, 0.6, 0.4, 0.2, 0.0]), rounding(5))


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_shift_keeps_the_ends_and_the_order(shift: float) -> None:
    sigmas = shift_sigmas(torch.linspace(0, 1, 11), shift)
    assert sigmas[0] == 0 and sigmas[-1] == 1
    assert (sigmas.diff() > 0).all()
    assert (sigmas[5] > 0.5) == (shift > 1)


def test_refuses_what_is_no_schedule() -> None:
    with pytest.raises(ValueError, match="num_steps"):
        sigmas_from_steps(0, 5.0)
    with pytest.raises(ValueError, match="shift"):
        sigmas_from_steps(4, 0.0)
    for timesteps in ([], [1001.0, 500.0], [500.0, 500.0], [250.0, 500.0], [500.0, 0.0]):
        with pytest.raises(ValueError, match="timesteps"):
            sigmas_from_timesteps(timesteps)
