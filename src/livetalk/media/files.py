"""Checks of files that a user names, and results that appear only when complete."""

import contextlib
import errno
import itertools
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from livetalk.disk import flush_file, try_lock
from livetalk.errors import InputError, OutputError
from livetalk.log import get_logger

_log = get_logger(__name__)

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


def require_output_file(path: str | os.PathLike[str], suffix: str = "", *, overwrite: bool = False) -> Path:
    """Return the path of a result after creating and renaming a trial file there, which is removed.

    The folder of `path` need not exist yet. `suffix` is the required ending of the name, such as ".mp4";
    empty allows all.

    Raises:
        OutputError: the path is a directory, has another suffix or exists already without `overwrite`, or
            its folder is not writable.
    """
    file = Path(path)
    if suffix and file.suffix.lower() != suffix:
        raise OutputError(f"output {file}: the name must end with {suffix}")
    try:
        if file.is_dir():
            raise OutputError(f"output {file}: is a directory, name a {suffix or 'new'} file")
        if os.path.lexists(file) and not overwrite:
            raise OutputError(f"output {file}: already exists; choose another name or add --overwrite")
        _try_writing(file)
    except OSError as error:
        raise OutputError(f"output {file}: cannot be written ({explain(error)})") from error
    return file


def require_output_folder(path: str | os.PathLike[str]) -> Path:
    """Return the path of a folder to be made, which does not exist yet or is empty.

    Raises:
        OutputError: the folder holds something, is a file, or cannot be written.
    """
    folder = Path(path)
    try:
        if os.path.lexists(folder) and (not folder.is_dir() or _holds_something(folder)):
            raise OutputError(f"output {folder}: already exists; choose another name")
        _try_writing(folder / "file")
    except OSError as error:
        raise OutputError(f"output {folder}: cannot be written ({explain(error)})") from error
    return folder


def free_name(path: Path) -> Path:
    """Return the path itself, or with a number added to its name: the first that is not taken."""
    return next(name for name in _names(path) if not os.path.lexists(name))


def write_text_file(path: str | os.PathLike[str], text: str, *, overwrite: bool = False) -> Path:
    """Write a result of text in UTF-8, which appears only when it is complete; return its path.

    Raises:
        OutputError: the file cannot be written.
    """
    with PendingFile(path, overwrite=overwrite) as pending:
        pending.path.write_text(text, encoding="utf-8")
        return pending.keep()


class _Pending:
    """A result under construction: hidden beside its name, and removed unless it is kept.

    It is locked as long as its process lives, so that the next run can tell it from a leftover.
    """

    def __init__(self, destination: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Make the folder, remove what dead runs left there, and create the hidden file or folder.

        With `overwrite`, an existing result is replaced at the end. Otherwise the name is taken only if it is
        still free then; if not, a number is added to it and a warning says so.

        Raises:
            OutputError: the folder or the file cannot be created.
        """
        self.destination = Path(destination).absolute()
        self._overwrite = overwrite
        made_folders: list[Path] = []
        try:
            folder = self._home()
            for missing in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
                missing.mkdir(exist_ok=True)
                made_folders.append(missing)
            # A name that no file can have shows now.
            with contextlib.suppress(FileNotFoundError):
                self.destination.lstat()
            remove_leftovers(folder)
            self._descriptor, self.path = _create_locked(lambda: self._create(folder))
        except OSError as error:
            _remove_folders(made_folders)
            raise self.error(error) from error
        # It is also called when the result is forgotten and when the process ends in an ordinary way.
        self._discarding = weakref.finalize(self, _discard, self.path, self._descriptor, made_folders)

    def keep(self, destination: Path | None = None) -> Path:
        """Give the result its name, `destination` or the one it was made for, and return the name it has now.

        Raises:
            OutputError: it cannot be named; it stays where it is, and the message says where.
        """
        wanted = destination or self.destination
        with contextlib.suppress(OSError):
            # Temporary files are private; a result should have the permissions of any new file.
            self.path.chmod(self._permissions & ~_umask())
        try:
            name = self._take_name(wanted)
        except OSError as error:
            # Without the prefix no later run takes it for a leftover; where files cannot be renamed, its
            # permissions tell.
            with contextlib.suppress(OSError):
                self.path = self.path.rename(self.path.with_name(self.path.name.removeprefix(".")))
            self._release()
            raise OutputError(
                f"output {wanted}: cannot be given its name ({explain(error)}); the finished result is "
                f"{self.path}"
            ) from error
        self._release()
        if name != wanted:
            _log.warning("output %s: was taken meanwhile; the result is %s", wanted, name)
        return name

    def discard(self) -> None:
        """Remove what was made so far and the folders that were created for it; once kept, do nothing."""
        self._discarding()

    def error(self, error: OSError) -> OutputError:
        """Return a failure to write as a one-line error for the user."""
        return OutputError(f"output {self.destination}: cannot be written ({explain(error)})")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Discard what was not kept.

        Raises:
            OutputError: the block has failed to write.
        """
        self.discard()
        if isinstance(error, OSError):
            raise self.error(error) from error

    def _release(self) -> None:
        if self._discarding.detach() is not None:
            os.close(self._descriptor)

    def _take_name(self, wanted: Path) -> Path:
        for name in _names(wanted):
            try:
                self._rename(name)
                return name
            except FileExistsError:
                continue
        raise AssertionError("there is always another name")

    _permissions = 0o666

    def _home(self) -> Path:
        return self.destination.parent

    def _create(self, folder: Path) -> tuple[int, str]:
        raise NotImplementedError

    def _rename(self, name: Path) -> None:
        raise NotImplementedError


class PendingFile(_Pending):
    """A file under construction."""

    def _create(self, folder: Path) -> tuple[int, str]:
        return tempfile.mkstemp(prefix=TEMPORARY_PREFIX, suffix=self.destination.suffix, dir=folder)

    def _rename(self, name: Path) -> None:
        """Take a name in one step; raise `FileExistsError` where it is not free and must not be replaced."""
        if self._overwrite:
            self.path.replace(name)
            return
        try:
            os.link(self.path, name)
        except FileExistsError:
            raise
        except OSError:
            self._replace_reservation(name)
        else:
            with contextlib.suppress(OSError):
                self.path.unlink()

    def _replace_reservation(self, name: Path) -> None:
        """Take a name where there are no links: an empty file reserves it, which the result then replaces."""
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            self.path.replace(name)
        except OSError:
            with contextlib.suppress(OSError):
                name.unlink()
            raise


class PendingFolder(_Pending):
    """A folder under construction. Where an empty folder waits for it, its content moves there at the end."""

    _permissions = 0o777

    def _home(self) -> Path:
        # An empty folder may be the root of a file system of its own, to which no folder can be renamed.
        return self.destination if self.destination.is_dir() else self.destination.parent

    def _create(self, folder: Path) -> tuple[int, str]:
        name = tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=folder)
        return os.open(name, os.O_RDONLY), name

    def _rename(self, name: Path) -> None:
        for path in self.path.rglob("*"):
            flush_file(path)
        if name != self.path.parent:
            try:
                self.path.rename(name)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.ENOTDIR):
                    raise FileExistsError(*error.args) from error
                raise
            return
        if _holds_something(name):
            raise FileExistsError(errno.EEXIST, "the folder has been filled meanwhile")
        # The JSON file that makes the folder complete is moved last.
        for path in sorted(self.path.iterdir(), key=lambda path: (path.suffix == ".json", path.name)):
            path.rename(name / path.name)
        self.path.rmdir()


def remove_leftovers(folder: Path) -> None:
    """Remove what runs that were killed have left unfinished in a folder.

    Results of running programs are locked. Finished ones that could not be given their name have the
    permissions of any new file, and stay.
    """
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        # Those of other users, and those that another run removes at the same moment, are not ours to remove.
        with contextlib.suppress(OSError):
            _remove_leftover(path)


def _remove_leftover(path: Path) -> None:
    if path.is_symlink() or path.stat().st_mode & 0o077:
        return
    descriptor = os.open(path, os.O_RDONLY)
    if try_lock(descriptor):
        _discard(path, descriptor, [])
    else:
        os.close(descriptor)


def _create_locked(create: Callable[[], tuple[int, str]]) -> tuple[int, Path]:
    """Create a hidden file or folder, and lock it before another run takes it for a leftover."""
    while True:
        descriptor, name = create()
        if try_lock(descriptor) is not False and os.path.lexists(name):
            return descriptor, Path(name)
        os.close(descriptor)


def _discard(path: Path, descriptor: int, made_folders: list[Path]) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    os.close(descriptor)
    _remove_folders(made_folders)


def _remove_folders(folders: list[Path]) -> None:
    while folders:
        with contextlib.suppress(OSError):
            folders.pop().rmdir()


def _try_writing(file: Path) -> None:
    """Create, rename and remove a file where the given one will be, or in the nearest folder that exists.

    Raises:
        OSError: that is not possible.
    """
    folder = file.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{folder} is not a folder")
    descriptor, trial = _create_locked(lambda: tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=folder))
    try:
        renamed = trial.with_suffix(file.suffix or ".trial")
        trial.rename(renamed)
        trial = renamed
    finally:
        _discard(trial, descriptor, [])


def _holds_something(folder: Path) -> bool:
    return any(not path.name.startswith(TEMPORARY_PREFIX) for path in folder.iterdir())


def _names(path: Path) -> Iterator[Path]:
    """Yield a path, then the same with 2, 3, ... added to its stem."""
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def explain(error: OSError) -> str:
    """Return the reason of an error as plain words, without path and error number."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    if error.errno == errno.EFBIG:
        return "the file would be larger than allowed"
    return (error.strerror or str(error)).lower()
