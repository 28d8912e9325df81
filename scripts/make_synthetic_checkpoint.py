"""Write a complete checkpoint of random weights in a published layout; the tests' own maker does the work.

python scripts/make_synthetic_checkpoint.py OUT --size tiny --speech-format bin
"""

import subprocess
import sys
from pathlib import Path

MAKER = Path(__file__).resolve().parent.parent / "tests" / "synthetic_checkpoint.py"

if __name__ == "__main__":
    # The maker imports its neighbours, which a Python started on its file finds and this one does not.
    sys.exit(subprocess.run([sys.executable, str(MAKER), *sys.argv[1:]], check=False).returncode)
