import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from livetalk.assembly.model import AvatarModel
from livetalk.assembly.random_model import build_random_model
from livetalk.assembly.run import RunConfig, parse_run
from livetalk.errors import InputError
from livetalk.numerics.compare import (
    Comparison,
    StageError,
    StreamSource,
    compare_numerics,
    relative_error,
    shared_noise,
)
from livetalk.numerics.configurations import (
    Configuration,
    apply_configuration,
    check_device,
    parse_configuration,
    sharpen_attention,
)
from livetalk.ops.low_precision import FLOAT8
from tolerance import MARGIN, NARROW_MARGIN, perturb, unit_roundoff

CPU = torch.device("cpu")
Build = Callable[[Configuration], AvatarModel]


def build(configuration: Configuration) -> AvatarModel:
    """Build the tiny model with the same weights every time."""
    model = build_random_model(
        "tiny", device=CPU, dtype=configuration.dtype, placement=configuration.run.placement
    )
    if configuration.run.compile:
        # Traced and run as it is: what a compiler makes of it is not the matter here.
        model.executor.networks.dit.compile(backend="eager")
        return model
    return apply_configuration(model, configuration)


def compare(first: str, second: str) -> Comparison:
    """Compare two configurations of the tiny model."""
    (comparison,) = compare_all(first, second)
    return comparison


def compare_all(first: str, *seconds: str, make: Build = build) -> list[Comparison]:
    """Compare several configurations of the tiny model with one."""
    others = [parse_configuration(name) for name in seconds]
    return list(compare_numerics(make, parse_configuration(first), others, StreamSource()))


@pytest.fixture(scope="module")
def against_float32() -> dict[str, Comparison]:
    """Compare the configurations that several tests look at, by name."""
    names = ["fast-float32", "bfloat16", "fast-bfloat16", "fp8-float32", "fp8-fp8reference-float32"]
    names += ["fast-fp8reference-float32", "math-float32"]
    return dict(zip(names, compare_all("float32", *names), strict=True))


@pytest.fixture(scope="module")
def perturbed() -> dict[torch.dtype, Comparison]:
    """Compare float32 with itself where weights have moved by rounding, by the dtype that it stands for."""
    return {dtype: compare_perturbed(dtype) for dtype in (torch.float32, torch.bfloat16, FLOAT8)}


def compare_perturbed(dtype: torch.dtype) -> Comparison:
    def build_one(configuration: Configuration) -> AvatarModel:
        model = build(parse_configuration("float32"))
        networks = model.executor.networks
        if configuration.name == "float32":
            return model
        # FP8 is for the blocks of the transformer alone.
        parts = [networks.dit.blocks] if dtype is FLOAT8 else [networks.dit, networks.vae]
        for part in parts:
            perturb(part, None if dtype is torch.float32 else dtype)
        return model

    (comparison,) = compare_all("float32", "eager-float32", make=build_one)
    return comparison


def own_errors(comparison: Comparison, network: str) -> list[float]:
    """Return the errors of a network that was given the first run's inputs."""
    found = [error.alone for error in comparison.errors if network in error.stage]
    return [error for error in found if error is not None]


def test_every_stage_of_both_chunks_is_there_in_order() -> None:
    comparison = compare("eager-float32", "eager-float32")
    stages = ["speech", "velocity 1", "latents 1", "velocity 2", "latents 2", "decode", "colour", "encode"]
    expected = ["reference", *(f"chunk {chunk} {stage}" for chunk in (1, 2) for stage in stages)]
    assert [error.stage for error in comparison.errors] == expected
    assert all(error.relative == error.largest == 0 for error in comparison.errors)
    assert all(error.alone in (None, 0) for error in comparison.errors)


def test_offloaded_blocks_change_nothing() -> None:
    assert compare("eager-float32", "offload1-float32").worst() == 0


def test_bfloat16_is_near_and_each_network_alone_nearer(perturbed: dict[torch.dtype, Comparison]) -> None:
    comparison, moved = compare("float32", "bfloat16"), perturbed[torch.bfloat16]
    velocities = [error for error in comparison.errors if "velocity" in error.stage]
    assert len(velocities) == 4
    for error in velocities:
        assert error.alone is not None
        assert 1e-4 < error.alone < NARROW_MARGIN * max(own_errors(moved, "velocity"))
    first = comparison.errors[0]
    assert (first.stage, first.alone) == ("reference", None)
    assert 0 < first.relative < NARROW_MARGIN * moved.errors[0].relative
    # The picture of a random VAE depends strongly on its latents; alone it is precise.
    decodes = [error.alone for error in comparison.errors if "decode" in error.stage]
    limit = NARROW_MARGIN * max(own_errors(moved, "decode"))
    assert all(alone is not None and alone < limit for alone in decodes)


def test_one_byte_weights_are_the_transformers_matter_only(perturbed: dict[torch.dtype, Comparison]) -> None:
    comparison = compare("float32", "float8-float32")
    alone = {error.stage: error.alone for error in comparison.errors if error.alone is not None}
    assert all(value == 0 for stage, value in alone.items() if "velocity" not in stage)
    limit = NARROW_MARGIN * max(own_errors(perturbed[FLOAT8], "velocity"))
    assert all(0.005 < value < limit for stage, value in alone.items() if "velocity" in stage)
    assert comparison.worst("chunk 1 velocity 1") == pytest.approx(alone["chunk 1 velocity 1"])


def test_an_attention_kernel_of_choice_is_near_pytorchs(
    against_float32: dict[str, Comparison], perturbed: dict[torch.dtype, Comparison]
) -> None:
    limit = MARGIN * perturbed[torch.float32].worst("velocity")
    assert 0 < against_float32["math-float32"].worst("velocity") < limit


def test_compiled_is_as_good_as_eager(perturbed: dict[torch.dtype, Comparison]) -> None:
    limit = MARGIN * perturbed[torch.float32].worst("velocity")
    assert compare("eager-float32", "compile-float32").worst("velocity") < limit


def test_fast_forms_change_numbers_by_rounding_only(
    against_float32: dict[str, Comparison], perturbed: dict[torch.dtype, Comparison]
) -> None:
    exact, narrow, fast_narrow = (
        against_float32[name] for name in ("fast-float32", "bfloat16", "fast-bfloat16")
    )
    for network in ("velocity", "decode"):
        limit = MARGIN * max(own_errors(perturbed[torch.float32], network))
        assert all(error < limit for error in own_errors(exact, network))
    for plain, fast in zip(own_errors(narrow, "velocity"), own_errors(fast_narrow, "velocity"), strict=True):
        assert 0.3 * plain < fast < 1.5 * plain


def test_products_in_fp8_cost_more_than_bfloat16_and_the_vae_has_none(
    against_float32: dict[str, Comparison], perturbed: dict[torch.dtype, Comparison]
) -> None:
    narrow, products, both = (
        against_float32[name] for name in ("bfloat16", "fp8-float32", "fp8-fp8reference-float32")
    )
    wide = max(own_errors(narrow, "velocity"))
    limit = NARROW_MARGIN * max(own_errors(perturbed[FLOAT8], "velocity"))
    assert all(2 * wide < error < limit for error in own_errors(products, "velocity"))
    assert all(2 * wide < error < limit for error in own_errors(both, "velocity"))
    assert own_errors(products, "velocity") != own_errors(both, "velocity")
    for comparison in (products, both):
        limit = MARGIN * max(own_errors(perturbed[torch.float32], "decode"))
        assert all(error < limit for error in own_errors(comparison, "decode"))
        # The whole stream's: what a step gets wrong is in the latents of the last.
        assert comparison.worst("chunk 1 latents 2") > 0.003


def test_attention_in_fp8_has_an_error_of_its_own(
    against_float32: dict[str, Comparison], perturbed: dict[torch.dtype, Comparison]
) -> None:
    def build_sharp(configuration: Configuration) -> AvatarModel:
        model = build_random_model("tiny", device=CPU, dtype=configuration.dtype)
        sharpen_attention(model.executor.networks.dit, 4)
        return apply_configuration(model, configuration)

    soft = against_float32["fast-fp8reference-float32"]
    (sharp,) = compare_all("float32", "fast-fp8reference-float32", make=build_sharp)
    limit = NARROW_MARGIN * max(own_errors(perturbed[FLOAT8], "velocity"))
    assert all(1e-3 < error < limit for error in own_errors(soft, "velocity"))
    # Where a token attends to few others, what is wrong with these does not average out.
    assert min(own_errors(sharp, "velocity")) > max(own_errors(soft, "velocity"))


def test_sharpening_multiplies_logits_by_numbers_that_every_precision_has() -> None:
    wide, narrow = (
        build_random_model("tiny", device=CPU, dtype=dtype).executor.networks.dit
        for dtype in (torch.float32, torch.bfloat16)
    )
    name = "blocks.layers.1.self_attention.norm_q.weight"
    before = wide.get_parameter(name).clone()
    for dit in (wide, narrow):
        sharpen_attention(dit, 3)
    assert torch.equal(wide.get_parameter(name), narrow.get_parameter(name).float())
    step = unit_roundoff(torch.bfloat16)
    torch.testing.assert_close(wide.get_parameter(name), 3 * before, rtol=step, atol=0)


def test_what_ran_is_told(against_float32: dict[str, Comparison]) -> None:
    assert against_float32["math-float32"].forms == ("", "attention math, plain kernels")
    assert against_float32["fast-float32"].forms == ("", "attention flash, torch kernels")
    # Four blocks; joined queries, keys and values, output, text and image's query and output, feed-forward.
    expected = "attention fp8-reference, torch kernels, 24 layers in FP8 by the reference"
    assert against_float32["fp8-fp8reference-float32"].forms == ("", expected)


def test_each_second_model_is_compared_as_if_alone_and_only_one_is_in_memory(
    against_float32: dict[str, Comparison],
) -> None:
    alive: weakref.WeakSet[nn.Module] = weakref.WeakSet()
    found = []

    def build_counted(configuration: Configuration) -> AvatarModel:
        found.append(len(alive))
        model = build(configuration)
        alive.add(model.executor.networks.dit)
        return model

    assert compare_all("float32", "fp8-float32", make=build_counted) == [against_float32["fp8-float32"]]
    assert (
        compare_all("float32", "bfloat16", "bfloat16", make=build_counted)[1] == against_float32["bfloat16"]
    )
    assert found == [0] * 5


def test_a_comparison_is_there_before_the_next_one_is_begun() -> None:
    def build_no_bfloat16(configuration: Configuration) -> AvatarModel:
        if configuration.dtype is torch.bfloat16:
            raise InputError("not here")
        return build(configuration)

    names = [parse_configuration(name) for name in ("float32", "bfloat16")]
    comparisons = compare_numerics(build_no_bfloat16, names[0], names, StreamSource())
    assert next(comparisons).worst() == 0
    with pytest.raises(InputError, match="not here"):
        next(comparisons)


def test_float32_runs_without_tf32_and_other_runs_as_for_users(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    monkeypatch.setattr(cudnn, "allow_tf32", True)
    before = cuda.allow_tf32, True
    seen = []

    def build_watched(configuration: Configuration) -> AvatarModel:
        model = build(configuration)
        model.executor.networks.dit.register_forward_pre_hook(
            lambda *_: seen.append((configuration.name, cuda.allow_tf32, cudnn.allow_tf32))
        )
        return model

    compare_all("float32", "bfloat16", make=build_watched)
    assert set(seen) == {("float32", False, False), ("bfloat16", *before)}
    assert (cuda.allow_tf32, cudnn.allow_tf32) == before


def test_the_two_precisions_start_from_the_same_numbers() -> None:
    wide, narrow = (build(parse_configuration(name)).executor.networks for name in ("float32", "bfloat16"))
    for network in ("dit", "vae"):
        expected = getattr(wide, network).state_dict()
        found = getattr(narrow, network).state_dict()
        assert all(torch.equal(expected[name], value.float()) for name, value in found.items())


@pytest.mark.parametrize("name", ["fp8-float32", "fp8-bfloat16"])
def test_fp8_that_a_gpu_cannot_multiply_in_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_device(parse_configuration(name), CPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A100")
    with pytest.raises(InputError, match="FP8"):
        check_device(parse_configuration(name), torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    check_device(parse_configuration("fp8-bfloat16"), torch.device("cuda"))


@pytest.mark.parametrize(
    ("name", "reason"), [("fast-offload2-float32", "blocks"), ("fp8-int8-float32", "int8")]
)
def test_fast_forms_that_weights_cannot_have_are_refused(name: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        parse_configuration(name)


def test_a_configuration_is_a_run_with_a_precision_in_one_process() -> None:
    base = RunConfig(device="cpu", threads=1)
    assert parse_configuration("fast-bfloat16", base).run == parse_run("fast-bfloat16", base)
    assert parse_configuration("fast", replace(base, precision="float32")).dtype is torch.float32
    with pytest.raises(InputError, match="lacks float32 or bfloat16"):
        parse_configuration("eager")
    with pytest.raises(InputError, match=r"gpus 2: .* one process"):
        parse_configuration("float32", RunConfig(gpus=2))


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
