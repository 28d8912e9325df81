import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from bench.example_record import RECORD
from livetalk.bench.record import BenchRecord, now
from livetalk.errors import InputError

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_a_record_comes_back(tmp_path: Path) -> None:
    RECORD.save(tmp_path / "new" / "record.json")
    assert BenchRecord.load(tmp_path / "new" / "record.json") == RECORD
    assert BenchRecord.from_json(RECORD.to_json()) == RECORD
    assert "\n" not in RECORD.to_json()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpu": None}, "gpu cannot be None"),
        ({"num_gpus": 1.5}, "num_gpus cannot be 1.5"),
        ({"steps": True}, "steps cannot be True"),
        ({"fps": "fast"}, "fps cannot be 'fast'"),
        ({"fps": 0.0}, "its times are impossible"),
        ({"first_frame_progressive_ms": 0.0}, "its times are impossible"),
        ({"first_frame_progressive_ms": "soon"}, "first_frame_progressive_ms cannot be 'soon'"),
        ({"chunk_ms_p95": 1.0}, "its times are impossible"),
        ({"stages": {}}, "its times are impossible"),
        ({"stages": {"decode": {"median_ms": 3, "p95_ms": 2, "per_chunk": 1}}}, "times of a stage"),
        ({"stages": {"decode": {"median_ms": 3}}}, "missing"),
        ({"commit": "main"}, "commit main: is not 40 hexadecimal digits"),
        ({"size": "large"}, "size large"),
        ({"date": "yesterday"}, "yesterday"),
        ({"date": "2026-11-23T12:00:00"}, "names no time zone"),
        ({"comment": "new field"}, "fields are not those"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    fields = json.loads(RECORD.to_json()) | changes
    with pytest.raises(InputError, match=message):
        BenchRecord.from_json(json.dumps(fields))


def test_a_missing_field_is_refused() -> None:
    for name in dataclasses.asdict(RECORD).keys() - {"first_frame_progressive_ms"}:
        fields = json.loads(RECORD.to_json())
        del fields[name]
        with pytest.raises(InputError, match="fields are not those"):
            BenchRecord.from_json(json.dumps(fields))


def test_what_was_not_measured_yet_may_be_missing() -> None:
    fields = json.loads(RECORD.to_json())
    del fields["first_frame_progressive_ms"]
    older = BenchRecord.from_json(json.dumps(fields))
    assert older == dataclasses.replace(RECORD, first_frame_progressive_ms=None)
    assert BenchRecord.from_json(older.to_json()) == older


def test_no_json_and_no_file_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        BenchRecord.from_json("{")
    with pytest.raises(InputError, match="fields are not those"):
        BenchRecord.from_json("[]")
    with pytest.raises(InputError, match="No such file"):
        BenchRecord.load(tmp_path / "none.json")


def test_the_date_of_now_is_a_records() -> None:
    assert dataclasses.replace(RECORD, date=now()).date.endswith("+00:00")


def test_all_kept_records_can_be_read() -> None:
    for path in sorted(RESULTS.glob("*.json")):
        record = BenchRecord.load(path)
        assert record.num_workers >= max(1, record.num_gpus), path.name
