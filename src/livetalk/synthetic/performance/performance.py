"""The motion of a rendered head over time, which speech synthesis produces and the renderer reads."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FACE_UNITS: tuple[str, ...] = (
    "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight",
    "cheekPuff", "cheekSquintLeft", "cheekSquintRight",
    "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight", "eyeLookInLeft", "eyeLookInRight",
    "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight",
    "eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight",
    "jawForward", "jawLeft", "jawOpen", "jawRight",
    "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel",
    "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight",
    "mouthPucker", "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper",
    "mouthSmileLeft", "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight",
    "mouthUpperUpLeft", "mouthUpperUpRight", "noseSneerLeft", "noseSneerRight", "tongueOut",
)  # fmt: skip
"""The 52 ARKit-named facial units, the column order of `Performance.units`."""


@dataclass(frozen=True, slots=True)
class Performance:
    """Facial and head motion of one clip at 25 frames per second.

    Attributes:
        units: [F, 52], float32, weights 0..1 in `FACE_UNITS` order (slightly over 1 is allowed).
        head_rotation: [F, 3], float32, yaw, pitch, roll of the head relative to the torso, radians (positive
            yaw turns towards the camera's right, positive pitch looks down).
        head_translation: [F, 3], float32, x right, y up, z towards the camera, in head heights.
        gaze: [F, 2], float32, yaw and pitch of the eyes relative to the camera direction, radians.
    """

    units: NDArray[np.float32]
    head_rotation: NDArray[np.float32]
    head_translation: NDArray[np.float32]
    gaze: NDArray[np.float32]
    breath: NDArray[np.float32]  # [F], float32, -1..1, phase of breathing, which raises shoulders and chest

    @property
    def num_frames(self) -> int:
        return int(self.units.shape[0])
