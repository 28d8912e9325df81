"""Logging: library modules only get loggers; programs configure them here."""

import logging
import sys

ROOT_NAME = "livetalk"


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module, given its `__name__`."""
    return logging.getLogger(name)


def configure_logging(level: int = logging.INFO) -> None:
    """Send the package's messages from `level` up to standard error, one line each; for programs only."""
    logger = logging.getLogger(ROOT_NAME)
    logger.setLevel(level)
    logger.handlers.clear()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.propagate = False
