"""Fit the lip probe of `livetalk evaluate --probe` on a speech corpus, and score it.

The truth is the lip opening of the mesh, which needs no rendering, so a CPU takes minutes. The last clips of
the corpus are held out of the fit and scored.

Usage: python scripts/fit_lip_probe.py CORPUS PROBE.npz [--clips 300] [--held-out 40] [--seed 1]
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from livetalk.evaluation.probe import LipProbe, Pair
from livetalk.evaluation.speech import ENCODER_PATH
from livetalk.evaluation.statistics import correlate
from livetalk.models.audio_encoder import load_speech_encoder
from livetalk.synthetic.people.identity import sample_identity
from livetalk.synthetic.rendering.renderer import Renderer
from livetalk.synthetic.speech.corpus import Corpus, load_corpus

SILENT = "silence"


class PairMaker:
    """Computes features and lip opening of corpus clips, on one head: the probe normalises clips."""

    def __init__(self, corpus: Corpus, seed: int) -> None:
        """Prepare the head and the speech encoder."""
        self.corpus = corpus
        self.seed = seed
        self._encoder = load_speech_encoder(ENCODER_PATH)
        self._renderer = Renderer("cpu", resolution=64)
        self._subject = self._renderer.prepare(sample_identity(seed))

    def make(self, clips: Iterable[int]) -> Iterator[Pair]:
        """Yield features [F, D] and lip opening [F] of clips that contain speech."""
        for clip in clips:
            if self.corpus.info(clip).source != SILENT:
                variant = (clip * 7 + self.seed) % self.corpus.num_variants(clip)
                yield self._features(clip, variant), self._opening(clip)

    def _features(self, clip: int, variant: int) -> NDArray[np.float32]:
        log_mel = self.corpus.log_mel(clip, variant)
        with torch.inference_mode():
            features: NDArray[np.float32] = self._encoder.encode_log_mel(log_mel[None])[0].flatten(1).numpy()
        return features

    def _opening(self, clip: int) -> NDArray[np.float64]:
        performance = self.corpus.performance(clip, self.seed * 100_000 + clip)
        return self._renderer.lip_opening(self._subject, performance).astype(np.float64)


def main() -> int:
    """Fit, score, save."""
    parser = argparse.ArgumentParser(description="Fit the lip probe on a speech corpus.")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("probe", type=Path, help="NPZ to write")
    parser.add_argument("--clips", type=int, default=300, help="clips to fit on (default: 300)")
    parser.add_argument("--held-out", type=int, default=40, help="last clips, scored only (default: 40)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--penalty", type=float, default=1e3, help="ridge penalty")
    args = parser.parse_args()
    maker = PairMaker(load_corpus(args.corpus), args.seed)
    num_clips = maker.corpus.num_clips
    order = np.random.default_rng(args.seed).permutation(num_clips - args.held_out)
    probe = LipProbe.fit(maker.make(int(clip) for clip in order[: args.clips]), penalty=args.penalty)
    scores = [
        correlate(probe.predict(features), opening)
        for features, opening in maker.make(range(num_clips - args.held_out, num_clips))
    ]
    quartiles = np.nanpercentile(scores, [25, 50, 75])
    probe.save(args.probe)
    print(f"held-out correlation over {len(scores)} clips: quartiles {np.round(quartiles, 3).tolist()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
