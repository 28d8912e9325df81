"""Limits of numerical tests: how far two correct results may be apart on any machine.

Processors, thread counts and libraries add the products of a sum in different orders. Backward error
analysis (Higham and Mary, "A New Approach to Probabilistic Rounding Error Analysis", 2019) bounds the effect
for any order: the computed sum of n products is the exact sum of factors that have moved by about
u * sqrt(n), where u is the unit roundoff of the dtype. Therefore

- a single operation is held to a multiple of u * sqrt(n) (`rounding`), and
- a network, or a whole stream, is held to a multiple of what its own result moves by when every weight moves
  by that much (`expect`). The limit then contains the depth and the width of the networks, and whatever
  enlarges errors on the way (norms, steps of a sampler, colour matching); no number in it was read off a
  machine.

Both measure the largest difference in units of the largest expected value (`distance`), because an element
that cancels to nearly zero is as inexact as its neighbours.

In dtypes narrower than float32, sums are kept in float32 and it is their factors that are rounded. The
weights move by that rounding (`expect_narrow`), and norms are compared (`relative`), which vary little from
draw to draw.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Run = Callable[[], Tensor]

MARGIN = 8
"""Multiple of the expected error that is allowed where sums are rounded.

Two results are compared, each of which has an error of its own (a factor of 1.4); the largest of many
elements varies with the order of the sums (2); norms, softmax and activations between the sums round, too
(1.4). What is left, a factor of 2, is reserve.
"""

NARROW_MARGIN = 2
"""The same for narrow factors: reserve only, for one of the two results is exact and norms hardly vary."""


def unit_roundoff(dtype: torch.dtype) -> float:
    """Return the largest relative error of rounding one number to `dtype`."""
    return torch.finfo(dtype).eps / 2


def distance(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference over the largest expected value: 0 for empty tensors, NaN for NaN."""
    assert found.shape == expected.shape, f"shape {list(found.shape)} is not {list(expected.shape)}"
    if not expected.numel():
        return 0.0
    found, expected = found.detach().double(), expected.detach().double()
    difference, largest = (found - expected).abs().max().item(), expected.abs().max().item()
    return 0.0 if difference == 0 else difference / largest if largest else math.inf


def relative(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over the norm of what is expected."""
    assert found.shape == expected.shape, f"shape {list(found.shape)} is not {list(expected.shape)}"
    found, expected = found.detach().double(), expected.detach().double()
    return ((found - expected).norm() / expected.norm()).item()


def rounding(terms: int = 1, dtype: torch.dtype = torch.float32) -> float:
    """Return the limit of `distance` for sums of `terms` products, or for `terms` operations in a row.

    Results in a narrow dtype have been computed in float32 and rounded once: they may be one step apart.
    """
    if torch.finfo(dtype).bits < 32:
        return torch.finfo(dtype).eps
    return MARGIN * unit_roundoff(dtype) * math.sqrt(terms)


def expect(run: Run, *networks: nn.Module) -> tuple[Tensor, float]:
    """Return the result of plain networks, and the limit of `distance` for other correct ones.

    Args:
        run: computes the result from `networks`, the same each time it is called.
        networks: whose sums are rounded; in float32 or float64.
    """
    return expect_each(lambda: {"": run()}, *networks)[""]


@torch.no_grad()
def expect_each(
    run: Callable[[], Mapping[str, Tensor]], *networks: nn.Module
) -> dict[str, tuple[Tensor, float]]:
    """Return several results with their limits, as `expect` does; 0 where the networks have no part."""
    expected = {name: value.clone() for name, value in run().items()}
    with _perturbed(networks):
        moved = {name: distance(value, expected[name]) for name, value in run().items()}
    assert any(moved.values()), "the networks have no part in the results"
    return {name: (value, MARGIN * moved[name]) for name, value in expected.items()}


def expect_all(run: Callable[[], Sequence[Tensor]], *networks: nn.Module) -> list[tuple[Tensor, float]]:
    """Return several results in order, each with its limit, as `expect_each` does."""
    return [
        *expect_each(lambda: {str(index): value for index, value in enumerate(run())}, *networks).values()
    ]


@torch.no_grad()
def expect_narrow(run: Run, dtype: torch.dtype, *networks: nn.Module) -> tuple[Tensor, float]:
    """Return the result of exact networks, and the limit of `relative` for the same ones in a narrow `dtype`.

    Args:
        run: as for `expect`.
        dtype: that weights and activations are rounded to.
        networks: exact; whose weights are narrow in what will be compared.
    """
    expected = run().clone()
    with _perturbed(networks, dtype):
        moved = relative(run(), expected)
    assert moved > 0, "the networks have no part in the result"
    return expected, NARROW_MARGIN * moved


def assert_near(found: Tensor, expected: Tensor, limit: float, name: str = "the result") -> None:
    """Check that the `distance` of a result from what is expected is within a limit."""
    apart = distance(found, expected)
    assert apart <= limit, f"{name} is {apart:.2e} of the largest value off, where {limit:.2e} is allowed"


def assert_same_network(found: Tensor, run: Run, *networks: nn.Module) -> None:
    """Check that a result is what plain networks compute in `run`, but for rounding; see `expect`."""
    assert_near(found, *expect(run, *networks))


@torch.no_grad()
def perturb(network: nn.Module, narrow: torch.dtype | None = None) -> None:
    """Move every weight by what the rounding of its sum amounts to, or rounding to a `narrow` dtype."""
    rng = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        if narrow is None:
            num_products = weight[0].numel() if weight.ndim > 1 else 1
            step = unit_roundoff(weight.dtype) * math.sqrt(num_products)
        else:
            # A weight, the activation that it meets and, but for one byte, the result are rounded.
            step = unit_roundoff(narrow) * math.sqrt(2 if narrow.itemsize == 1 else 3)
        noise = 2 * torch.rand(weight.shape, generator=rng, dtype=torch.float64) - 1
        weight.copy_(weight.double() * (1 + step * noise.to(weight.device)))


@contextmanager
def _perturbed(networks: tuple[nn.Module, ...], narrow: torch.dtype | None = None) -> Iterator[None]:
    """Let networks be perturbed within the block."""
    weights = [weight.detach() for network in networks for weight in network.parameters()]
    kept = [weight.clone() for weight in weights]
    try:
        for network in networks:
            perturb(network, narrow)
        yield
    finally:
        for weight, value in zip(weights, kept, strict=True):
            weight.copy_(value)
