"""Networks are filled strictly: every weight, no other, of the right shape."""

import pytest
import torch
from torch import nn

from livetalk.checkpoints.load import load_module
from livetalk.errors import WeightsError

CPU = torch.device("cpu")


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))


def test_a_network_gets_its_weights_in_the_wanted_precision() -> None:
    source = build()
    module = load_module(build, source.state_dict(), device=CPU, dtype=torch.bfloat16, name="net")
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name].bfloat16())
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.weight": None}, "net: the weights lack 0.weight"),
        ({"9.weight": torch.zeros(1)}, "net: the weights hold unknown 9.weight"),
        ({"0.bias": torch.zeros(5)}, r"net: the weights have other shapes: 0.bias \[5\] instead of \[4\]"),
    ],
)
def test_weights_that_do_not_fit_are_named(change: dict[str, torch.Tensor | None], message: str) -> None:
    state = {**build().state_dict(), **change}
    kept = {name: tensor for name, tensor in state.items() if tensor is not None}
    with pytest.raises(WeightsError, match=message):
        load_module(build, kept, device=CPU, dtype=torch.float32, name="net")


def test_tensors_outside_the_state_dict_are_refused() -> None:
    class Leaky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.ones(2), persistent=False)

    with pytest.raises(WeightsError, match="table cannot be filled"):
        load_module(Leaky, {}, device=CPU, dtype=torch.float32, name="net")
