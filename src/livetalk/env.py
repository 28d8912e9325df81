"""The only reader of the environment: switches for debugging, none of which changes a result."""

import os


def debug_enabled() -> bool:
    """Tell whether LIVETALK_DEBUG asks for tracebacks instead of one-line errors."""
    return os.environ.get("LIVETALK_DEBUG", "") not in ("", "0")
