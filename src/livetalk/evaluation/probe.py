"""Prediction of lip openings from the audio alone, by a linear probe on speech features.

For a recorded voice there is no rendered truth. The probe was fitted to rendered clips, and its prediction
serves as truth; its accuracy on held-out rendered clips bounds the meaning of a score against it.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from livetalk.errors import UNSUITABLE_CONTENT, InputError
from livetalk.media.files import require_input_file

SHIPPED_PROBE = Path(__file__).parent.parent / "assets" / "evaluation" / "lip_probe.npz"
"""Fitted by `scripts/fit_lip_probe.py`; docs/evaluation.md states the data and the accuracy."""

Pair = tuple[NDArray[np.float32], NDArray[np.float64]]
"""Features [F, D] of one clip and its true lip opening [F]."""


@dataclass(frozen=True, slots=True, eq=False)
class LipProbe:
    """Ridge regression from the speech features around a frame to its lip opening.

    `weights` is [(2 * context + 1) * D], float64, for `context` frames on either side.
    """

    weights: NDArray[np.float64]  # [(2 * context + 1) * D], float64
    bias: float
    context: int  # frames on either side whose features are read

    @classmethod
    def fit(cls, pairs: Iterable[Pair], context: int = 2, penalty: float = 1e3) -> Self:
        """Fit the probe to (features [F, D], opening [F]) of clips, each of which is read once.

        Frames with NaN and clips without lip movement are ignored. `context` is in frames on either side;
        `penalty` is the strength of the ridge. `ValueError` without a usable clip.
        """
        sums: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        for features, opening in pairs:
            known = np.isfinite(opening)
            if not known.any() or float(opening[known].std()) < 1e-6:
                continue
            inputs = _with_one(_stack_context(features, context))[known]
            # Scaled per clip: the probe is to predict when a mouth opens, not how far this person opens it.
            target = (opening[known] - opening[known].mean()) / opening[known].std()
            # Sums of products need memory for one clip only.
            gram, moment = inputs.T @ inputs, inputs.T @ target
            sums = (gram, moment) if sums is None else (sums[0] + gram, sums[1] + moment)
        if sums is None:
            raise ValueError("no clip in which the mouth moves")
        ridge = np.full(len(sums[1]), penalty)
        ridge[-1] = 0.0  # no penalty on the bias
        solution = np.linalg.solve(sums[0] + np.diag(ridge), sums[1])
        return cls(weights=solution[:-1], bias=float(solution[-1]), context=context)

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Predict the lip opening [F], float64, in deviations of a clip, from features [F, D] as in `fit`."""
        return np.asarray(_stack_context(features, self.context) @ self.weights + self.bias)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the probe as NPZ."""
        np.savez(Path(path), weights=self.weights.astype(np.float32), bias=self.bias, context=self.context)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a probe that `save` wrote; `InputError` if the file is missing or no probe."""
        file = require_input_file(path, "probe")
        try:
            with np.load(file, allow_pickle=False) as stored:
                weights = stored["weights"].astype(np.float64)
                return cls(weights=weights, bias=float(stored["bias"]), context=int(stored["context"]))
        except UNSUITABLE_CONTENT as error:
            raise InputError(f"probe {file}: not a lip probe ({error})") from error


def _stack_context(features: NDArray[np.float32], context: int) -> NDArray[np.float64]:
    """Concatenate the features of neighbouring frames: [F, (2 * context + 1) * D]."""
    num_frames = len(features)
    frames = np.arange(num_frames)[:, None] + np.arange(-context, context + 1)
    stacked = features[np.clip(frames, 0, num_frames - 1)].reshape(num_frames, -1)
    return np.asarray(stacked, dtype=np.float64)


def _with_one(inputs: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
