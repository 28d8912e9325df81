import pytest
import torch

from livetalk.errors import InputError
from livetalk.runtime.model import AvatarModel
from livetalk.runtime.numerics import (
    Comparison,
    Configuration,
    StageError,
    StreamSource,
    apply_configuration,
    compare_numerics,
    parse_configuration,
    relative_error,
    shared_noise,
)
from livetalk.runtime.placement import PlacementConfig
from livetalk.runtime.random_model import build_random_model

CPU = torch.device("cpu")


def build(configuration: Configuration) -> AvatarModel:
    """Build the tiny model with the same weights every time."""
    model = build_random_model(
        "tiny", device=CPU, dtype=configuration.dtype, placement=configuration.placement
    )
    if configuration.compiled:
        # Traced and run as it is: what a compiler makes of it is not the matter here.
        model.models.dit.compile(backend="eager")
        return model
    return apply_configuration(model, configuration)


def compare(first: str, second: str) -> Comparison:
    """Compare two configurations of the tiny model."""
    return compare_numerics(build, parse_configuration(first), parse_configuration(second), StreamSource())


def test_every_stage_of_both_chunks_is_there_in_order() -> None:
    comparison = compare("eager-float32", "eager-float32")
    stages = ["speech", "velocity 1", "latents 1", "velocity 2", "latents 2", "decode", "colour", "encode"]
    expected = ["reference", *(f"chunk {chunk} {stage}" for chunk in (1, 2) for stage in stages)]
    assert [error.stage for error in comparison.errors] == expected
    assert all(error.relative == error.largest == 0 for error in comparison.errors)
    assert all(error.alone in (None, 0) for error in comparison.errors)


def test_offloaded_blocks_change_nothing() -> None:
    assert compare("eager-float32", "offload1-float32").worst() == 0


def test_bfloat16_is_near_and_each_network_alone_nearer() -> None:
    comparison = compare("float32", "bfloat16")
    velocities = [error for error in comparison.errors if "velocity" in error.stage]
    assert len(velocities) == 4
    for error in velocities:
        assert error.alone is not None and 1e-4 < error.alone < 0.02
    first = comparison.errors[0]
    assert (first.stage, first.alone) == ("reference", None) and 0 < first.relative < 0.05
    # The picture of a random VAE depends strongly on its latents; alone it is precise.
    decodes = [error.alone for error in comparison.errors if "decode" in error.stage]
    assert all(alone is not None and alone < 0.05 for alone in decodes)


def test_one_byte_weights_are_the_transformers_matter_only() -> None:
    comparison = compare("float32", "float8-float32")
    alone = {error.stage: error.alone for error in comparison.errors if error.alone is not None}
    assert all(value == 0 for stage, value in alone.items() if "velocity" not in stage)
    assert all(0.005 < value < 0.1 for stage, value in alone.items() if "velocity" in stage)
    assert comparison.worst("chunk 1 velocity 1") == pytest.approx(alone["chunk 1 velocity 1"])


def test_an_attention_kernel_of_choice_is_near_pytorchs() -> None:
    comparison = compare("float32", "math-float32")
    assert 0 < comparison.worst("velocity") < 1e-4


def test_compiled_is_as_good_as_eager() -> None:
    assert compare("eager-float32", "compile-float32").worst("velocity") < 1e-4


@pytest.mark.parametrize(
    ("name", "dtype", "compiled", "placement"),
    [
        ("eager-float32", torch.float32, False, PlacementConfig()),
        ("bfloat16", torch.bfloat16, False, PlacementConfig()),
        ("compile-full-bfloat16", torch.bfloat16, True, PlacementConfig()),
        ("float8-bfloat16", torch.bfloat16, False, PlacementConfig(weights="float8")),
        ("offload-bfloat16", torch.bfloat16, False, PlacementConfig(resident_blocks=0)),
        ("cudnn-bfloat16", torch.bfloat16, False, PlacementConfig()),
        ("fa3fp8-bfloat16", torch.bfloat16, False, PlacementConfig()),
        ("int8-offload20-float32", torch.float32, False, PlacementConfig(weights="int8", resident_blocks=20)),
    ],
)
def test_configurations_are_words(
    name: str, dtype: torch.dtype, compiled: bool, placement: PlacementConfig
) -> None:
    attention = {"cudnn-bfloat16": "cudnn", "fa3fp8-bfloat16": "fa3-fp8"}.get(name)
    assert parse_configuration(name) == Configuration(
        name=name, dtype=dtype, compiled=compiled, placement=placement, attention=attention
    )


@pytest.mark.parametrize(
    "name", ["", "eager", "eager-eager-float32", "float16", "float32-bfloat16", "offloadx-float32"]
)
def test_other_words_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="configuration"):
        parse_configuration(name)


def test_noise_is_the_same_number_in_every_precision() -> None:
    shape = (2, 3)
    wide, narrow = (
        shared_noise(3)(torch.empty(shape, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16)
    )
    assert torch.equal(wide, narrow.float()) and narrow.dtype is torch.bfloat16
    assert not torch.equal(wide, shared_noise(4)(torch.empty(shape)))


def test_relative_errors() -> None:
    x = torch.tensor([3.0, 4.0])
    assert relative_error(x, x) == 0
    assert relative_error(x + torch.tensor([0.0, 0.5]), x) == pytest.approx(0.1)
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0
    assert relative_error(x, torch.zeros(2)) == float("inf")


def test_worst_wants_a_stage_that_exists() -> None:
    comparison = Comparison((StageError("decode", 0.5, 1.0, None),))
    assert comparison.worst("decode") == 0.5
    with pytest.raises(ValueError, match="no stage"):
        comparison.worst("velocity")
