"""Compare lips and identity of one model in several configurations, such as FP8, on the same clips.

    python scripts/make_heldout_clips.py render speech heldout
    python benchmarks/float8_quality.py make heldout bfloat16 fp8-fp8reference-bfloat16 --seeds 0 1 2
    livetalk evaluate heldout/bfloat16.json --json bfloat16.json              # for each configuration
    python benchmarks/float8_quality.py compare bfloat16.json fp8.json

`make` generates a video for each clip of `make_heldout_clips.py`, in each configuration (words as for
`livetalk compare-numerics`) and with each seed, and writes a manifest for each configuration. `compare`
prints the scores of two configurations and their difference, beside the difference between two seeds.
"""

# ruff: noqa: T201  a program that measures and prints

import argparse
import json
import math
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from livetalk.assembly.build import load_model
from livetalk.assembly.run import RunConfig
from livetalk.assembly.source import ModelSource
from livetalk.avatar import Avatar
from livetalk.errors import LivetalkError
from livetalk.numerics.configurations import apply_configuration, describe_form, parse_configuration

MEASURES = (
    "correlation",
    "closure_recall",
    "identity_distance",
    "identity_within",
    "seam_ratio",
    "sharpness",
)
KNOWN = {"audio": "voice.wav", "events": "events.json", "truth": "truth.npy", "portrait": "portrait.png"}
KNOWN |= {"reference_video": "reference.mp4"}
SEED_MARK = " seed "


def load(name: str, model: str, base: RunConfig) -> Avatar:
    """Load a model and apply a configuration."""
    configuration = parse_configuration(name, base)
    loaded = load_model(ModelSource(model=model), configuration.run)
    avatar = Avatar(apply_configuration(loaded, configuration))
    print(f"{name}: {describe_form(avatar.model) or 'plain'}", flush=True)
    return avatar


def make(args: argparse.Namespace) -> None:
    """Generate every clip in every configuration with every seed; keep existing videos."""
    base = RunConfig(device=args.device, threads=args.threads)
    folders = sorted(path.parent for path in args.folder.glob("*/portrait.png"))[: args.clips]
    for name in args.configurations:
        avatar, entries = load(name, args.model, base), []
        for folder in folders:
            known = {key: f"{folder.name}/{file}" for key, file in KNOWN.items() if (folder / file).exists()}
            for seed in args.seeds:
                video = folder / f"{name}-{seed}.mp4"
                if not video.exists():
                    avatar.generate(folder / "portrait.png", folder / "voice.wav", video, seed=seed)
                    print(f"{video}: generated", flush=True)
                clip = f"{folder.name}{SEED_MARK}{seed}"
                entries.append({"name": clip, "video": f"{folder.name}/{video.name}", **known})
        (args.folder / f"{name}.json").write_text(json.dumps({"clips": entries}, indent=1), encoding="utf-8")


def read_scores(path: Path) -> dict[str, dict[str, float]]:
    """Return the measures of each clip from the output of `livetalk evaluate --json`."""
    clips = json.loads(path.read_text(encoding="utf-8"))["clips"]
    return {clip["name"]: clip for clip in clips}


def compare(args: argparse.Namespace) -> None:
    """Print a table for each measure: all clips of both files, the mean difference, and that of seeds."""
    first, second = read_scores(args.first), read_scores(args.second)
    for measure in MEASURES:
        pairs = {
            name: (scores[measure], second[name][measure])
            for name, scores in first.items()
            if name in second and None not in (scores[measure], second[name][measure])
        }
        print(f"\n| {measure} | {args.first.stem} | {args.second.stem} | difference |")
        print("| --- | --- | --- | --- |")
        for name, (one, other) in pairs.items():
            print(f"| {name} | {one:.3f} | {other:.3f} | {other - one:+.3f} |")
        differences = [other - one for one, other in pairs.values()]
        print(
            f"mean difference {statistics.mean(differences):+.4f}, standard error "
            f"{statistics.stdev(differences) / len(differences) ** 0.5:.4f}; deviation of a difference "
            f"{root_mean_square(differences):.4f}, of two seeds of a clip {seed_deviation(pairs):.4f}"
        )


def seed_deviation(pairs: dict[str, tuple[float, float]]) -> float:
    """Return the root mean square difference between two seeds of one clip, in the first file."""
    of_clip = defaultdict(list)
    for name, (one, _) in pairs.items():
        of_clip[name.partition(SEED_MARK)[0]].append(one)
    # The difference of two independent draws has twice the variance of one draw.
    return math.sqrt(2 * statistics.mean(statistics.variance(scores) for scores in of_clip.values()))


def root_mean_square(numbers: list[float]) -> float:
    """Return the square root of the mean of squares."""
    return math.sqrt(statistics.mean(number**2 for number in numbers))


def main() -> int:
    """Run; report errors that the user can fix in one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    stages = parser.add_subparsers(required=True)
    maker = stages.add_parser("make", help="generate clips and manifests")
    maker.add_argument("folder", type=Path, help="output of `make_heldout_clips.py render`")
    maker.add_argument("configurations", nargs="+", help="such as bfloat16")
    maker.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    maker.add_argument("--clips", type=int, metavar="N", help="the first N only")
    maker.add_argument("--model", default="embedded")
    maker.add_argument("--device", default="cpu")
    maker.add_argument("--threads", type=int)
    maker.set_defaults(stage=make)
    comparer = stages.add_parser("compare", help="print scores side by side")
    comparer.add_argument("first", type=Path, help="JSON of livetalk evaluate")
    comparer.add_argument("second", type=Path, help="JSON of livetalk evaluate, compared with the first")
    comparer.set_defaults(stage=compare)
    args = parser.parse_args()
    try:
        args.stage(args)
    except LivetalkError as error:
        print(f"float8_quality: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
