"""`livetalk evaluate`: measure one video, or all videos of a manifest."""

import argparse
import json
import sys
from pathlib import Path

from livetalk.errors import InputError
from livetalk.evaluation.clip import ClipInputs
from livetalk.evaluation.landmarks import FaceLandmarker
from livetalk.evaluation.measures.seams import CHUNK_FRAMES
from livetalk.evaluation.probe import SHIPPED_PROBE, LipProbe
from livetalk.evaluation.recognition import FaceEmbedder
from livetalk.evaluation.report import clip_to_json, format_clip, format_suite, suite_to_json
from livetalk.evaluation.suite import ClipResult, load_manifest, measure_clip, measure_suite
from livetalk.evaluation.tracking import Instruments
from livetalk.media.files import require_output_file, write_text_file

_KNOWLEDGE = ("truth", "reference_video", "audio", "events", "transcript", "portrait")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        "evaluate",
        help="measure a generated video",
        description="Measure lip sync against a truth or the audio, identity, seams, silence and sharpness.",
    )
    parser.add_argument(
        "video", type=Path, help="a video; or a manifest (JSON, or a folder with manifest.json) of many"
    )
    parser.add_argument("--truth", type=Path, help="NPY file with the true lip opening of each frame")
    parser.add_argument("--reference-video", type=Path, help="the same performance, rendered or filmed")
    parser.add_argument("--audio", type=Path, help="the driving audio (default: that of the video)")
    parser.add_argument("--events", type=Path, help="JSON file of phones with their times, for lip closures")
    parser.add_argument("--transcript", help="the spoken words, aligned to the audio if there are no events")
    parser.add_argument("--portrait", type=Path, help="image of the person (default: first frame)")
    parser.add_argument(
        "--probe",
        type=Path,
        nargs="?",
        const=SHIPPED_PROBE,
        help="predict the truth from the audio (default file: the probe in the package)",
    )
    parser.add_argument("--no-identity", action="store_true", help="leave out the slow identity measures")
    parser.add_argument("--chunk-frames", type=int, default=CHUNK_FRAMES, help="new frames per chunk")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the measures to this file")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file of measures")


def run(args: argparse.Namespace) -> int:
    """Measure, print a table and write JSON on request; return 1 if a video of a manifest failed."""
    if args.chunk_frames < 1:
        raise InputError(f"--chunk-frames {args.chunk_frames}: must be at least 1")
    if args.json is not None:
        require_output_file(args.json, ".json", overwrite=args.overwrite)
    probe = LipProbe.load(args.probe) if args.probe is not None else None
    with FaceLandmarker() as landmarker:
        instruments = Instruments(landmarker, None if args.no_identity else FaceEmbedder())
        if args.video.is_dir() or args.video.suffix == ".json":
            content = _measure_many(args, instruments, probe)
        else:
            content = _measure_one(args, instruments, probe)
    if args.json is not None:
        write_text_file(args.json, json.dumps(content, indent=2) + "\n", overwrite=args.overwrite)
    # A median over fewer videos is not comparable, so scripts must notice.
    return 1 if content.get("failures") else 0


def _measure_one(
    args: argparse.Namespace, instruments: Instruments, probe: LipProbe | None
) -> dict[str, object]:
    known = {key: getattr(args, key) for key in _KNOWLEDGE}
    inputs = ClipInputs(name=args.video.stem, video=args.video, **known)
    result = measure_clip(inputs, instruments, probe, args.chunk_frames)
    print(format_clip(result))
    return clip_to_json(result)


def _measure_many(
    args: argparse.Namespace, instruments: Instruments, probe: LipProbe | None
) -> dict[str, object]:
    # One truth or transcript cannot belong to many videos.
    given = [key for key in _KNOWLEDGE if getattr(args, key) is not None]
    if given:
        raise InputError(f"--{given[0].replace('_', '-')}: for a manifest, set it in the manifest's entries")
    suite = measure_suite(load_manifest(args.video), instruments, probe, args.chunk_frames, _report_progress)
    print(format_suite(suite))
    return suite_to_json(suite)


def _report_progress(result: ClipResult) -> None:
    print(f"{result.inputs.name}: correlation {result.values['correlation']:.2f}", file=sys.stderr)
