"""Several commands at the same time, with one end."""

import subprocess
import time


def run_processes(commands: list[list[str]]) -> int:
    """Run commands in parallel until all end or one fails; return the first non-zero exit code or 0."""
    processes = [subprocess.Popen(command) for command in commands]
    try:
        while True:
            codes = [process.poll() for process in processes]
            failed = [code for code in codes if code]
            if failed or all(code == 0 for code in codes):
                return failed[0] if failed else 0
            time.sleep(0.5)
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
        for process in processes:
            process.wait()
