"""Check the length of Python files: a note above 400 lines, a failure above 600.

Ruff checks the lengths of functions and parameter lists, but has no rule for files.
"""

import sys
from pathlib import Path

SOFT_LINES = 400
HARD_LINES = 600
FOLDERS = ("src", "tests", "scripts", "benchmarks", "examples")


def main() -> int:
    """Print every Python file above a limit; return 1 if one is above the hard limit."""
    root = Path(__file__).resolve().parent.parent
    too_long = False
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            if lines > SOFT_LINES:
                too_long |= lines > HARD_LINES
                verdict = "too long" if lines > HARD_LINES else "long"
                print(f"{path.relative_to(root)}: {verdict}, {lines} lines ({SOFT_LINES} / {HARD_LINES})")
    return int(too_long)


if __name__ == "__main__":
    sys.exit(main())
