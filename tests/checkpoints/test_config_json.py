"""Configurations survive JSON exactly, and nothing missing, unknown or of another type gets through."""

import json
from dataclasses import asdict, dataclass
from enum import Enum
from fractions import Fraction
from typing import Any, Literal

import pytest

from livetalk.checkpoints.config_json import config_from_json, config_to_json
from livetalk.errors import WeightsError


class Kind(Enum):
    OLD = "old"
    NEW = "new"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    sizes: tuple[int, ...]
    pair: tuple[int, float] = (1, 2.5)
    layout: Literal["wide", "tall"] = "wide"
    kind: Kind = Kind.OLD


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    inner: Inner
    rate: float
    flag: bool
    width: int | None = None

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError("rate must not be negative")


CONFIG = Outer(inner=Inner(sizes=(1, 2, 3), kind=Kind.NEW), rate=0.1, flag=True)


def through_json(config: object) -> Any:
    return json.loads(json.dumps(config_to_json(config)))


@pytest.mark.parametrize("config", [CONFIG, Outer(inner=Inner(sizes=()), rate=3.0, flag=False, width=7)])
def test_configurations_survive_json(config: Outer) -> None:
    assert config_from_json(Outer, through_json(config)) == config


def test_whole_numbers_serve_as_floats() -> None:
    found = config_from_json(Outer, {**asdict(CONFIG), "inner": through_json(CONFIG.inner), "rate": 2})
    assert isinstance(found.rate, float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": "fast"}, "config.rate: expected float, found 'fast'"),
        ({"flag": 1}, "config.flag: expected bool, found 1"),
        ({"width": 1.5}, "config.width: expected int"),
        ({"rate": -1.0}, "config: rate must not be negative"),
        ({"extra": 1}, "config: Outer does not know extra"),
        ({"inner": {"sizes": [1]}}, "config.inner: Inner lacks kind, layout, pair"),
        ({"inner": 3}, "config.inner: expected the fields of Inner, found 3"),
        (
            {"inner": {"sizes": [1, "x"], "pair": [1, 2], "layout": "wide", "kind": "old"}},
            r"inner.sizes\[1\]: expected int",
        ),
        (
            {"inner": {"sizes": [1], "pair": [1], "layout": "wide", "kind": "old"}},
            "config.inner.pair: expected 2 values",
        ),
        (
            {"inner": {"sizes": [1], "pair": [1, 2], "layout": "wide", "kind": "odd"}},
            "config.inner.kind: expected one of old, new, found 'odd'",
        ),
        ({"inner": {"sizes": [1], "pair": [1, 2], "layout": "round", "kind": "old"}}, "config.inner.layout"),
    ],
)
def test_wrong_fields_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        config_from_json(Outer, {**through_json(CONFIG), **change})


def test_a_missing_field_is_named() -> None:
    data = through_json(CONFIG)
    del data["flag"]
    with pytest.raises(WeightsError, match="Outer lacks flag"):
        config_from_json(Outer, data)


def test_other_values_cannot_be_saved() -> None:
    with pytest.raises(TypeError, match="cannot hold a Fraction"):
        config_to_json((Fraction(1, 2),))
