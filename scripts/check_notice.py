"""Check that NOTICE lists every shipped asset and weight with its correct sha256.

NOTICE is plain text with one stanza per origin. A stanza has `Files:` (a pattern), `Source:`, `Licence:` and
one indented `<sha256>  <path>` line per file. `--write` updates those lines from the files; the other text is
written by hand.

Usage: python scripts/check_notice.py [--write]
"""

import argparse
import hashlib
import re
import sys
from fnmatch import fnmatch
from pathlib import Path

SHIPPED = ("src/livetalk/assets", "src/livetalk/weights")
# Code, caches and documentation beside the data are not assets.
NOT_ASSETS = ("*.py", "*.pyc", "*.md")
HASH_LINE = re.compile(r"^  ([0-9a-f]{64})  (\S.*)$")
REQUIRED = ("Source", "Licence")


def find_shipped(root: Path) -> dict[str, str]:
    """Map the path of each shipped file, relative to `root`, to its sha256."""
    found = {}
    for folder in SHIPPED:
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and not any(fnmatch(path.name, pattern) for pattern in NOT_ASSETS):
                found[path.relative_to(root).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def find_pattern(path: str, patterns: list[str]) -> str | None:
    """Return the longest, hence most specific, pattern that matches `path`."""
    return max((pattern for pattern in patterns if fnmatch(path, pattern)), key=len, default=None)


def list_patterns(notice: str) -> list[str]:
    """Return the `Files:` pattern of each stanza."""
    return [line.removeprefix("Files:").strip() for line in notice.splitlines() if line.startswith("Files:")]


def rewrite(notice: str, shipped: dict[str, str]) -> str:
    """Return NOTICE with the hash lines of every stanza replaced by those of `shipped`."""
    patterns = list_patterns(notice)
    lines = [line for line in notice.splitlines() if not HASH_LINE.match(line)]
    written: list[str] = []
    pattern: str | None = None
    for line in [*lines, ""]:
        if line.startswith("Files:"):
            pattern = line.removeprefix("Files:").strip()
        elif not line.strip() and pattern is not None:
            mine = [path for path in shipped if find_pattern(path, patterns) == pattern]
            written += [f"  {shipped[path]}  {path}" for path in mine]
            pattern = None
        written.append(line)
    return "\n".join(written).rstrip("\n") + "\n"


def find_faults(notice: str, shipped: dict[str, str]) -> list[str]:
    """Return a line for each missing, wrong or obsolete file entry and each incomplete stanza of NOTICE."""
    matches = [match for line in notice.splitlines() if (match := HASH_LINE.match(line))]
    listed = {match[2]: match[1] for match in matches}
    patterns = list_patterns(notice)
    faults = []
    for path, digest in shipped.items():
        if find_pattern(path, patterns) is None:
            faults.append(f"{path}: no stanza of NOTICE covers it; write one with its source and licence")
        elif path not in listed:
            faults.append(f"{path}: not listed in NOTICE; run scripts/check_notice.py --write")
        elif listed[path] != digest:
            faults.append(f"{path}: NOTICE has {listed[path][:12]}.., the file has {digest[:12]}..")
    faults += [
        f"{path}: listed in NOTICE, but the file does not exist" for path in listed if path not in shipped
    ]
    for stanza in re.split(r"\n\s*\n", notice):
        if stanza.startswith("Files:"):
            missing = [key for key in REQUIRED if f"\n{key}:" not in stanza]
            faults += [f"{stanza.splitlines()[0]}: the stanza has no `{key}:` line" for key in missing]
    return faults


def main() -> int:
    """Check or update NOTICE; return 1 if there is a fault."""
    parser = argparse.ArgumentParser(description="Check the hashes in NOTICE.")
    parser.add_argument("--write", action="store_true", help="rewrite the hash lines from the files")
    write = parser.parse_args().write
    root = Path(__file__).resolve().parent.parent
    path = root / "NOTICE"
    shipped = find_shipped(root)
    notice = path.read_text(encoding="utf-8")
    if write:
        notice = rewrite(notice, shipped)
        path.write_text(notice, encoding="utf-8")
    faults = find_faults(notice, shipped)
    print("\n".join(faults) if faults else f"NOTICE lists all {len(shipped)} shipped files")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
