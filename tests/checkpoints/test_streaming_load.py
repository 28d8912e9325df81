"""Weights are rounded to bytes and placed block by block while they arrive; none is held longer."""

import weakref

import pytest
import torch
from torch import Tensor, nn

from livetalk.checkpoints import streaming_load
from livetalk.checkpoints.layouts import find_published
from livetalk.checkpoints.published import PublishedNetwork, open_dit, open_text_encoder
from livetalk.errors import WeightsError
from livetalk.models.dit import DiT, DiTConfig
from livetalk.ops.low_precision import ByteFormat, quantize_channels
from livetalk.placement.apply import DiTPlacement, PlacementConfig, apply_placement
from livetalk.placement.linear import QuantizedLinear, quantize_linears
from synthetic_checkpoint import SyntheticCheckpoint

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def published(pristine: SyntheticCheckpoint) -> PublishedNetwork[DiT, DiTConfig]:
    """The transformer, not loaded yet."""
    return open_dit(find_published(pristine.model_dir))


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    """Tell whether two networks have the same keys and bits."""
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(
        a[key].dtype == b[key].dtype and torch.equal(a[key].view(torch.uint8), b[key].view(torch.uint8))
        for key in a
    )


@pytest.mark.parametrize("byte_format", ["float8", "int8"])
def test_rounding_on_arrival_is_rounding_afterwards(
    published: PublishedNetwork[DiT, DiTConfig], byte_format: ByteFormat
) -> None:
    dit = published.build_empty()
    assert quantize_linears(dit, byte_format) > 0
    published.fill(dit, device=CPU, dtype=torch.bfloat16)
    plain = published.load(device=CPU, dtype=torch.bfloat16)
    quantize_linears(plain, byte_format)
    assert isinstance(dit.get_submodule("blocks.layers.1.self_attention.q"), QuantizedLinear)
    assert same_weights(dit, plain)


def test_no_weight_is_held_before_it_is_rounded(
    published: PublishedNetwork[DiT, DiTConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[weakref.ref[Tensor]] = []
    held: list[int] = []

    def watch(weight: Tensor, byte_format: ByteFormat) -> tuple[Tensor, Tensor]:
        held.append(sum(reference() is not None for reference in seen))
        seen.append(weakref.ref(weight))
        return quantize_channels(weight, byte_format)

    dit = published.build_empty()
    num_layers = quantize_linears(dit, "float8")
    monkeypatch.setattr(streaming_load, "quantize_channels", watch)
    published.fill(dit, device=CPU, dtype=torch.bfloat16)
    assert len(held) == num_layers
    assert max(held) == 0


def test_blocks_are_placed_when_they_are_complete(published: PublishedNetwork[DiT, DiTConfig]) -> None:
    dit = published.build_empty()
    config = PlacementConfig(weights="float8", resident_blocks=1)
    work = DiTPlacement(dit, config, CPU)
    placed: list[str] = []

    def place(name: str) -> None:
        assert not any(tensor.is_meta for tensor in dit.get_submodule(name).state_dict().values())
        placed.append(name)
        work.place_block(int(name.rpartition(".")[2]))

    published.fill(dit, device=CPU, dtype=torch.float32, on_unit=place)
    assert work.finish() is not None
    assert sorted(placed) == ["blocks.layers.0", "blocks.layers.1"]
    plain = published.load(device=CPU, dtype=torch.float32)
    apply_placement(plain, config, CPU)
    latents, condition = torch.randn(1, 16, 3, 4, 4), torch.randn(1, 20, 3, 4, 4)
    audio = torch.randn(1, 9, 5, 2, 32)
    text, image = torch.randn(1, 8, 32), torch.randn(1, 17, 160)
    inputs = (latents, torch.tensor([500.0]), condition, audio, text, image)
    with torch.no_grad():
        assert torch.equal(dit(*inputs), plain(*inputs))


def test_units_are_the_items_of_the_outermost_lists(pristine: SyntheticCheckpoint) -> None:
    encoder = open_text_encoder(find_published(pristine.model_dir))
    units: list[str] = []
    encoder.fill(encoder.build_empty(), device=CPU, dtype=torch.float32, on_unit=units.append)
    assert units == ["blocks.0", "blocks.1"]


def test_tensors_outside_the_state_dict_are_refused(published: PublishedNetwork[DiT, DiTConfig]) -> None:
    dit = published.build_empty()
    dit.register_buffer("table", torch.ones(2, device="meta"), persistent=False)
    with pytest.raises(WeightsError, match="table cannot be filled"):
        published.fill(dit, device=CPU, dtype=torch.float32)
