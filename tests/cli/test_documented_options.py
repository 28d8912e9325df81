"""The pages about the published model name options, tests and records that exist."""

import argparse
import importlib
import re
from pathlib import Path

import pytest

from livetalk.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / name for name in ("flashtalk-14b.md", "flashtalk-14b.zh.md", "compatibility.md")]


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """Return the options of every command that the pages name."""
    found: dict[str, set[str]] = {}
    for name in ("generate", "doctor", "compare-numerics", "download", "export", "flashtalk-compat"):
        subparsers = argparse.ArgumentParser().add_subparsers()
        importlib.import_module(COMMANDS[name].module).add_parser(subparsers)
        found[name] = set(re.findall(r"--[a-z][a-z0-9_-]*", subparsers.choices[name].format_help()))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page: Path, options: dict[str, set[str]]) -> None:
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"livetalk ([a-z-]+)((?: [^`\n]*)?)", text)
    assert {name for name, _ in commands} & options.keys()
    for name, rest in commands:
        if name in options:
            assert set(re.findall(r"--[a-z][a-z0-9_-]*", rest)) <= options[name], (name, rest)
    named = set(re.findall(r"`(--[a-z][a-z0-9_-]*)", text))
    assert named and named <= set.union(*options.values())


def test_both_languages_name_the_same_options_and_files() -> None:
    english, chinese = (
        set(re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))) for page in PAGES[:2]
    )
    for names in (english, chinese):
        names -= {name for name in names if "HEIGHT" in name or "高" in name}
    assert english == chinese


def test_each_defect_is_shown_by_a_test_that_exists() -> None:
    text = PAGES[2].read_text(encoding="utf-8")
    file = ""
    references = re.findall(r"`((?:tests/[a-z_/]+\.py|\.\.\.)(?:::test_[a-z_]+)?)`", text)
    assert len(references) > 12
    for reference in references:
        path, _, test = reference.partition("::")
        file = file if path == "..." else path
        source = (ROOT / file).read_text(encoding="utf-8")
        assert f"def {test}" in source, reference
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (PAGES[2].parent / link).exists(), link
