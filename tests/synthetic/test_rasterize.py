"""The rasteriser against a tiny brute-force reference."""

import numpy as np
import torch

from livetalk.synthetic.rendering.rasterize import (
    EMPTY,
    Triangles,
    draw_points,
    draw_triangles,
    new_buffer,
    unpack_ids,
)


def reference(screen: np.ndarray, corners: np.ndarray, height: int, width: int) -> np.ndarray:
    """Ids of the nearest front-facing triangle per sample, -1 where there is none, one frame."""
    ids = np.full((height, width), -1)
    nearest = np.full((height, width), np.inf)
    for number, triangle in enumerate(corners):
        (x0, y0, z0), (x1, y1, z1), (x2, y2, z2) = screen[triangle]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if area >= 0:
            continue
        for row in range(height):
            for column in range(width):
                x, y = column + 0.5, row + 0.5
                w0 = ((x1 - x) * (y2 - y) - (x2 - x) * (y1 - y)) / area
                w1 = ((x2 - x) * (y0 - y) - (x0 - x) * (y2 - y)) / area
                w2 = 1 - w0 - w1
                if min(w0, w1, w2) < 0:
                    continue
                depth = 1 / (w0 / z0 + w1 / z1 + w2 / z2)
                if depth < nearest[row, column]:
                    nearest[row, column], ids[row, column] = depth, number
    return ids


def draw(
    screen: torch.Tensor, triangles: Triangles, height: int, width: int, budget: int | None = None
) -> np.ndarray:
    buffer = new_buffer(len(screen), height, width, torch.device("cpu"))
    draw_triangles(buffer, screen, triangles, (height, width), budget)
    ids = torch.where(buffer == EMPTY, torch.full_like(buffer, -1), unpack_ids(buffer))
    return ids.view(len(screen), height, width).numpy()


def random_scene(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    points = rng.uniform([-6, -6, 1], [26, 30, 9], (2, 40, 3)).astype(np.float32)
    corners = np.stack([rng.choice(40, 3, replace=False) for _ in range(25)])
    return torch.from_numpy(points), torch.from_numpy(corners)


def test_triangles_match_brute_force() -> None:
    screen, corners = random_scene(0)
    drawn = draw(screen, Triangles(corners), 24, 20)
    for frame in range(2):
        expected = reference(screen[frame].numpy().astype(np.float64), corners.numpy(), 24, 20)
        # Rounding may flip samples that lie exactly on an edge.
        assert (drawn[frame] == expected).mean() > 0.99
        assert (expected >= 0).mean() > 0.3


def test_budget_does_not_change_the_picture() -> None:
    screen, corners = random_scene(1)
    assert (draw(screen, Triangles(corners), 24, 20, 256) == draw(screen, Triangles(corners), 24, 20)).all()


def test_back_faces_are_dropped_unless_two_sided() -> None:
    screen = torch.tensor([[[1.0, 1.0, 2.0], [9.0, 1.0, 2.0], [1.0, 9.0, 2.0]]])
    corners = torch.tensor([[0, 1, 2]])
    assert (draw(screen, Triangles(corners), 10, 10) == -1).all()
    assert (draw(screen, Triangles(corners, two_sided=True), 10, 10) == 0).sum() == 36


def test_cut_fragments_show_what_is_behind() -> None:
    near = [[0.0, 0.0, 1.0], [0.0, 20.0, 1.0], [20.0, 0.0, 1.0]]
    screen = torch.tensor([near])
    corners = torch.tensor([[0, 1, 2]])
    left = Triangles(corners, cut=lambda face, weights: weights[:, 2] - 0.2)
    drawn = draw(screen, left, 10, 10)[0]
    assert (drawn[:, :4] == -1).all()
    assert (drawn[:5, 4:] == 0).all()


def test_points_hide_behind_nearer_triangles() -> None:
    screen = torch.tensor([[[0.0, 0.0, 2.0], [0.0, 20.0, 2.0], [20.0, 0.0, 2.0]]])
    buffer = new_buffer(1, 8, 8, torch.device("cpu"))
    draw_triangles(buffer, screen, Triangles(torch.tensor([[0, 1, 2]])), (8, 8))
    draw_points(buffer, torch.tensor([[[1.5, 1.5, 1.0], [3.5, 3.5, 3.0], [-4.0, 2.0, 1.0]]]), 100, (8, 8))
    ids = unpack_ids(buffer).view(8, 8)
    assert ids[1, 1] == 100
    assert (ids == 0).sum() == 63
