"""Check that the tests detect deliberate mistakes.

Each mistake of `mutations.toml` is applied to a temporary copy of the package, and its test must fail. Prints
a table. Returns 1 if a test does not detect its mistake, and 2 if the check is invalid: a test fails or is
skipped without a mistake, or the source no longer contains the text of a mistake.

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
    """Result of one mistake."""

    NOTICED = "noticed"
    SURVIVED = "SURVIVED"
    BROKEN = "BROKEN: the test crashed"
    STALE = "STALE: the source has changed"


@dataclass(frozen=True, slots=True)
class Mutation:
    """A deliberate mistake.

    Attributes:
        name: description of the mistake.
        file: path within the package.
        before: source text that occurs exactly once in the file.
        after: its replacement.
        test: pytest identifier of the test that must fail.
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
    """Copy the source of the package into a folder, with links to weights and assets."""
    copy = folder / "livetalk"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", *LINKED))
    for name in LINKED:
        (copy / name).symlink_to(PACKAGE / name)
    return copy


def test_folders() -> str:
    """Return the folders in pytest's import path."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return " ".join(settings["tool"]["pytest"]["ini_options"]["pythonpath"])


def run_tests(folder: Path, tests: list[str]) -> subprocess.CompletedProcess[str]:
    """Run tests against the package in a folder."""
    # Without bytecode, whose time stamps have a resolution of a second: a source may change twice in one.
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command += ["-o", f"pythonpath={folder} {test_folders()}", *tests]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def try_mutation(mutation: Mutation, copy: Path) -> Verdict:
    """Apply one mistake, run its test, and revert the mistake."""
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
    # A crash does not show that the test compares the affected values.
    compared = outcome.returncode == TESTS_FAILED and ASSERTION.search(outcome.stdout)
    return Verdict.NOTICED if compared else Verdict.BROKEN


def main() -> int:
    """Try every mistake and print the results."""
    mutations = read_mutations(" ".join(sys.argv[1:]))
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_package(Path(folder))
        tests = sorted({mutation.test for mutation in mutations})
        unchanged = run_tests(copy.parent, tests)
        if not tests or unchanged.returncode != TESTS_PASSED or "skipped" in unchanged.stdout:
            print(unchanged.stdout[-2000:])
            print("all tests must run and pass without a mistake; no mistake was tried")
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
