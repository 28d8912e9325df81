"""Errors that a user can act on: one line that says what is wrong, where, and what to do."""

import lzma
import zipfile

UNSUITABLE_CONTENT = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError, RecursionError),
    *(zipfile.BadZipFile, lzma.LZMAError),
)
"""What the readers of JSON, NumPy and archives raise for files that are cut, damaged or of another kind."""


class LivetalkError(Exception):
    """Base of all errors that the command line prints as one line.

    The message names the file, option or value, what is wrong with it and what to do next.
    """


class InputError(LivetalkError):
    """The user's image, audio, video or option cannot be used."""


class OutputError(LivetalkError):
    """The result cannot be written (permission, full disk, existing directory)."""


class WeightsError(LivetalkError):
    """A checkpoint is missing, corrupted or does not fit the network."""


class WorkerError(LivetalkError):
    """A worker process ended unexpectedly."""


class PeerLostError(Exception):
    """Another worker of the group ended. The process that started the group knows which one and why."""


class StreamError(LivetalkError):
    """A stream of an engine failed; other streams continue."""


class EngineStoppedError(LivetalkError):
    """The engine has stopped, and all of its streams with it."""
