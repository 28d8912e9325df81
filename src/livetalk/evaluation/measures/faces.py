"""Number of frames and share of frames with a face."""

import numpy as np

from livetalk.evaluation.clip import Clip
from livetalk.evaluation.measure import COUNT, Measure, Value


def measure_faces(clip: Clip) -> dict[str, float]:
    """Count frames and faces."""
    found = float(np.isfinite(clip.track.lips).mean())
    return {"num_frames": clip.track.num_frames, "face_found": found}


MEASURE = Measure(
    name="faces",
    values=(
        Value(name="num_frames", unit=COUNT, meaning="frames of the video, at 25 a second"),
        Value(name="face_found", unit="share", meaning="share of frames with a face", good="1"),
    ),
    find=measure_faces,
)
