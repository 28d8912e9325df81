"""Checks of files that a user names, and results that appear only when complete."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from livetalk.errors import InputError, OutputError

TEMPORARY_PREFIX = ".livetalk-"
"""File name prefix of unfinished results."""


def require_input_file(path: str | os.PathLike[str], what: str) -> Path:
    """Return the path of an existing, readable, non-empty regular file.

    `what` names the kind of file in messages, such as "image" or "audio".

    Raises:
        InputError: the file is missing, a directory, empty or not readable.
    """
    file = Path(path)
    try:
        if file.is_dir():
            raise InputError(f"{what} {file}: is a directory, a file is needed")
        if not file.exists():
            raise InputError(f"{what} {file}: no such file")
        if not file.is_file():
            raise InputError(f"{what} {file}: is not a regular file")
        with file.open("rb") as stream:
            if not stream.read(1):
                raise InputError(f"{what} {file}: the file is empty")
    except OSError as error:
        raise InputError(f"{what} {file}: cannot be read ({explain(error)})") from error
    return file


def require_distinct_files(inputs: Iterable[str | os.PathLike[str]], outputs: Iterable[Path]) -> None:
    """Check that no output would replace an input.

    Raises:
        InputError: an output is also an input.
    """
    for output in outputs:
        for source in inputs:
            with contextlib.suppress(OSError):
                if output.exists() and output.samefile(source):
                    raise InputError(f"output {output}: is also an input; choose another name")


def require_output_file(path: str | os.PathLike[str], suffix: str, *, overwrite: bool = False) -> Path:
    """Return the path of a result after checking, without side effects, that it can be written.

    The folder of `path` need not exist yet. `suffix` is the required ending of the name, such as ".mp4".

    Raises:
        OutputError: the path is a directory, has another suffix or exists already without `overwrite`, or its
            folder is not writable.
    """
    file = Path(path)
    if file.suffix.lower() != suffix:
        raise OutputError(f"output {file}: the name must end with {suffix}")
    folder = file.absolute().parent
    try:
        if file.is_dir():
            raise OutputError(f"output {file}: is a directory, name a {suffix} file")
        if file.exists() and not overwrite:
            raise OutputError(f"output {file}: already exists; choose another name or add --overwrite")
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir():
            raise OutputError(f"output {file}: {folder} is not a folder")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"output {file}: cannot be written ({explain(error)})") from error
    return file


class PendingFile:
    """A result under construction: a hidden temporary file that is renamed when it is complete.

    The temporary file is in the destination's folder, so that renaming is atomic. Folders that were created
    for it are removed if it is discarded.
    """

    def __init__(self, destination: str | os.PathLike[str]) -> None:
        """Create the folder and an empty temporary file.

        Raises:
            OutputError: the folder or the file cannot be created.
        """
        self.destination = Path(destination).absolute()
        self._made_folders: list[Path] = []
        try:
            self._make_folders()
            handle, name = tempfile.mkstemp(
                prefix=TEMPORARY_PREFIX, suffix=self.destination.suffix, dir=self.destination.parent
            )
        except OSError as error:
            self._remove_folders()
            raise self.error(error) from error
        os.close(handle)
        self.path = Path(name)

    def keep(self, destination: Path | None = None) -> Path:
        """Rename the file to `destination` (default: the path given at creation), in the same folder.

        Raises:
            OutputError: the file cannot be renamed; it is removed.
        """
        target = destination or self.destination
        try:
            # mkstemp creates private files; a result should have the permissions of any new file.
            umask = os.umask(0)
            os.umask(umask)
            self.path.chmod(0o666 & ~umask)
            self.path.replace(target)
        except OSError as error:
            self.discard()
            raise self.error(error) from error
        return target

    def discard(self) -> None:
        """Remove the temporary file and the folders that were created for it."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
        self._remove_folders()

    def error(self, error: OSError) -> OutputError:
        """Return a failure to write as a one-line error for the user."""
        return OutputError(f"output {self.destination}: cannot be written ({explain(error)})")

    def _make_folders(self) -> None:
        missing = [
            folder
            for folder in (self.destination.parent, *self.destination.parent.parents)
            if not folder.exists()
        ]
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            self._made_folders.append(folder)

    def _remove_folders(self) -> None:
        while self._made_folders:
            with contextlib.suppress(OSError):
                self._made_folders.pop().rmdir()


def explain(error: OSError) -> str:
    """Return the reason of an error as plain words, without path and error number."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    if error.errno == errno.EFBIG:
        return "the file would be larger than allowed"
    return (error.strerror or str(error)).lower()
