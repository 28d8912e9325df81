"""One configuration of a run: what it refuses, and the words that it can be written in."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from livetalk.accelerate.apply import AccelerationConfig
from livetalk.assembly.run import RunConfig, parse_run
from livetalk.assembly.source import ModelSource
from livetalk.errors import InputError
from livetalk.placement.apply import PlacementConfig

FP8 = AccelerationConfig(float8=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "toaster"}, "device toaster: is not a device"),
        ({"precision": "float16"}, "precision float16: is not one of"),
        ({"threads": 0}, "threads 0: at least 1"),
        ({"gpus": 0}, "gpus 0: at least 1"),
        (
            {"acceleration": AccelerationConfig(fast=True), "placement": PlacementConfig(resident_blocks=3)},
            "leave resident-blocks out",
        ),
        ({"acceleration": FP8, "placement": PlacementConfig(resident_blocks=3)}, "leave resident-blocks out"),
        ({"acceleration": FP8, "placement": PlacementConfig(weights="int8")}, "not as int8"),
    ],
)
def test_what_no_machine_can_do_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RunConfig(**options)


def test_float8_products_take_full_and_float8_weights() -> None:
    for weights in ("full", "float8"):
        placement = PlacementConfig(weights=weights)  # type: ignore[arg-type]
        assert RunConfig(acceleration=FP8, placement=placement).acceleration.fused


def test_blocks_in_host_memory_may_run_on_any_attention_kernel() -> None:
    run = RunConfig(
        acceleration=AccelerationConfig(attention="math"), placement=PlacementConfig(resident_blocks=0)
    )
    assert not run.acceleration.fused and not run.acceleration.plain


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("eager-float32", RunConfig(precision="float32")),
        ("bfloat16", RunConfig(precision="bfloat16")),
        ("compile-full-bfloat16", RunConfig(precision="bfloat16", compile=True)),
        ("float8", RunConfig(placement=PlacementConfig(weights="float8"))),
        ("offload", RunConfig(placement=PlacementConfig(resident_blocks=0))),
        ("cudnn", RunConfig(acceleration=AccelerationConfig(attention="cudnn"))),
        ("fast", RunConfig(acceleration=AccelerationConfig(fast=True))),
        (
            "fp8-fa3fp8-bfloat16",
            RunConfig(
                precision="bfloat16", acceleration=AccelerationConfig(float8=True, attention="fa3-fp8")
            ),
        ),
        ("fp8-float8", RunConfig(acceleration=FP8, placement=PlacementConfig(weights="float8"))),
        (
            "int8-offload20-float32",
            RunConfig(precision="float32", placement=PlacementConfig(weights="int8", resident_blocks=20)),
        ),
    ],
)
def test_a_run_is_words(words: str, expected: RunConfig) -> None:
    assert parse_run(words) == expected
    assert parse_run("-".join(reversed(words.split("-")))) == expected


@pytest.mark.parametrize(
    "words",
    [
        "",
        "eager-compile",
        "float16",
        "float32-bfloat16",
        "offloadx",
        "fast-fp8",
        "offload-offload2",
        "fa3-fa3fp8",
    ],
)
def test_other_words_are_refused(words: str) -> None:
    with pytest.raises(InputError, match="does not fit there"):
        parse_run(words)


def test_words_change_what_they_name_and_leave_the_rest() -> None:
    base = RunConfig(
        device="cpu",
        threads=1,
        compile=True,
        placement=PlacementConfig(encoders="cpu"),
        acceleration=AccelerationConfig(float8=True, attention="math", graphs=False),
    )
    assert parse_run("float32", base) == replace(base, precision="float32")
    fast = AccelerationConfig(fast=True, attention="math", graphs=False)
    assert parse_run("fast-eager", base) == replace(base, compile=False, acceleration=fast)
    plain = AccelerationConfig(attention="math", graphs=False)
    placement = PlacementConfig(encoders="cpu", resident_blocks=1)
    assert parse_run("plain-offload1", base) == replace(base, placement=placement, acceleration=plain)


def test_random_weights_come_from_no_file() -> None:
    for option in ("wav2vec_dir", "infinitetalk"):
        with pytest.raises(InputError, match="random weights come from no file"):
            ModelSource(random_weights="tiny", **{option: Path("somewhere")})
