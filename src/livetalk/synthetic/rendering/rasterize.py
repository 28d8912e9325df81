"""Batched z-buffer rasterisation in PyTorch: triangles and points scattered into a packed depth buffer."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

EMPTY = torch.iinfo(torch.int64).max
"""Value of uncovered samples."""

_BOXES = (2, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256, 512, 1024, 2048)
_ID_BITS = 32


@dataclass(frozen=True)
class Triangles:
    """Triangles of one draw call: vertex indices `corners` [T, 3], and IDs that start at `first_id`.

    `cut` maps triangle indices [N] and barycentric weights [N, 3] of fragments to [N]; fragments with
    negative values are dropped. `nearer` is subtracted from the depth, for layers on other surfaces.
    """

    corners: Tensor
    first_id: int = 0
    cut: Callable[[Tensor, Tensor], Tensor] | None = None
    two_sided: bool = False
    nearer: float = 0.0


def new_buffer(frames: int, height: int, width: int, device: torch.device) -> Tensor:
    """Create an empty depth buffer, int64 [frames * height * width]."""
    return torch.full((frames * height * width,), EMPTY, dtype=torch.int64, device=device)


def pack(depth: Tensor, ids: Tensor) -> Tensor:
    """Pack positive float32 depth and IDs into int64 values that are ordered by depth."""
    return (depth.contiguous().view(torch.int32).to(torch.int64) << _ID_BITS) | ids


def unpack_ids(buffer: Tensor) -> Tensor:
    """Return the int64 ID of the nearest primitive of each covered sample."""
    return buffer & ((1 << _ID_BITS) - 1)


def edge_planes(corners: Tensor) -> Tensor:
    """Return plane coefficients [N, 3, 3] (x, y, constant) of barycentric weights for corners [N, 3, 2].

    Weight k at (x, y) is `plane[k, 0] * x + plane[k, 1] * y + plane[k, 2]`; the weights sum to one.
    """
    x, y = corners[..., 0], corners[..., 1]
    x1, y1 = x.roll(-1, 1), y.roll(-1, 1)
    x2, y2 = x.roll(-2, 1), y.roll(-2, 1)
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    scale = 1 / torch.where(area.abs() < 1e-9, torch.full_like(area, 1e-9), area)
    planes = torch.stack([y1 - y2, x2 - x1, x1 * y2 - x2 * y1], -1)
    return planes * scale[:, None, None]


def draw_triangles(
    buffer: Tensor, screen: Tensor, triangles: Triangles, size: tuple[int, int], budget: int | None = None
) -> None:
    """Draw triangles of every frame into the buffer, in place.

    Args:
        buffer: int64 [F * H * W] from `new_buffer`.
        screen: float32 [F, V, 3], x and y in samples (sample centres at .5), z = positive distance.
        triangles: what to draw; front faces are counter-clockwise in a y-up world.
        size: (H, W).
        budget: fragments tested at a time, which bounds memory; None uses more on a GPU.
    """
    frames, _, _ = screen.shape
    height, width = size
    budget = budget or (1 << 25 if screen.is_cuda else 1 << 21)
    limits = torch.tensor([width, height], device=screen.device, dtype=screen.dtype)
    points = screen[:, triangles.corners]
    xy = points[..., :2]
    low = torch.minimum((xy.amin(2) - 0.5).ceil().clamp_min(0), limits)
    high = torch.minimum((xy.amax(2) - 0.5).floor() + 1, limits)
    extent = (high - low).clamp_min(0)
    a, b, c = xy.unbind(2)
    area = (b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1]) - (c[..., 0] - a[..., 0]) * (
        b[..., 1] - a[..., 1]
    )
    # Screen y points down, so the area of front faces is negative.
    facing = area.abs() > 1e-6 if triangles.two_sided else area < -1e-6
    visible = facing & (extent.amin(-1) > 0) & (points[..., 2].amin(-1) > 0.05)
    chosen, sizes, counts = _by_size(visible, extent.amax(-1), max(height, width))
    frame, face = chosen.unbind(1)
    corners = points[frame, face]
    boxes = (frame, face, corners, edge_planes(corners[..., :2]), low[frame, face])
    groups = zip(*(torch.split(values, counts) for values in boxes), strict=True)
    for size_of_box, group in zip(sizes, groups, strict=True):
        at_once = max(1, budget // (size_of_box * size_of_box))
        for part in zip(*(torch.split(values, at_once) for values in group), strict=True):
            _draw_boxes(buffer, _Boxes(*part), triangles, (frames, height, width, size_of_box))


@dataclass(frozen=True)
class _Boxes:
    """Triangles with bounding boxes of one size class.

    Attributes:
        frame, face: [N], int64.
    """

    frame: Tensor
    face: Tensor
    corners: Tensor  # [N, 3, 3], in samples
    planes: Tensor  # [N, 3, 3], see `edge_planes`
    origin: Tensor  # [N, 2], first column and row of the bounding box


def _by_size(visible: Tensor, extent: Tensor, limit: int) -> tuple[Tensor, list[int], list[int]]:
    """Sort visible triangles by the size class of their bounding boxes.

    A single sort replaces a search per size class, each of which would synchronise with the device.

    Args:
        visible: [F, T], bool.
        extent: [F, T], larger side of the bounding box in samples.
        limit: upper bound of `extent`.

    Returns:
        Frame and triangle [N, 2] in order of size, the sizes that occur, and their counts.
    """
    chosen = visible.nonzero()
    sizes = [*(size for size in _BOXES if size < limit), limit]
    edges = torch.tensor(sizes, device=extent.device, dtype=extent.dtype)
    kind = torch.bucketize(extent[chosen[:, 0], chosen[:, 1]], edges)
    counts = torch.bincount(kind, minlength=len(sizes)).tolist()
    found = [(size, count) for size, count in zip(sizes, counts, strict=True) if count]
    ordered = chosen[torch.argsort(kind, stable=True)]
    return ordered, [size for size, _ in found], [count for _, count in found]


def _draw_boxes(
    buffer: Tensor, boxes: _Boxes, triangles: Triangles, shape: tuple[int, int, int, int]
) -> None:
    """Test all samples of bounding boxes of width `shape[3]` or less, and scatter the hits."""
    _, height, width, box = shape
    frame, face, corners = boxes.frame, boxes.face, boxes.corners
    steps = torch.arange(box, device=buffer.device, dtype=corners.dtype) + 0.5
    x, y = (boxes.origin[..., None] + steps).unbind(1)
    across = boxes.planes[..., :1] * x[:, None]
    down = boxes.planes[..., 1:2] * y[:, None] + boxes.planes[..., 2:]
    # Boxes may extend beyond the frame; samples outside must not count.
    across = across.masked_fill((x >= width)[:, None], -torch.inf)
    down = down.masked_fill((y >= height)[:, None], -torch.inf)
    inside = (across[:, :, None] + down[..., None]).amin(1) >= 0
    hit, row, column = inside.nonzero(as_tuple=True)
    sample_x, sample_y = x[hit, column], y[hit, row]
    chosen = boxes.planes[hit]
    weights = chosen[..., 0] * sample_x[:, None] + chosen[..., 1] * sample_y[:, None] + chosen[..., 2]
    # 1 / depth is linear on the screen.
    depth = 1 / (weights * (1 / corners[..., 2])[hit]).sum(1) - triangles.nearer
    keys = pack(depth, face[hit] + triangles.first_id)
    target = frame[hit] * (height * width) + sample_y.long() * width + sample_x.long()
    if triangles.cut is not None:
        keep = triangles.cut(face[hit], weights) >= 0
        keys, target = keys[keep], target[keep]
    # The minimum of packed keys is the nearest primitive, whatever the order of the writes: deterministic.
    buffer.scatter_reduce_(0, target, keys, "amin")


def draw_points(buffer: Tensor, screen: Tensor, first_id: int, size: tuple[int, int]) -> None:
    """Draw one-sample points of every frame into the buffer, in place.

    Args:
        buffer: int64 [F * H * W].
        screen: float32 [F, P, 3] in samples, z = positive distance.
        first_id: ID of point 0.
        size: (H, W).
    """
    frames, count, _ = screen.shape
    height, width = size
    column = screen[..., 0].floor().long()
    row = screen[..., 1].floor().long()
    seen = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (screen[..., 2] > 0.05)
    offset = torch.arange(frames, device=buffer.device)[:, None] * (height * width)
    ids = torch.arange(count, device=buffer.device) + first_id
    # Invisible points write nothing, but to different targets, because atomics on one address serialise.
    target = torch.where(seen, row * width + column, ids % (height * width)) + offset
    keys = torch.where(seen, pack(screen[..., 2], ids[None]), torch.full_like(target, EMPTY))
    buffer.scatter_reduce_(0, target.reshape(-1), keys.reshape(-1), "amin")
