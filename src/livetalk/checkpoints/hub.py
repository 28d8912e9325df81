"""Download of published models from the Hugging Face hub or a mirror, resumable and checked by hash."""

import contextlib
import hashlib
import importlib
import shutil
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

from livetalk.checkpoints.layouts import (
    IMAGE_ENCODER_NAME,
    SPEECH_ENCODER_DIR,
    TEXT_ENCODER_NAME,
    TOKENIZER_NAME,
    VAE_NAME,
)
from livetalk.disk import flush_file
from livetalk.errors import InputError, LivetalkError, OutputError, WeightsError

FetchProgress = Callable[[int, int], None]
"""Called with the bytes present so far and the total."""

PART_SUFFIX = ".part"
_CONNECTION_ERRORS = (ConnectionError, TimeoutError, socket.gaierror, ssl.SSLError)
_READ_BYTES = 1 << 22
# File systems need somewhat more space than the sum of the file sizes.
_SPARE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """The files of one repository that a model needs.

    Attributes:
        first_of: alternatives in order of preference; the first that exists is used, and one must exist.
    """

    repo_id: str
    folder: str  # subfolder of the user's folder
    needed: tuple[str, ...]  # file patterns; each must match at least one file
    optional: tuple[str, ...] = ()  # patterns of optional files
    first_of: tuple[str, ...] = ()


MODELS: dict[str, tuple[Repository, ...]] = {
    "flashtalk-14b": (
        Repository(
            repo_id="Soul-AILab/SoulX-FlashTalk-14B",
            folder="SoulX-FlashTalk-14B",
            needed=(
                "config.json",
                "diffusion_pytorch_model*.safetensors",
                VAE_NAME,
                TEXT_ENCODER_NAME,
                IMAGE_ENCODER_NAME,
                f"{TOKENIZER_NAME}/*",
            ),
            optional=("diffusion_pytorch_model*.json", "LICENSE*"),
        ),
        Repository(
            repo_id="TencentGameMate/chinese-wav2vec2-base",
            folder=SPEECH_ENCODER_DIR,
            needed=("config.json",),
            optional=("preprocessor_config.json", "LICENSE*"),
            first_of=("model.safetensors", "pytorch_model.bin"),
        ),
    )
}
"""Models that can be downloaded, by user-facing name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """One file to download."""

    url: str
    path: Path
    num_bytes: int
    sha256: str | None  # hash of a large file; None for files that the repository stores in git
    git_sha1: str | None  # git's blob hash of such a file; None for large files

    @property
    def part_path(self) -> Path:
        """Path of the file while it is incomplete."""
        return self.path.with_name(self.path.name + PART_SUFFIX)

    @property
    def num_present_bytes(self) -> int:
        """Bytes on disk, including those of an interrupted attempt."""
        for path in (self.path, self.part_path):
            if path.is_file():
                return min(path.stat().st_size, self.num_bytes)
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadPlan:
    """The files of a download."""

    directory: Path
    folders: dict[str, str]  # repository ID of each subfolder
    files: tuple[RemoteFile, ...]  # all files, including those that are already complete

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(file.num_bytes for file in self.files)

    @property
    def num_missing_bytes(self) -> int:
        """Bytes still to be downloaded."""
        return sum(file.num_bytes - file.num_present_bytes for file in self.files)

    @property
    def num_free_bytes(self) -> int:
        """Free space on the disk of the destination."""
        return shutil.disk_usage(_existing(self.directory)).free


def plan_download(model: str, directory: Path, *, endpoint: str | None = None) -> DownloadPlan:
    """Query the hub for the files of a model without downloading them.

    `model` is a key of `MODELS`; `endpoint` is the URL of a mirror, None for the hub itself.

    Raises:
        LivetalkError: huggingface_hub is not installed, the hub is unreachable, or a file is missing there.
    """
    hub = _import_hub()
    api = hub.HfApi(endpoint=endpoint)
    files: list[RemoteFile] = []
    for repository in MODELS[model]:
        with _explained(hub, repository.repo_id, api.endpoint):
            info = api.model_info(repository.repo_id, files_metadata=True)
        listed = {sibling.rfilename: sibling for sibling in info.siblings or ()}
        for name in _choose(repository, listed):
            sibling = listed[name]
            # Pinned to a commit: a resumed download must not mix two versions.
            url = hub.hf_hub_url(repository.repo_id, name, revision=info.sha, endpoint=endpoint)
            files.append(
                RemoteFile(
                    url=url,
                    path=directory / repository.folder / name,
                    num_bytes=sibling.size or 0,
                    sha256=None if sibling.lfs is None else sibling.lfs.sha256,
                    git_sha1=sibling.blob_id if sibling.lfs is None else None,
                )
            )
    folders = {repository.folder: repository.repo_id for repository in MODELS[model]}
    return DownloadPlan(directory=directory, folders=folders, files=tuple(files))


def require_disk_space(plan: DownloadPlan) -> None:
    """Raise `OutputError` unless the disk has space for the missing bytes."""
    missing, free = plan.num_missing_bytes, plan.num_free_bytes
    if missing and missing + _SPARE_BYTES > free:
        raise OutputError(
            f"output {plan.directory}: {missing / 1e9:.1f} GB are still to be downloaded, but only "
            f"{free / 1e9:.1f} GB are free; choose another --dir or free disk space"
        )


def fetch(plan: DownloadPlan, progress: FetchProgress | None = None) -> None:
    """Download the missing files of a plan, or resume, and check all of them against the hub's hashes.

    A file gets its final name only when it is complete and its hash is right.

    Raises:
        LivetalkError: huggingface_hub is not installed, or the connection broke; the same call resumes.
        WeightsError: a file has another hash than the hub states; it was removed.
        OutputError: the disk is not writable.
    """
    hub = _import_hub()
    total, num_done = plan.num_bytes, 0

    def tell(num_bytes: int) -> None:
        if progress is not None:
            progress(num_done + num_bytes, total)

    for file in plan.files:
        if not (file.path.is_file() and _has_right_hash(file, file.path)):
            try:
                with _explained(hub, file.path.name, file.url):
                    file.path.parent.mkdir(parents=True, exist_ok=True)
                    _fetch_one(hub, file, tell)
                _keep(file)
            except OSError as error:
                raise OutputError(f"output {file.path}: cannot be written ({error.strerror})") from error
        num_done += file.num_bytes
        tell(0)


def _fetch_one(hub: ModuleType, file: RemoteFile, tell: Callable[[int], None]) -> None:
    """Download the missing end of a file."""
    with file.part_path.open("ab") as stream:
        present = stream.tell()
        if present > file.num_bytes:
            # The partial file belongs to another version of the file.
            stream.truncate(0)
            present = 0
        if present < file.num_bytes or not file.num_bytes:
            hub.file_download.http_get(
                file.url,
                _CountingStream(stream, tell),
                resume_size=present,
                headers=hub.utils.build_hf_headers(),
                expected_size=file.num_bytes,
            )


class _CountingStream:
    """A file that reports its size after each write, with the methods that huggingface_hub uses."""

    def __init__(self, stream: BinaryIO, tell: Callable[[int], None]) -> None:
        self._stream = stream
        self._tell = tell

    def write(self, data: bytes) -> int:
        written = self._stream.write(data)
        self._tell(self._stream.tell())
        return written

    def seek(self, position: int, whence: int = 0) -> int:
        return self._stream.seek(position, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def truncate(self, size: int | None = None) -> int:
        return self._stream.truncate(size)


def _keep(file: RemoteFile) -> None:
    """Rename a complete file to its final name if its hash is right."""
    if not _has_right_hash(file, file.part_path):
        file.part_path.unlink()
        raise WeightsError(
            f"weights {file.path}: the download has another hash than {file.url} states and was removed; "
            "run the command again"
        )
    flush_file(file.part_path)
    file.part_path.replace(file.path)


def _has_right_hash(file: RemoteFile, path: Path) -> bool:
    if path.stat().st_size != file.num_bytes:
        return False
    if file.sha256 is None and file.git_sha1 is None:
        return True
    digest = hashlib.sha256()
    if file.sha256 is None:
        digest = hashlib.sha1(f"blob {file.num_bytes}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest() == (file.sha256 or file.git_sha1)


def _choose(repository: Repository, listed: Iterable[str]) -> list[str]:
    """Return the files of a repository to download, alphabetically; `WeightsError` if some are missing."""
    # A name from the hub must not lead outside the destination.
    names = sorted(name for name in listed if ".." not in Path(name).parts)
    missing = [pattern for pattern in repository.needed if not any(fnmatch(name, pattern) for name in names)]
    alternatives = [name for name in repository.first_of if name in names]
    if repository.first_of and not alternatives:
        missing.append(" or ".join(repository.first_of))
    if missing:
        raise WeightsError(f"repository {repository.repo_id}: has no {', no '.join(missing)}")
    patterns = (*repository.needed, *repository.optional, *alternatives[:1])
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]


def _import_hub() -> ModuleType:
    try:
        hub = importlib.import_module("huggingface_hub")
        importlib.import_module("huggingface_hub.file_download")
    except ImportError as error:
        raise LivetalkError(
            "downloading needs the package huggingface_hub; install it with: pip install 'livetalk[download]'"
        ) from error
    except ValueError as error:
        raise InputError(
            f"huggingface_hub cannot be loaded ({error}); check the environment variables that begin with HF_"
        ) from error
    # Progress is reported through the caller's callback.
    hub.utils.disable_progress_bars()
    return hub


@contextlib.contextmanager
def _explained(hub: ModuleType, what: str, where: str) -> Iterator[None]:
    """Convert errors of the network and of its settings to one line; errors of the disk stay `OSError`.

    Raises:
        InputError: the server cannot be reached, or a proxy or an address is unsuitable.
    """
    http_error = hub.errors.HfHubHTTPError.__bases__[0]
    try:
        yield
    except (http_error, *_CONNECTION_ERRORS) as error:
        raise _unreachable(what, where, error) from error
    except OSError as error:
        if error.errno is None:
            raise _unreachable(what, where, error) from error
        raise
    except Exception as error:
        raise InputError(
            f"download {what}: the settings of the network cannot be used ({_reason(error)}); check the "
            "variables all_proxy, https_proxy, http_proxy, no_proxy, SSL_CERT_FILE and HF_ENDPOINT"
        ) from error


def _unreachable(what: str, where: str, error: BaseException) -> InputError:
    return InputError(
        f"download {what}: {where} is unreachable ({_reason(error)}); check the network, or set HF_ENDPOINT "
        "to a mirror, then run the command again: it resumes"
    )


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
