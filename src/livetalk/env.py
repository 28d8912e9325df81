"""The only reader of the environment: debugging switches and a mirror, none of which changes a result."""

import os


def debug_enabled() -> bool:
    """Tell whether LIVETALK_DEBUG asks for tracebacks instead of one-line errors."""
    return os.environ.get("LIVETALK_DEBUG", "") not in ("", "0")


def huggingface_endpoint() -> str | None:
    """Return the mirror that HF_ENDPOINT names, without a slash at its end; None for the hub itself."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
