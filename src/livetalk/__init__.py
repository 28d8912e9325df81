"""livetalk: a portrait and live audio in, a talking avatar out."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from livetalk.accelerate.apply import AccelerationConfig
    from livetalk.assembly.run import RunConfig
    from livetalk.assembly.source import ModelSource
    from livetalk.avatar import Avatar, GenerateResult
    from livetalk.placement.apply import PlacementConfig
    from livetalk.types import VideoChunk

__version__ = "0.1.0"

__all__ = [
    "AccelerationConfig",
    "Avatar",
    "GenerateResult",
    "ModelSource",
    "PlacementConfig",
    "RunConfig",
    "VideoChunk",
    "__version__",
]

_HOMES = {
    "AccelerationConfig": "livetalk.accelerate.apply",
    "Avatar": "livetalk.avatar",
    "GenerateResult": "livetalk.avatar",
    "ModelSource": "livetalk.assembly.source",
    "PlacementConfig": "livetalk.placement.apply",
    "RunConfig": "livetalk.assembly.run",
    "VideoChunk": "livetalk.types",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that `import livetalk` itself does no work."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
