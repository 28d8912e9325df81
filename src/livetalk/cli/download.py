"""`livetalk download`: download a published model, resumable and checked by hash."""

import argparse
from pathlib import Path

from livetalk.checkpoints.hub import MODELS, DownloadPlan, fetch, plan_download, require_disk_space
from livetalk.cli.byte_progress import ByteProgress, describe_bytes
from livetalk.env import huggingface_endpoint


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        "download",
        help="download a published model",
        description="Download a published model. Run it again to resume an interrupted download; HF_ENDPOINT "
        "names a mirror.",
    )
    parser.add_argument("model", choices=sorted(MODELS), help="name of the model")
    parser.add_argument("--dir", type=Path, default=Path("models"), help="destination (default: models)")
    parser.add_argument("--dry-run", action="store_true", help="only show sizes and free disk")


def run(args: argparse.Namespace) -> int:
    """Show sizes, check the free disk space, download, and print the next command.

    Raises:
        LivetalkError: the hub cannot be reached, the disk is too small, or a file is damaged.
    """
    plan = plan_download(args.model, args.dir, endpoint=huggingface_endpoint())
    _show(plan)
    require_disk_space(plan)
    if args.dry_run:
        return 0
    with ByteProgress(f"downloading {args.model}") as progress:
        fetch(plan, progress)
    # The first repository is the model; the others are its encoders.
    model = next(iter(plan.folders))
    print(f"{args.dir}: complete, all hashes are right")
    print(f"next: livetalk generate --model {args.dir / model} --image face.png --audio voice.wav -o out.mp4")
    return 0


def _show(plan: DownloadPlan) -> None:
    for folder, repo_id in plan.folders.items():
        files = [file for file in plan.files if file.path.is_relative_to(plan.directory / folder)]
        size = describe_bytes(sum(file.num_bytes for file in files))
        print(f"{plan.directory / folder}: {len(files)} files, {size} (from {repo_id})")
    print(
        f"to download: {describe_bytes(plan.num_missing_bytes)} of {describe_bytes(plan.num_bytes)}; "
        f"free on that disk: {describe_bytes(plan.num_free_bytes)}"
    )
