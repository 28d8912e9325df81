"""Reported audio from Python: samples of other types, shapes and ranges."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from livetalk.errors import InputError
from livetalk.media.samples import to_samples
from media_files import voice
from reported import Case


def same_samples(
    convert: Callable[[NDArray[np.float32]], Any], error: float
) -> Callable[[Path, pytest.MonkeyPatch], None]:
    """Samples of another type are the same audio, within the rounding of that type."""

    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        samples = to_samples(convert(voice(0.1)[0]))
        assert samples.dtype == np.float32
        assert samples == pytest.approx(voice(0.1)[0], abs=error)

    return check


def refused(block: Any, message: str) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(InputError, match=message) as caught:
            to_samples(block)
        assert "\n" not in str(caught.value)

    return check


def to_integers(dtype: str, half: float, offset: float = 0.0) -> Callable[[NDArray[np.float32]], Any]:
    return lambda samples: (samples * half + offset).round().astype(dtype)


CASES = (
    Case("types", "int16 blocks", same_samples(to_integers("int16", 2.0**15), 2.0**-15)),
    Case("types", "int32 blocks", same_samples(to_integers("int32", 2.0**31), 2.0**-23)),
    Case("types", "uint8 blocks", same_samples(to_integers("uint8", 2.0**7, 128), 2.0**-7)),
    Case("types", "float64 blocks", same_samples(lambda samples: samples.astype(np.float64), 0.0)),
    Case("types", "float16 blocks", same_samples(lambda samples: samples.astype(np.float16), 2.0**-11)),
    Case("types", "blocks of one column", same_samples(lambda samples: samples[:, None], 0.0)),
    Case("types", "lists of numbers", same_samples(lambda samples: samples.tolist(), 0.0)),
    Case("types", "stereo blocks", refused(np.zeros((100, 2), np.float32), r"\[100, 2\]; give one channel")),
    Case("types", "int64 blocks", refused(np.zeros(100, np.int64), "are int64; give int16")),
    Case("types", "floats in the range of int16", refused(np.full(100, 2e4), r"reach 20000; .*-1\.\.1")),
    Case("types", "blocks with NaN", refused(np.full(100, np.nan, np.float32), "NaN or infinite")),
    Case("types", "no block", refused(b"bytes", r"shape \[\]")),
)
