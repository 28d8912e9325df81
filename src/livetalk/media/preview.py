"""A few evenly spaced frames of a video, as a preview."""

import numpy as np
from numpy.typing import NDArray

PREVIEW_FRAMES = 24


class PreviewSampler:
    """Keeps a few evenly spaced frames of a video of known length as it is generated."""

    def __init__(self, num_frames: int) -> None:
        """Choose indices among `num_frames` frames; 0 keeps none."""
        count = min(PREVIEW_FRAMES, num_frames)
        self._wanted = (
            set(np.linspace(0, num_frames - 1, count).round().astype(int).tolist()) if count else set()
        )
        self.frames: list[NDArray[np.uint8]] = []

    def observe(self, first_frame: int, frames: NDArray[np.uint8]) -> None:
        """Keep the chosen ones of frames [F, H, W, 3] whose first index is `first_frame`."""
        for index, frame in enumerate(frames, start=first_frame):
            if index in self._wanted:
                self.frames.append(frame.copy())
