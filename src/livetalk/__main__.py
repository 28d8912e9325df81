"""Entry point of `python -m livetalk`."""

import sys

from livetalk.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
