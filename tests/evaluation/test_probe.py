"""The lip probe on features whose relation to the opening is known."""

from pathlib import Path

import numpy as np
import pytest

from livetalk.errors import InputError
from livetalk.evaluation.probe import LipProbe
from livetalk.evaluation.statistics import correlate


def make_pair(seed: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return features [120, 6] and an opening that looks at two of them, one a frame later."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(120, 6)).astype(np.float32)
    opening = features[:, 1] - 0.5 * np.roll(features[:, 4], 1) + 0.05 * rng.normal(size=120)
    return features, scale * (opening + 7)


def test_probe_predicts_held_out_clips() -> None:
    probe = LipProbe.fit([make_pair(seed, scale=1 + seed) for seed in range(5)], penalty=1.0)
    features, opening = make_pair(99)
    assert correlate(probe.predict(features), opening) > 0.97


def test_probe_without_context_misses_the_neighbour() -> None:
    probe = LipProbe.fit([make_pair(seed) for seed in range(5)], context=0, penalty=1.0)
    features, opening = make_pair(99)
    assert correlate(probe.predict(features), opening) < 0.95


def test_unknown_frames_and_still_mouths_are_left_out() -> None:
    features, opening = make_pair(1)
    opening[:20] = np.nan
    still = (features, np.full(120, 0.2))
    probe = LipProbe.fit([(features, opening), still], penalty=1.0)
    assert np.isfinite(probe.predict(features)).all()
    with pytest.raises(ValueError, match="mouth moves"):
        LipProbe.fit([still])


def test_probe_survives_its_file(tmp_path: Path) -> None:
    probe = LipProbe.fit([make_pair(0)], penalty=1.0)
    probe.save(tmp_path / "probe.npz")
    features, _ = make_pair(2)
    assert LipProbe.load(tmp_path / "probe.npz").predict(features) == pytest.approx(
        probe.predict(features), abs=1e-5
    )


def test_another_file_is_no_probe(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    (tmp_path / "text.npz").write_text("not a probe")
    for name in ("other.npz", "text.npz", "missing.npz"):
        with pytest.raises(InputError, match="probe"):
            LipProbe.load(tmp_path / name)
