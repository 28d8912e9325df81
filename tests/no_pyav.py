"""A program's first lines where PyAV shall not be installed."""

BLOCK_PYAV = """
import sys


class NoPyAV:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "av":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, NoPyAV())
"""
