"""Generated tables hold what the records hold, and no page is stale."""

import dataclasses
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bench.example_record import RECORD
from livetalk.bench.record import BenchRecord
from livetalk.evaluation.measure import list_values
from livetalk.evaluation.registry import MEASURES

PROGRAM = Path(__file__).parents[2] / "scripts" / "generate_tables.py"
PAGE = """before

<!-- table: numbers -->
| stale |
<!-- end of table -->

after
"""


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_tables", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate_tables"] = module
    spec.loader.exec_module(module)
    return module


def test_no_page_is_stale(program: ModuleType) -> None:
    stale = [str(page) for page in program.find_stale(program.PAGES)]
    assert not stale, "run python scripts/generate_tables.py"


def test_every_table_is_on_a_page(program: ModuleType) -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in program.PAGES)
    assert set(re.findall(r"<!-- table: ([a-z-]+) -->", text)) == set(program.TABLES)


def test_only_what_lies_between_the_marks_is_replaced(program: ModuleType) -> None:
    filled = program.fill(PAGE, {"numbers": lambda: [("a", "b"), ("1", "")]})
    assert filled == PAGE.replace("| stale |", "| a | b |\n| --- | --- |\n| 1 | |")
    assert program.fill(filled, {"numbers": lambda: [("a", "b"), ("1", "")]}) == filled


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (PAGE.replace("numbers", "mystery"), "no table mystery"),
        (PAGE.replace("<!-- end of table -->", ""), "does not end"),
        (PAGE.replace("numbers", "two words"), "does not end"),
    ],
)
def test_a_region_that_cannot_be_filled_is_refused(program: ModuleType, page: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        program.fill(page, {"numbers": lambda: [("a",)]})


def test_a_changed_record_makes_its_pages_stale(
    program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in program.RESULTS.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(program, "RESULTS", tmp_path)
    assert not program.find_stale(program.PAGES)
    (changed,) = tmp_path.glob("embedded_cpu_1thread_*.json")
    record = BenchRecord.load(changed)
    dataclasses.replace(record, fps=record.fps + 1).save(changed, overwrite=True)
    assert {page.name for page in program.find_stale(program.PAGES)} == {"performance.md", "README.md"}


def test_a_new_record_is_listed(program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "RESULTS", tmp_path)
    RECORD.save(tmp_path / "new_202612.json")
    _, row = program.records()
    assert row[0] == "[new_202612](results/new_202612.json)"
    assert row[1:9] == ("CPU, 2 threads", "256x256", "20", "560.0", "570.0", "50.00", "0.5 GB", "0000000")


def test_every_measure_is_documented(program: ModuleType) -> None:
    documented = [row[1] for row in program.measures()[1:]]
    assert sorted(documented) == sorted(f"`{value.name}`" for value in list_values(MEASURES))


def test_the_command_checks_without_writing() -> None:
    done = subprocess.run([sys.executable, str(PROGRAM), "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
