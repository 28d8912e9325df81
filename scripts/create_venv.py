"""Create the virtual environment of the Makefile, or report in one line why it is impossible.

Usage: python3 scripts/create_venv.py .venv
"""

import importlib.util
import subprocess
import sys

OLDEST = (3, 11)


def main() -> int:
    """Check the interpreter, then run `python -m venv`; return the exit status."""
    if sys.version_info < OLDEST:
        found = ".".join(str(part) for part in sys.version_info[:3])
        wanted = ".".join(str(part) for part in OLDEST)
        print(f"livetalk needs Python {wanted} or newer, found {found}: try `make PYTHON=python{wanted}`")
        return 1
    # Debian ships the venv module without ensurepip, and `python -m venv` then fails with a long message.
    if importlib.util.find_spec("ensurepip") is None:
        print("This Python has no ensurepip: install its venv package (Debian: python3-venv)")
        return 1
    return subprocess.call([sys.executable, "-m", "venv", sys.argv[1]])


if __name__ == "__main__":
    sys.exit(main())
