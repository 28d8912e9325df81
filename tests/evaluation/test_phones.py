"""Reading spoken sounds; the aligner itself is not installed where tests run."""

import json
from pathlib import Path

import numpy as np
import pytest

from livetalk.errors import InputError, LivetalkError
from livetalk.evaluation.extras import import_extra, locate_extra
from livetalk.evaluation.phones import Phone, align_transcript, load_phones


@pytest.mark.parametrize("wrap", [False, True])
def test_both_forms_are_read(tmp_path: Path, wrap: bool) -> None:
    entries = [["B", 0.1, 0.2], {"symbol": "ow", "start_seconds": 0.2, "end_seconds": 0.5}]
    path = tmp_path / "events.json"
    path.write_text(json.dumps({"events": entries} if wrap else entries))
    assert load_phones(path) == [Phone("B", 0.1, 0.2), Phone("ow", 0.2, 0.5)]


@pytest.mark.parametrize("content", ["{", "3", '[["b", 1]]', '[["b", 2, 1]]', '[["b", "x", "y"]]', "{}"])
def test_other_contents_are_refused_in_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "events.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"^events .*events\.json: [^\n]*$"):
        load_phones(path)


def test_lips_close_for_three_sounds() -> None:
    closing = {symbol for symbol in ("p", "B", "M", "n", "f", "SIL", "t") if Phone(symbol, 0, 1).closes_lips}
    assert closing == {"p", "B", "M"}


def test_a_transcript_needs_words() -> None:
    with pytest.raises(InputError, match="no words"):
        align_transcript(np.zeros(16000, dtype=np.float32), "... 12!")


def test_missing_package_is_named_with_its_extra() -> None:
    for find in (import_extra, locate_extra):
        with pytest.raises(LivetalkError, match=r"surely_missing: pip install 'livetalk\[eval\]'"):
            find("surely_missing")
