"""Audio samples of every type as float32."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from livetalk.errors import InputError

_LARGEST = 8.0
"""Floating-point audio is -1..1, and a little more where it clips; larger values are integers in disguise."""

_SCALED = ("int8", "int16", "int32", "uint8", "uint16", "uint32")


def to_samples(block: ArrayLike) -> NDArray[np.float32]:
    """Convert a block of mono audio to [n], float32, -1..1.

    `block` is [n], [n, 1] or [1, n]; integers of up to 32 bits are scaled by their range, floating point is
    -1..1.

    Raises:
        InputError: another shape or type, or values that are not finite or far outside -1..1.
    """
    try:
        values = np.asarray(block)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"audio: is a {type(block).__name__}; give an array of samples") from error
    if values.ndim == 2 and 1 in values.shape:
        values = values.reshape(-1)
    if values.ndim != 1:
        raise InputError(f"audio: samples have the shape {list(values.shape)}; give one channel, [samples]")
    if str(values.dtype) in _SCALED:
        return _scale(values)
    if values.dtype.kind != "f":
        raise InputError(f"audio: samples are {values.dtype}; give int16, int32 or floating point -1..1")
    samples = values.astype(np.float32, copy=False)
    largest = np.abs(samples).max(initial=0.0)
    if not np.isfinite(largest):
        raise InputError("audio: samples are NaN or infinite")
    if largest > _LARGEST:
        raise InputError(f"audio: samples reach {largest:g}; floating point is -1..1")
    return samples


def _scale(values: NDArray[Any]) -> NDArray[np.float32]:
    """Scale integers to -1..1; those without sign are silent in the middle of their range."""
    half = float(2 ** (8 * values.dtype.itemsize - 1))
    offset = half if values.dtype.kind == "u" else 0.0
    return ((values.astype(np.float64) - offset) / half).astype(np.float32)
