"""Optional packages of the `eval` extra, imported only by the measures that need them."""

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

from livetalk.errors import LivetalkError


def import_extra(name: str) -> ModuleType:
    """Import a module of the `eval` extra, such as `mediapipe`.

    Raises:
        LivetalkError: the package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise LivetalkError(_explain(name)) from error


def locate_extra(name: str) -> Path:
    """Return the folder of a package of the `eval` extra without importing it.

    Raises:
        LivetalkError: the package is not installed.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise LivetalkError(_explain(name))
    return Path(next(iter(spec.submodule_search_locations)))


def _explain(name: str) -> str:
    return f"livetalk evaluate needs the package {name}: pip install 'livetalk[eval]'"
