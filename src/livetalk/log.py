"""The only logging set-up; the library itself only ever asks for a logger."""

import logging
import sys

ROOT_NAME = "livetalk"


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module.

    Args:
        name: the module's `__name__`.
    """
    return logging.getLogger(name)


def configure_logging(level: int = logging.INFO) -> None:
    """Send the package's messages to standard error, one line each; for programs, not for libraries.

    Args:
        level: the lowest level shown.
    """
    logger = logging.getLogger(ROOT_NAME)
    logger.setLevel(level)
    logger.handlers.clear()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.propagate = False
