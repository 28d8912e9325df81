"""Every reported kind of odd input, name, ending and environment, one table row each."""

from collections import Counter
from pathlib import Path

import pytest
import reported_audio
import reported_cut_audio
import reported_environment
import reported_evaluation
import reported_faces
import reported_images
import reported_printing
import reported_results
import reported_samples
import reported_training
import reported_weights

from reported import KINDS, Case

CASES: tuple[Case, ...] = (
    *reported_audio.CASES,
    *reported_cut_audio.CASES,
    *reported_environment.CASES,
    *reported_evaluation.CASES,
    *reported_faces.CASES,
    *reported_images.CASES,
    *reported_printing.CASES,
    *reported_results.CASES,
    *reported_samples.CASES,
    *reported_training.CASES,
    *reported_weights.CASES,
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}: {case.name}")
def test_reported_case(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case.check(tmp_path, monkeypatch)


def test_every_kind_has_several_cases() -> None:
    counts = Counter(case.kind for case in CASES)
    assert set(counts) == set(KINDS)
    assert min(counts.values()) >= 2, counts
