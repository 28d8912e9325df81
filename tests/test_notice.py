"""The script that holds NOTICE and the shipped files together."""

import hashlib
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "check_notice.py"
NOTICE = """Preface.

Files: src/livetalk/assets/heads/*
Source: made here
Licence: CC0-1.0
  0000000000000000000000000000000000000000000000000000000000000000  src/livetalk/assets/heads/gone.npz

Files: src/livetalk/assets/heads/special/*
Source: made there
Licence: MIT
"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """Load the script, which belongs to no package."""
    spec = importlib.util.spec_from_file_location("check_notice", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def shipped(script: ModuleType, tmp_path: Path) -> dict[str, str]:
    """Make a small tree and return its hashes."""
    for name in ("heads/a.npz", "heads/special/b.npz", "heads/code.py"):
        path = tmp_path / "src/livetalk/assets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    found: dict[str, str] = script.find_shipped(tmp_path)
    return found


def test_assets_are_found_with_their_hashes(shipped: dict[str, str]) -> None:
    assert shipped == {
        "src/livetalk/assets/heads/a.npz": hashlib.sha256(b"heads/a.npz").hexdigest(),
        "src/livetalk/assets/heads/special/b.npz": hashlib.sha256(b"heads/special/b.npz").hexdigest(),
    }


def test_each_fault_is_named(script: ModuleType, shipped: dict[str, str]) -> None:
    faults = script.find_faults(NOTICE, shipped | {"src/livetalk/weights/new.bin": "1" * 64})
    assert len(faults) == 4
    for path, complaint in (
        ("heads/a.npz", "not listed"),
        ("special/b.npz", "not listed"),
        ("new.bin", "no stanza"),
        ("gone.npz", "does not exist"),
    ):
        assert any(path in fault and complaint in fault for fault in faults)


def test_written_notice_has_no_fault_and_keeps_its_words(script: ModuleType, shipped: dict[str, str]) -> None:
    written = script.rewrite(NOTICE, shipped)
    assert script.find_faults(written, shipped) == []
    assert script.rewrite(written, shipped) == written
    words = [line for line in NOTICE.splitlines() if "gone.npz" not in line]
    assert [line for line in written.splitlines() if not line.startswith("  ")] == words
    first, second = written.index("heads/a.npz"), written.index("special/b.npz")
    assert first < written.index("heads/special/*") < second


def test_a_changed_file_is_found(script: ModuleType, shipped: dict[str, str]) -> None:
    written = script.rewrite(NOTICE, shipped)
    path = "src/livetalk/assets/heads/a.npz"
    assert any(path in fault for fault in script.find_faults(written, shipped | {path: "2" * 64}))


def test_a_stanza_needs_source_and_licence(script: ModuleType, shipped: dict[str, str]) -> None:
    poor = script.rewrite(NOTICE, shipped).replace("Licence: MIT\n", "")
    assert any("Licence" in fault for fault in script.find_faults(poor, shipped))
