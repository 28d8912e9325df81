import itertools

import pytest
import torch

from livetalk.errors import InputError
from livetalk.placement.apply import PlacementConfig, apply_placement
from livetalk.placement.linear import QuantizedLinear
from tiny import DIT_WITH_PROMPT, dit_inputs, tiny_dit

CPU = torch.device("cpu")


def test_offloaded_blocks_are_spread_evenly() -> None:
    def waiting(resident: int | None, layers: int = 40) -> tuple[int, ...]:
        return PlacementConfig(resident_blocks=resident).offloaded_blocks(layers)

    assert waiting(None) == waiting(40) == waiting(99) == ()
    assert waiting(0) == tuple(range(40))
    assert waiting(3, 6) == (0, 2, 4)
    for resident in range(41):
        indices = waiting(resident)
        assert len(indices) == 40 - resident
        if resident >= 20:
            assert all(b - a > 1 for a, b in itertools.pairwise(indices)), "never two in a row"


def test_a_negative_number_of_blocks_is_refused() -> None:
    with pytest.raises(InputError, match="at least 0"):
        PlacementConfig(resident_blocks=-1)


def test_the_default_changes_nothing() -> None:
    dit, inputs = tiny_dit(DIT_WITH_PROMPT), dit_inputs(DIT_WITH_PROMPT)
    before, state = dit(*inputs), dict(dit.state_dict())
    assert apply_placement(dit, PlacementConfig(), CPU) == frozenset()
    assert torch.equal(dit(*inputs), before)
    assert dit.state_dict().keys() == state.keys()


def test_one_byte_weights_are_in_the_blocks_only() -> None:
    dit = tiny_dit(DIT_WITH_PROMPT)
    apply_placement(dit, PlacementConfig(weights="int8"), CPU)
    quantized = [name for name, module in dit.named_modules() if isinstance(module, QuantizedLinear)]
    assert quantized and all(name.startswith("blocks.") for name in quantized)
