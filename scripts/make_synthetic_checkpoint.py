"""Write a complete checkpoint of random weights in a published layout, with the program of the tests.

python scripts/make_synthetic_checkpoint.py OUT --size tiny --speech-format bin
"""

import subprocess
import sys
from pathlib import Path

MAKER = Path(__file__).resolve().parent.parent / "tests" / "synthetic_checkpoint.py"

if __name__ == "__main__":
    # The program imports modules of its folder, which only a Python started on its file finds.
    sys.exit(subprocess.run([sys.executable, str(MAKER), *sys.argv[1:]], check=False).returncode)
