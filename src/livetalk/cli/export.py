"""`livetalk export`: convert a published model to this package's format, which loads faster."""

import argparse
import shutil
from pathlib import Path

from torch import nn

from livetalk.checkpoints.export import ModelExport
from livetalk.checkpoints.layouts import Layout, find_published, recognise_layout
from livetalk.checkpoints.manifest import read_manifest, verify_files
from livetalk.checkpoints.published import PartName
from livetalk.cli.byte_progress import ByteProgress, describe_bytes
from livetalk.errors import InputError, OutputError
from livetalk.media.files import PendingFolder, require_output_folder
from livetalk.ops.low_precision import ByteFormat
from livetalk.placement.linear import quantize_linears

STORAGES = ("bfloat16", "float8", "int8")
VERSION = "published"
# File systems need somewhat more space than the sum of the file sizes.
_SPARE_BYTES = 64 << 20


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        "export",
        help="write a published model in livetalk's own format",
        description="Write a published model in livetalk's own format: one folder with only the weights that "
        "are used, optionally with the transformer's linear layers quantized to one byte per weight. --model "
        "accepts it like the original.",
    )
    parser.add_argument("model_dir", type=Path, help="folder of the published model")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("output", type=Path, nargs="?", help="folder to create")
    target.add_argument(
        "--check", action="store_true", help="only compare every file of an earlier export with its hash"
    )
    parser.add_argument(
        "--storage",
        choices=STORAGES,
        default="bfloat16",
        help="of the transformer's linear layers (default: bfloat16, which is lossless)",
    )
    parser.add_argument("--wav2vec-dir", type=Path, help="speech encoder (default: found beside the model)")
    parser.add_argument("--infinitetalk", type=Path, help="audio weights to add to a base model")


def run(args: argparse.Namespace) -> int:
    """Write the export, after checking everything that can be checked without reading weights; return 0.

    Raises:
        WeightsError: the model is incomplete, damaged or inconsistent.
        InputError: the model already has this package's format.
        OutputError: the folder exists, or the disk is too small.
    """
    if args.check:
        return _check(args.model_dir)
    if recognise_layout(args.model_dir) is not Layout.PUBLISHED:
        raise InputError(f"model {args.model_dir}: is already in livetalk's own format")
    files = find_published(args.model_dir, wav2vec_dir=args.wav2vec_dir, infinitetalk=args.infinitetalk)
    byte_format: ByteFormat | None = None if args.storage == "bfloat16" else args.storage

    def prepare(part: PartName, network: nn.Module) -> None:
        if part == "dit" and byte_format is not None:
            quantize_linears(network, byte_format)

    export = ModelExport(files, prepare)
    title = f"exporting {files.name} in {args.storage}"
    parent = args.output.absolute().parent
    if not parent.is_dir():
        raise OutputError(f"output {args.output}: the folder {parent} does not exist; create it first")
    require_output_folder(args.output)
    _require_space(args.output, export.num_bytes)
    with PendingFolder(args.output) as pending, ByteProgress(title) as progress:
        manifest = export.write(pending.path, version=VERSION, progress=progress)
        written = pending.keep()
    size = sum(record.num_bytes for record in manifest.files.values())
    print(f"{written}: {files.name}, {len(manifest.files)} files, {describe_bytes(size)}")
    return 0


def _check(model_dir: Path) -> int:
    manifest = read_manifest(model_dir)
    verify_files(model_dir, manifest)
    print(f"{model_dir}: {manifest.name}, all {len(manifest.files)} files have the right hash")
    return 0


def _require_space(output: Path, num_bytes: int) -> None:
    # An empty folder that exists may be a disk of its own.
    free = shutil.disk_usage(output if output.is_dir() else output.absolute().parent).free
    if free < num_bytes + _SPARE_BYTES:
        raise OutputError(
            f"output {output}: needs {describe_bytes(num_bytes)}, but only {describe_bytes(free)} are free"
        )
