"""Optional packages of the `eval` extra, imported only by the measures that need them."""

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

from livetalk.errors import LivetalkError


def import_extra(name: str) -> ModuleType:
    """Import a module of the `eval` extra, such as `mediapipe`; `LivetalkError` if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise LivetalkError(_explain(name)) from error


def locate_extra(name: str) -> Path:
    """Return the folder of a package of the `eval` extra without importing it; `LivetalkError` if absent."""
    # Importing face_recognition_models needs an old setuptools, and only its data files are used.
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise LivetalkError(_explain(name))
    return Path(next(iter(spec.submodule_search_locations)))


def _explain(name: str) -> str:
    return f"livetalk evaluate needs the package {name}: pip install 'livetalk[eval]'"
