"""Errors a user can act on: one line that says what is wrong, where, and what to do."""


class LivetalkError(Exception):
    """Base of every error that the command line prints as one plain line.

    The message names the thing (file, option, value), what is wrong with it and what to do next.
    """


class InputError(LivetalkError):
    """The user's image, audio, video or option cannot be used."""


class OutputError(LivetalkError):
    """The result cannot be written (permission, full disk, existing directory)."""


class WeightsError(LivetalkError):
    """A checkpoint is missing, corrupted or does not fit the network."""


class WorkerError(LivetalkError):
    """A worker process ended that should not have."""


class PeerLostError(Exception):
    """Another worker of the group has gone. Whoever started the workers knows which, and why."""


class StreamError(LivetalkError):
    """A stream of an engine has failed; the others go on."""


class EngineStoppedError(LivetalkError):
    """The engine has stopped, and with it all of its streams."""
