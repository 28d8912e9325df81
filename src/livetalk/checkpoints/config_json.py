"""Strict conversion of frozen configuration dataclasses to and from JSON: no unknown and no missing field.

Only fields whose default is None may be missing, because older checkpoints lack options that were added
later.
"""

import dataclasses
import types
from enum import Enum
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from livetalk.errors import WeightsError

T = TypeVar("T")


def config_to_json(config: object) -> Any:
    """Convert a nested dataclass of tuples, enums, strings, numbers, booleans and None to JSON values.

    Raises:
        TypeError: it contains anything else.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {
            field.name: config_to_json(getattr(config, field.name)) for field in dataclasses.fields(config)
        }
    if isinstance(config, tuple | list):
        return [config_to_json(item) for item in config]
    if isinstance(config, Enum):
        return config.value
    if config is None or isinstance(config, bool | int | float | str):
        return config
    raise TypeError(f"a configuration cannot hold a {type(config).__name__}")


def config_from_json(kind: type[T], data: object, path: str = "config") -> T:
    """Rebuild a configuration dataclass from JSON values; `path` names their origin in messages.

    Raises:
        WeightsError: a field is missing, unknown or of another type, or the dataclass rejects a value.
    """
    if not isinstance(data, dict):
        raise WeightsError(f"{path}: expected the fields of {kind.__name__}, found {data!r}")
    hints = get_type_hints(kind)
    fields = [field for field in dataclasses.fields(kind) if field.init]  # type: ignore[arg-type]
    names = {field.name for field in fields}
    if missing := sorted({field.name for field in fields if field.default is not None} - data.keys()):
        raise WeightsError(f"{path}: {kind.__name__} lacks {', '.join(missing)}")
    if unknown := sorted(data.keys() - names):
        raise WeightsError(f"{path}: {kind.__name__} does not know {', '.join(unknown)}")
    values = {name: _value(hints[name], data[name], f"{path}.{name}") for name in sorted(names & data.keys())}
    try:
        return kind(**values)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from error


def _value(kind: Any, data: object, path: str) -> Any:
    """Check a value against its annotation and convert lists to tuples."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _union_value(arguments, data, path)
    if origin is Literal and data in arguments:
        return data
    if origin is tuple and isinstance(data, list):
        return _tuple_value(arguments, data, path)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return config_from_json(kind, data, path)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _enum_value(kind, data, path)
    # JSON writers may drop the fraction of a whole number.
    if kind is float and type(data) in (int, float):
        return float(data)  # type: ignore[arg-type]
    # By type and not isinstance, because a bool is an int in Python.
    if origin is None and type(data) is kind:
        return data
    raise WeightsError(f"{path}: expected {getattr(kind, '__name__', kind)}, found {data!r}")


def _enum_value(kind: type[Enum], data: object, path: str) -> Enum:
    try:
        return kind(data)
    except ValueError as error:
        choices = ", ".join(str(member.value) for member in kind)
        raise WeightsError(f"{path}: expected one of {choices}, found {data!r}") from error


def _union_value(kinds: tuple[Any, ...], data: object, path: str) -> Any:
    if data is None and type(None) in kinds:
        return None
    errors = []
    for kind in kinds:
        if kind is type(None):
            continue
        try:
            return _value(kind, data, path)
        except WeightsError as error:
            errors.append(error)
    raise errors[0]


def _tuple_value(kinds: tuple[Any, ...], data: list[Any], path: str) -> tuple[Any, ...]:
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(data)
    if len(kinds) != len(data):
        raise WeightsError(f"{path}: expected {len(kinds)} values, found {len(data)}")
    return tuple(
        _value(kind, item, f"{path}[{index}]")
        for index, (kind, item) in enumerate(zip(kinds, data, strict=True))
    )
