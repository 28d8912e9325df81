"""`livetalk data speech`: synthesise the speech corpus for training."""

import argparse
import sys
from pathlib import Path

from livetalk.media.files import PendingFolder, require_output_folder
from livetalk.synthetic.speech.corpus import save_corpus
from livetalk.synthetic.speech.corpus_builder import CorpusBuilder
from livetalk.synthetic.speech.synthesis import FliteSynthesiser, HibariSynthesiser, Synthesiser

SHARES = {"hibari": 0.74, "flite-slt": 0.14, "flite-rms": 0.12}
"""Share of clips per synthesiser; flite's other voices are kept for evaluation."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser("data", help="create training data")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    speech = kinds.add_parser("speech", help="synthesised speech with timed phonemes")
    speech.add_argument("--out", type=Path, required=True, help="new or empty folder")
    speech.add_argument("--clips", type=int, default=1300, help="clips of 8 s (default: 1300)")
    speech.add_argument("--seed", type=int, default=0, help="equal seeds give equal corpora (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Synthesise a corpus; return 0.

    Raises:
        OutputError: the folder is not empty, or cannot be written.
        InputError: a synthesiser is missing.
    """
    require_output_folder(args.out)
    # Several synthesisers, so that a network does not learn the artefacts of one.
    synthesisers: dict[str, Synthesiser] = {
        "hibari": HibariSynthesiser(),
        "flite-slt": FliteSynthesiser("slt"),
        "flite-rms": FliteSynthesiser("rms"),
    }
    builder = CorpusBuilder(synthesisers, SHARES, args.seed)

    def report(done: int) -> None:
        if done % 25 == 0 or done == args.clips:
            sys.stderr.write(f"speech: {done} of {args.clips} clips\n")

    clips = builder.build(args.clips, report)
    with PendingFolder(args.out) as pending:
        save_corpus(pending.path, clips, args.seed)
        written = pending.keep()
    sys.stderr.write(f"speech: wrote {written}\n")
    return 0
