"""The opening of a mouth in silence."""

import numpy as np
import pytest

from livetalk.evaluation.measures.silence import score_silence


def test_silence_is_judged_by_its_wide_frames() -> None:
    relative = np.concatenate([np.full(100, 0.9), np.zeros(90), np.full(10, 0.5)])
    silence = np.arange(200) >= 100
    assert score_silence(relative, silence) == pytest.approx(0.5)
    assert score_silence(relative, silence & (np.arange(200) < 190)) == 0
    assert np.isnan(score_silence(relative, np.zeros(200, dtype=bool)))
