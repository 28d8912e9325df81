"""livetalk: one portrait and a live voice in, a talking avatar out."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from livetalk.avatar import Avatar, GenerateResult
    from livetalk.types import VideoChunk

__version__ = "0.1.0"

__all__ = ["Avatar", "GenerateResult", "VideoChunk", "__version__"]

_HOMES = {
    "Avatar": "livetalk.avatar",
    "GenerateResult": "livetalk.avatar",
    "VideoChunk": "livetalk.types",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that `import livetalk` itself does no work."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
