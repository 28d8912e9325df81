"""`livetalk download`: fetches a published model, continues what broke off, and checks every file."""

import argparse
from pathlib import Path

from livetalk.checkpoints.hub import MODELS, DownloadPlan, fetch, plan_download, require_room
from livetalk.cli.byte_progress import ByteProgress, describe_bytes
from livetalk.env import huggingface_endpoint


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the sub-command and its options."""
    parser = subparsers.add_parser(
        "download",
        help="fetch a published model",
        description="Fetch a published model. Run it again to continue after a break; HF_ENDPOINT names a "
        "mirror.",
    )
    parser.add_argument("model", choices=sorted(MODELS), help="which model")
    parser.add_argument("--dir", type=Path, default=Path("models"), help="where to (default: models)")
    parser.add_argument("--dry-run", action="store_true", help="only show sizes and free disk")


def run(args: argparse.Namespace) -> int:
    """Show what there is to fetch, refuse when the disk is too small, fetch, and say how to go on.

    Raises:
        LivetalkError: the hub cannot be reached, the disk is too small, or a file arrived damaged.
    """
    plan = plan_download(args.model, args.dir, endpoint=huggingface_endpoint())
    _show(plan)
    require_room(plan)
    if args.dry_run:
        return 0
    with ByteProgress(f"fetching {args.model}") as progress:
        fetch(plan, progress)
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
        f"to fetch: {describe_bytes(plan.num_missing_bytes)} of {describe_bytes(plan.num_bytes)}; "
        f"free on that disk: {describe_bytes(plan.num_free_bytes)}"
    )
