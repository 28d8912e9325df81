"""Prove that the tests notice deliberate mistakes.

Each mistake of `mutations.toml` is made in a temporary copy of the package, and the test named beside it must
fail. Prints a table; returns 1 when a mistake goes unnoticed, 2 when the check itself cannot be trusted: a
test fails or is skipped without any mistake, or a mistake no longer fits the source.

Usage: python scripts/mutation_check.py [words of a mutation's name]
"""

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "livetalk"
LINKED = ("weights", "assets")
TESTS_PASSED, TESTS_FAILED = 0, 1
ASSERTION = re.compile(r"^E +(AssertionError|assert )", re.MULTILINE)


class Verdict(Enum):
    """What became of a mistake."""

    NOTICED = "noticed"
    SURVIVED = "SURVIVED"
    BROKEN = "BROKEN: the test crashed"
    STALE = "STALE: the source has changed"


@dataclass(frozen=True, slots=True)
class Mutation:
    """A deliberate mistake.

    Attributes:
        name: what is wrong.
        file: of the package, relative to it.
        before: source text that stands there exactly once.
        after: what it is replaced by.
        test: pytest name of the test that must fail.
    """

    name: str
    file: str
    before: str
    after: str
    test: str


def read_mutations(words: str) -> list[Mutation]:
    """Read the mistakes whose names contain `words`."""
    entries = tomllib.loads((ROOT / "scripts" / "mutations.toml").read_text(encoding="utf-8"))["mutation"]
    return [Mutation(**entry) for entry in entries if words in entry["name"]]


def copy_package(folder: Path) -> Path:
    """Copy the package's source into a folder, which then can be imported from; link what is large."""
    copy = folder / "livetalk"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", *LINKED))
    for name in LINKED:
        (copy / name).symlink_to(PACKAGE / name)
    return copy


def test_folders() -> str:
    """Return the folders that the tests import from."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return " ".join(settings["tool"]["pytest"]["ini_options"]["pythonpath"])


def run_tests(folder: Path, tests: list[str]) -> subprocess.CompletedProcess[str]:
    """Run tests against the package in a folder."""
    # No bytecode is written: a source changed twice within a second would be taken for unchanged.
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command += ["-o", f"pythonpath={folder} {test_folders()}", *tests]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def try_mutation(mutation: Mutation, copy: Path) -> Verdict:
    """Make one mistake, run its test, and undo it."""
    path = copy / mutation.file
    source = path.read_text(encoding="utf-8")
    if source.count(mutation.before) != 1:
        return Verdict.STALE
    path.write_text(source.replace(mutation.before, mutation.after), encoding="utf-8")
    try:
        outcome = run_tests(copy.parent, [mutation.test])
    finally:
        path.write_text(source, encoding="utf-8")
    if outcome.returncode == TESTS_PASSED:
        return Verdict.SURVIVED
    # A crash proves nothing about the numbers that a test compares.
    compared = outcome.returncode == TESTS_FAILED and ASSERTION.search(outcome.stdout)
    return Verdict.NOTICED if compared else Verdict.BROKEN


def main() -> int:
    """Try every mistake and print what became of it."""
    mutations = read_mutations(" ".join(sys.argv[1:]))
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_package(Path(folder))
        tests = sorted({mutation.test for mutation in mutations})
        unchanged = run_tests(copy.parent, tests)
        if not tests or unchanged.returncode != TESTS_PASSED or "skipped" in unchanged.stdout:
            print(unchanged.stdout[-2000:])
            print("the tests must all run and pass without a mistake; no mistake was tried")
            return 2
        verdicts = []
        for mutation in mutations:
            verdicts.append(try_mutation(mutation, copy))
            print(f"{verdicts[-1].value:<10}  {mutation.name:<56}  {mutation.test}", flush=True)
    noticed = verdicts.count(Verdict.NOTICED)
    print(f"{noticed} of {len(verdicts)} mistakes noticed")
    if Verdict.SURVIVED in verdicts:
        return 1
    return 0 if noticed == len(verdicts) else 2


if __name__ == "__main__":
    sys.exit(main())
