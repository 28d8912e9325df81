"""A fixed camera per clip, which projects world points to the frame."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from livetalk.synthetic.people.identity import View


@dataclass(frozen=True)
class Camera:
    """Pinhole camera."""

    position: Tensor  # [3], decimetres
    axes: Tensor  # [3, 3], rows: right, down, forward
    focal: float  # focal length in frame heights
    centre: tuple[float, float]  # (x, y) of the principal point in frame heights

    def project(self, points: Tensor, size: int) -> Tensor:
        """Project world points [..., 3] to x, y in pixels of a frame of side `size`, and distance."""
        seen = (points - self.position) @ self.axes.T
        depth = seen[..., 2:]
        # Bounded, so that a point behind the camera does not divide by zero; the rasteriser drops it by
        # depth.
        plane = seen[..., :2] * (self.focal * size) / depth.clamp_min(0.05)
        offset = torch.tensor(self.centre, device=points.device) * size
        return torch.cat([plane + offset, depth], -1)


def make_camera(view: View, eyes: Tensor) -> Camera:
    """Place the camera so that the midpoint of the eyes [3] has the position that `view` specifies."""
    focal = 0.5 / float(np.tan(np.radians(view.fov) / 2))
    distance = focal * view.height
    flat = np.cos(view.elevation)
    away = np.array([np.sin(view.azimuth) * flat, np.sin(view.elevation), np.cos(view.azimuth) * flat])
    # The middle of the head, a little below and behind the eyes.
    target = eyes.cpu().numpy().astype(np.float64) - np.array([0, 0.25, 0.25])
    position = target + away * distance
    forward = -away
    right = np.cross(forward, [0, 1, 0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    axes = np.stack([right, down, forward])
    seen = axes @ (eyes.cpu().numpy() - position)
    # Shifting the principal point moves the eyes to their row without tilting the camera.
    centre_y = view.eye_row - focal * float(seen[1] / seen[2])
    device = eyes.device
    return Camera(
        position=torch.tensor(position, dtype=torch.float32, device=device),
        axes=torch.tensor(axes, dtype=torch.float32, device=device),
        focal=focal,
        centre=(0.5 + view.shift, centre_y),
    )
