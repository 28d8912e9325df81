"""The kinds of inputs and endings that users reported as mishandled, and the form of a case."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

KINDS = {
    "printing": "a result is made whatever becomes of stdout and stderr",
    "last step": "a finished result is never thrown away",
    "endings": "every end that can be caught leaves a partial result or nothing",
    "names": "nothing is replaced without --overwrite",
    "audio times": "silence where the container says that nothing was recorded",
    "tracks": "the track that a player would play",
    "decoration": "tags and EXIF never decide about content",
    "channels": "a voice is kept whatever the other channels hold",
    "one mix": "the audio that drives the lips is the audio that is written",
    "counted": "messages tell what was written, not what was planned",
    "clocks": "curves of different frame rates are compared by time",
    "one reader": "every command reads a file in the same way",
    "weights": "weights that cannot work are named before they are used",
    "absence": "no conclusion is drawn from names that are missing",
    "colours": "pictures are shown in the colours of their profile",
    "limits": "the memory and cores that this process may use",
    "types": "samples and pictures of every type are scaled or refused",
    "environment": "environment variables that are empty or nonsense",
    "libraries": "errors of other libraries become one line",
    "waiting": "no command waits for ever without a word",
    "state": "files of a run survive a power cut or are named",
    "faces": "a face is found or the picture is refused",
    "phones": "formats of phones are named and used where possible",
}
"""What holds for each kind."""


@dataclass(frozen=True)
class Case:
    """One reported example, or one of ours of the same kind.

    Attributes:
        kind: key of `KINDS`.
        name: what is odd about this example.
        check: makes its small input in an empty folder and asserts the right result.
    """

    kind: str
    name: str
    check: Callable[[Path, pytest.MonkeyPatch], None]
