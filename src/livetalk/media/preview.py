"""A few frames of a video, for a look at all of it."""

import numpy as np
from numpy.typing import NDArray

PREVIEW_FRAMES = 24


class PreviewSampler:
    """Keeps a few frames, evenly spread, of a video that passes by."""

    def __init__(self, num_frames: int) -> None:
        """Look forward to `num_frames` frames; 0 keeps none."""
        count = min(PREVIEW_FRAMES, num_frames)
        self._wanted = (
            set(np.linspace(0, num_frames - 1, count).round().astype(int).tolist()) if count else set()
        )
        self.frames: list[NDArray[np.uint8]] = []

    def see(self, first_frame: int, frames: NDArray[np.uint8]) -> None:
        """Pick the wanted ones of frames [F, H, W, 3] that start at `first_frame`."""
        for index, frame in enumerate(frames, start=first_frame):
            if index in self._wanted:
                self.frames.append(frame.copy())
