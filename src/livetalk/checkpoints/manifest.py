"""The manifest of a checkpoint folder: name, configurations, and size and hash of every file."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from livetalk.checkpoints.file_kinds import recognise_file
from livetalk.disk import write_durably
from livetalk.errors import UNSUITABLE_CONTENT, WeightsError

MANIFEST_NAME = "config.json"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """Size and hash (64 hexadecimal digits) of a file."""

    sha256: str
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The content of a checkpoint's `config.json`."""

    name: str
    version: str
    configs: Mapping[str, Any]
    files: Mapping[str, FileRecord]
    format_version: int = FORMAT_VERSION  # of this layout; increased when older readers could not read it


def describe_file(path: Path) -> FileRecord:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileRecord(sha256=digest, num_bytes=path.stat().st_size)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `config.json`, as the last step of saving, so that an incomplete folder is no checkpoint."""
    text = json.dumps(asdict(manifest), indent=2, sort_keys=True)
    write_durably(directory / MANIFEST_NAME, (text + "\n").encode())


def read_manifest(directory: Path) -> Manifest:
    """Read `config.json`.

    Raises:
        WeightsError: the folder or the file is missing, damaged or of another format version.
    """
    path = directory / MANIFEST_NAME
    if not path.is_file():
        raise WeightsError(
            f"weights {directory}: no {MANIFEST_NAME} there, so it is not a livetalk checkpoint"
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format_version"] != FORMAT_VERSION:
            raise WeightsError(
                f"weights {path}: format {data['format_version']} cannot be read by this version of livetalk"
            )
        if data.keys() != {field.name for field in fields(Manifest)}:
            raise WeightsError(f"weights {path}: is not the manifest of a livetalk checkpoint")
        data["files"] = {name: FileRecord(**record) for name, record in data["files"].items()}
        return Manifest(**data)
    except UNSUITABLE_CONTENT as error:
        raise WeightsError(f"weights {path}: {recognise_file(path) or f'is damaged ({error})'}") from error


def verify_files(directory: Path, manifest: Manifest) -> None:
    """Raise `WeightsError` where a file is missing or has another hash than recorded."""
    for name, expected in manifest.files.items():
        path = directory / name
        if not path.is_file():
            raise WeightsError(f"weights {path}: no such file; install the model again")
        found = describe_file(path)
        if found != expected and (kind := recognise_file(path)) is not None:
            raise WeightsError(f"weights {path}: {kind}")
        if found != expected:
            raise WeightsError(
                f"weights {path}: damaged, sha256 is {found.sha256} ({found.num_bytes} bytes) but should be "
                f"{expected.sha256} ({expected.num_bytes} bytes); install the model again"
            )


def verify_sizes(directory: Path, manifest: Manifest) -> None:
    """Raise `WeightsError` where files are missing or have another size, without reading them."""
    problems = []
    for name, expected in manifest.files.items():
        path = directory / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif path.stat().st_size != expected.num_bytes and (kind := recognise_file(path)) is not None:
            problems.append(f"{name} {kind}")
        elif path.stat().st_size != expected.num_bytes:
            problems.append(f"{name} has {path.stat().st_size} bytes instead of {expected.num_bytes}")
    if problems:
        raise WeightsError(f"weights {directory}: {'; '.join(problems)}; export or copy the model again")
