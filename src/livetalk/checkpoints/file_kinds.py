"""What a file is that was taken for weights or a configuration, from its first bytes."""

import json
from pathlib import Path

_FIRST_BYTES = 4096
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "is a pointer of git-LFS, not the file itself; run git lfs pull there"),
    (b"GGUF", "is a GGUF file, which cannot be read; use the original safetensors or PyTorch files"),
    (b"\x89HDF", "is an HDF5 file, which cannot be read; use the safetensors or PyTorch files"),
    (b"\x93NUMPY", "is a NumPy file, which cannot be read; use the safetensors or PyTorch files"),
    (b"\x1f\x8b", "is a gzip archive; unpack it"),
    (b"\xfd7zXZ", "is an xz archive; unpack it"),
    (b"7z\xbc\xaf", "is a 7z archive; unpack it"),
    (b"Rar!", "is a RAR archive; unpack it"),
)


def recognise_file(path: Path) -> str | None:
    """Return what a file is and what to do, such as "is a gzip archive; unpack it"; None if unknown."""
    try:
        with path.open("rb") as stream:
            start = stream.read(_FIRST_BYTES)
    except OSError:
        return None
    for signature, meaning in _SIGNATURES:
        if start.startswith(signature):
            return meaning
    if not start.strip(b"\0"):
        return "begins with zeros only, as an unfinished download does; download it again" if start else None
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is a web page, perhaps of an error or a login; download the file again"
    if text.startswith((b"{", b"[")) and path.suffix != ".json":
        return "is text in JSON, perhaps the error of a server; download the file again"
    return None


def is_safetensors(path: Path) -> bool:
    """Return whether a file is of safetensors, by its first bytes, or by its name if they say nothing."""
    with path.open("rb") as stream:
        start = stream.read(9)
    if start[8:9] == b"{":
        return True
    # A zip archive and a pickle, the two forms of `torch.save`.
    return path.suffix == ".safetensors" and not start.startswith((b"PK\x03\x04", b"\x80\x02"))


def missing_bytes(path: Path) -> int:
    """Return how many bytes a safetensors file lacks at its end, according to its header; 0 if unknown."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            present = path.stat().st_size
            if length > present - 8:
                return 0
            header = json.loads(stream.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return max(0, 8 + length + max(ends, default=0) - present)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return 0
