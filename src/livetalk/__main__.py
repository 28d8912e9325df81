"""Entry point of `python -m livetalk`."""

from livetalk.cli.main import run_program

if __name__ == "__main__":
    run_program()
