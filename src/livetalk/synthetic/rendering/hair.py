"""Hair as strands that are grown once per identity and drawn as dense points."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from livetalk.synthetic.noise import Noise, smoothstep
from livetalk.synthetic.people.hair_style import Style, make_style
from livetalk.synthetic.people.head import SKIN, HeadAsset
from livetalk.synthetic.people.identity import Identity
from livetalk.synthetic.rendering.rasterize import EMPTY, draw_points, new_buffer
from livetalk.synthetic.rendering.scene import Mesh, Strands

_STEPS = 32
CENTRE = (0.0, 7.35, 0.30)


class Skull:
    """Distance of the skull and face from a centre in every direction, used to push hair out of the head."""

    _ROWS, _COLUMNS = 48, 96

    def __init__(self, vertices: Tensor, centre: Tensor) -> None:
        self.centre = centre
        offset = vertices - centre
        radius = offset.norm(dim=1)
        device = vertices.device
        rise = (torch.arange(self._ROWS, device=device) + 0.5) / self._ROWS * torch.pi - torch.pi / 2
        turn = (torch.arange(self._COLUMNS, device=device) + 0.5) / self._COLUMNS * 2 * torch.pi - torch.pi
        rise, turn = torch.meshgrid(rise, turn, indexing="ij")
        flat = rise.cos()
        grid = torch.stack([turn.sin() * flat, rise.sin(), turn.cos() * flat], -1).view(-1, 3)
        alike = grid @ (offset / radius[:, None]).T
        # A soft maximum over directions: the radius is a smooth average of the nearest vertices.
        weight = torch.softmax(260 * alike, 1)
        self.table = (weight @ radius).view(1, 1, self._ROWS, self._COLUMNS)
        # One column of the other side, so that interpolation is seamless behind the head.
        self.table = F.pad(self.table, (1, 1, 0, 0), mode="circular")

    def radius(self, direction: Tensor) -> Tensor:
        """Return the distance [N] of the surface along unit vectors [N, 3]."""
        rise = torch.asin(direction[:, 1].clamp(-1, 1)) / (torch.pi / 2)
        turn = torch.atan2(direction[:, 0], direction[:, 2]) / torch.pi
        grid = torch.stack([turn * self._COLUMNS / (self._COLUMNS + 2), rise], -1)[None, None]
        return F.grid_sample(
            self.table, grid, mode="bilinear", padding_mode="border", align_corners=False
        ).view(-1)

    def push(self, points: Tensor, clearance: Tensor) -> Tensor:
        """Move points [N, 3] outward to at least `clearance` [N] above the surface."""
        offset = points - self.centre
        distance = offset.norm(dim=1, keepdim=True).clamp_min(1e-6)
        direction = offset / distance
        least = self.radius(direction)[:, None] + clearance[:, None]
        pushed: Tensor = self.centre + direction * torch.maximum(distance, least)
        return pushed


def scalp_mask(identity: Identity, rest: Tensor, noise: Noise) -> Tensor:
    """Return the density of hair, 0..1, at rest positions [..., 3] of the unmorphed head."""
    hair = identity.hair
    if hair.style == "bald":
        return torch.zeros(rest.shape[:-1], device=rest.device)
    x, y, z = rest[..., 0], rest[..., 1], rest[..., 2]
    wobble = 0.09 * (noise.fractal(rest * 3, 2) - 0.5)
    line = 7.93 + hair.hairline + 0.22 * hair.recede * smoothstep(0.12, 0.4, x.abs()) + 0.05 * hair.recede
    line = line - 0.10 * smoothstep(0.45, 0.65, x.abs())
    front = smoothstep(-0.06, 0.09, y - line + wobble)
    reach = z + wobble - 0.42 * smoothstep(7.45, 7.9, y)
    temple = (
        smoothstep(0.95, 0.80, reach) * smoothstep(7.20, 7.38, y + wobble) * smoothstep(0.25, 0.5, x.abs())
    )
    back = smoothstep(0.38, 0.26, z + wobble) * smoothstep(6.55, 6.8, y)
    burn = smoothstep(0.95, 0.88, z + wobble) * smoothstep(0.80, 0.86, z + wobble)
    burn = burn * smoothstep(7.02, 7.1, y) * smoothstep(0.5, 0.6, x.abs()) * float(identity.male)
    ear = smoothstep(0.73, 0.76, x.abs()) * smoothstep(7.56, 7.5, y) * smoothstep(0.15, 0.2, z)
    return torch.maximum(torch.maximum(front, temple), torch.maximum(back, burn)) * (1 - ear)


def grow(identity: Identity, rest: Tensor, mesh: Mesh, noise: Noise, per_unit: float) -> Strands:
    """Grow the hair of an identity.

    Args:
        identity: the person.
        rest: [V, 3], neutral vertices of the identity.
        mesh: the head mesh.
        noise: of the identity.
        per_unit: samples per decimetre at the rendering resolution, which determines the density of points.
    """
    if identity.hair.style == "bald":
        empty = torch.zeros(0, 3, device=rest.device)
        return Strands(empty, empty, empty, empty, empty[:, 0], empty[:, 0])
    rng = np.random.default_rng([identity.seed, 271])
    centre = rest.new_tensor(CENTRE) + _drift(rest, mesh)
    roots, normals, base = _roots(identity, rest, mesh, noise, rng)
    style = make_style(identity.hair, base, noise, rng)
    paths = _grow_paths(roots, normals, style, _obstacles(rest, mesh, centre))
    paths = _arrange(paths, style, centre, noise, base)
    if identity.hair.style == "bun":
        knot = _knot(centre, identity.hair.volume, rng)
        paths = torch.cat([paths, knot])
        style = replace(style, tone=torch.cat([style.tone, style.tone[: len(knot)]]))
    clear = _clear_of_throat(paths, centre).nonzero().squeeze(1)
    paths, style = paths[clear], replace(style, tone=style.tone[clear])
    return _to_points(paths, style, identity, centre, per_unit)


def tuck_ears(identity: Identity, rest: NDArray[np.float32], head: HeadAsset) -> NDArray[np.float32]:
    """Press ears [V, 3] against the head if long hair covers them, because they would protrude from it."""
    headwear = identity.world.headwear
    covered = headwear is not None and headwear.kind == "scarf"
    if not covered and identity.hair.style not in ("bob", "long", "wavy", "fringe", "curly", "afro"):
        return rest
    sign, x = np.sign(rest[:, 0]), np.abs(rest[:, 0])
    ear = (head.base[:, 1] > 6.6) & (head.base[:, 1] < 7.6) & (x > 0.70)
    result = rest.copy()
    result[:, 0] = np.where(ear, sign * (0.70 + 0.12 * (x - 0.70)), rest[:, 0])
    return result


def _drift(rest: Tensor, mesh: Mesh) -> Tensor:
    """Return the offset [3] of the identity's skull from the base head's, without x."""
    skull = mesh.base[:, 1] > 7.6
    moved = (rest[skull] - mesh.base[skull]).mean(0)
    return moved * moved.new_tensor([0.0, 1.0, 1.0])


def _roots(
    identity: Identity, rest: Tensor, mesh: Mesh, noise: Noise, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw roots on the scalp: positions, surface normals and unmorphed positions, [S, 3] each."""
    corners = mesh.corners[mesh.material == SKIN]
    middle = mesh.base[corners].mean(1)
    triangle = rest[corners]
    cross = torch.linalg.cross(triangle[:, 1] - triangle[:, 0], triangle[:, 2] - triangle[:, 0])
    # By area, so that the density does not depend on the triangulation.
    chance = cross.norm(dim=1) * scalp_mask(identity, middle, noise)
    cumulative = torch.cumsum(chance / chance.sum(), 0)
    count = 5200
    draws = torch.from_numpy(rng.random((count, 3), dtype=np.float32)).to(rest.device)
    chosen = torch.searchsorted(cumulative, draws[:, 0].contiguous()).clamp_max(len(corners) - 1)
    u, v = draws[:, 1], draws[:, 2]
    # Folds the unit square onto the triangle, which keeps the draws uniform.
    flip = u + v > 1
    u, v = torch.where(flip, 1 - u, u), torch.where(flip, 1 - v, v)
    weights = torch.stack([1 - u - v, u, v], 1)[..., None]
    base = (mesh.base[corners[chosen]] * weights).sum(1)
    # Thin out hair towards the hairline to avoid a hard edge.
    luck = torch.from_numpy(rng.random(count, dtype=np.float32)).to(rest.device)
    keep = scalp_mask(identity, base, noise) > 0.12 + 0.6 * luck
    roots = (triangle[chosen] * weights).sum(1)
    return roots[keep], F.normalize(cross[chosen], dim=1)[keep], base[keep]


def skull_of(rest: Tensor, mesh: Mesh) -> Skull:
    """Return the skull of an identity with neutral vertices [V, 3]."""
    return _skull(rest, mesh, rest.new_tensor(CENTRE) + _drift(rest, mesh))


def _skull(rest: Tensor, mesh: Mesh, centre: Tensor) -> Skull:
    base = mesh.base
    ears = (base[:, 0].abs() > 0.72) & (base[:, 1] < 7.6)
    used = torch.zeros(len(base), dtype=torch.bool, device=base.device)
    used[mesh.corners[mesh.material == SKIN].reshape(-1)] = True
    head = used & (base[:, 1] > 6.3) & ~ears
    return Skull(rest[head], centre)


def _obstacles(rest: Tensor, mesh: Mesh, centre: Tensor) -> tuple[Skull, Tensor, Tensor]:
    """Return the skull, and torso vertices [B, 3] with outward normals [B, 3]."""
    cloth = torch.unique(mesh.cloth)
    a, b, c = (rest[mesh.cloth[:, k]] for k in range(3))
    normals = torch.zeros_like(rest)
    for k in range(3):
        normals.index_add_(0, mesh.cloth[:, k], torch.linalg.cross(b - a, c - a))
    return _skull(rest, mesh, centre), rest[cloth], F.normalize(normals[cloth], dim=1)


def _grow_paths(
    roots: Tensor, normals: Tensor, style: Style, obstacles: tuple[Skull, Tensor, Tensor]
) -> Tensor:
    """Grow all strands in steps, [S, _STEPS + 1, 3]."""
    skull, torso, outward = obstacles
    # Roots start below the skin, so that no gap shows at the scalp.
    point = roots - 0.02 * normals
    heading = F.normalize(normals * style.lift[:, None] + style.direction(point, skull.centre, 0.0), dim=1)
    path = [point]
    step = (style.length / _STEPS)[:, None]
    for index in range(_STEPS):
        t = (index + 1) / _STEPS
        wanted = style.direction(point, skull.centre, t)
        heading = F.normalize(torch.lerp(heading, wanted, style.bend), dim=1)
        point = point + heading * step
        clearance = style.clearance * min(1.0, 0.15 + 4.0 * t) + 0.015
        point = style.keep_off_face(skull.push(point, clearance), skull.centre, t)
        if style.reaches_torso:
            point = _push_torso(point, torso, outward, 0.04 + 0.5 * style.clearance)
        path.append(point)
    return torch.stack(path, 1)


def _push_torso(points: Tensor, torso: Tensor, outward: Tensor, clearance: Tensor) -> Tensor:
    """Move points inside the shoulders back to the surface."""
    low = (points[:, 1] < 6.3).nonzero().squeeze(1)
    chosen = points[low]
    nearest = torch.cdist(chosen, torso).argmin(1)
    normal = outward[nearest]
    height = ((chosen - torso[nearest]) * normal).sum(1)
    lift = (clearance[low] - height).clamp(0, 0.6)
    result = points.clone()
    result[low] = chosen + normal * lift[:, None]
    return result


def _arrange(paths: Tensor, style: Style, centre: Tensor, noise: Noise, base: Tensor) -> Tensor:
    """Gather strands into locks and add waves."""
    t = torch.linspace(0, 1, paths.shape[1], device=paths.device)[None, :, None]
    leaders = paths[style.leader]
    paths = torch.lerp(paths, leaders, style.clump * t**0.8)
    if style.wave > 0:
        outward = F.normalize(paths - centre, dim=-1)
        along = F.normalize(paths.roll(-1, 1) - paths.roll(1, 1), dim=-1)
        sideways = torch.linalg.cross(along, outward)
        phase = (noise(base[style.leader] * 4.0) * 14 + 0.7 * noise(base * 11))[:, None, None]
        angle = t * style.wave_turns[:, None, None] * 2 * torch.pi + phase
        swing = style.wave * (t * 2.5).clamp_max(1)
        paths = paths + swing * (sideways * angle.sin() + style.coil * outward * angle.cos())
    return paths


def _knot(centre: Tensor, volume: float, rng: np.random.Generator) -> Tensor:
    """Return strands wound into a bun at the back of the crown, [S, _STEPS + 1, 3]."""
    count = 900
    middle = centre + centre.new_tensor([0.0, 1.13, -0.40])
    axes = torch.from_numpy(rng.normal([0, 0.6, 0.5], [0.5, 0.35, 0.35], (count, 3)).astype(np.float32))
    axes = F.normalize(axes.to(centre.device), dim=1)
    start = F.normalize(
        torch.from_numpy(rng.normal(size=(count, 3)).astype(np.float32)).to(centre.device), dim=1
    )
    start = F.normalize(start - (start * axes).sum(1, keepdim=True) * axes * 0.6, dim=1)
    side = torch.linalg.cross(axes, start)
    angle = torch.linspace(0, 2.6, _STEPS + 1, device=centre.device)[None, :, None]
    radius = (0.22 + 0.06 * volume) * torch.from_numpy(rng.uniform(0.9, 1, (count, 1, 1)).astype(np.float32))
    circle = start[:, None] * angle.cos() + side[:, None] * angle.sin()
    wound: Tensor = middle + radius.to(centre.device) * circle * centre.new_tensor([1.0, 0.85, 1.0])
    return wound


def _clear_of_throat(paths: Tensor, centre: Tensor) -> Tensor:
    """Return which strands [S] do not cross the throat; hair from the nape must not appear in front."""
    local = paths - centre
    throat = (local[..., 0].abs() < 0.45) & (local[..., 1] < -0.7) & (local[..., 2] > 0.0)
    return ~throat.any(1)


def _to_points(paths: Tensor, style: Style, identity: Identity, centre: Tensor, per_unit: float) -> Strands:
    """Distribute points evenly along the strands, with all attributes for shading."""
    count, nodes, _ = paths.shape
    tangent = F.normalize(torch.gradient(paths, dim=1)[0], dim=-1)
    offset = paths - centre
    flat = torch.stack([offset[..., 0], offset[..., 1].clamp_min(-0.12) * 0.9, offset[..., 2]], -1)
    normal = F.normalize(flat, dim=-1)
    t = torch.linspace(0, 1, nodes, device=paths.device)[None, :].expand(count, nodes)
    shade = (0.62 + 0.38 * smoothstep(0.0, 0.25, t)) * style.tone[:, None]
    root, tip = paths.new_tensor(identity.hair.colour), paths.new_tensor(identity.hair.tips)
    colour = torch.lerp(root, tip, smoothstep(0.25, 1.0, t)[..., None]) * shade[..., None]
    weight = torch.maximum(smoothstep(5.3, 6.7, paths[..., 1]), smoothstep(0.15, 0.0, t))
    occlusion = _open_sky(paths.reshape(-1, 3)).view(count, nodes)
    nodes_all = torch.cat([paths, normal, tangent, colour, occlusion[..., None], weight[..., None]], -1)
    points = _spread(nodes_all, per_unit)
    points, normal, tangent, colour, occlusion, weight = torch.split(points, [3, 3, 3, 3, 1, 1], 1)
    return Strands(points, normal, tangent, colour, occlusion[:, 0], weight[:, 0])


def _spread(nodes: Tensor, per_unit: float) -> Tensor:
    """Interpolate strands [S, K, C] to points [P, C] about one sample apart."""
    count, steps, _ = nodes.shape
    length = (nodes[:, 1:, :3] - nodes[:, :-1, :3]).norm(dim=-1).sum(1)
    amount = (length * per_unit * 0.85).ceil().long().clamp_min(2)
    strand = torch.repeat_interleave(torch.arange(count, device=nodes.device), amount)
    first = torch.cumsum(amount, 0) - amount
    place = torch.arange(len(strand), device=nodes.device) - first[strand]
    position = place / (amount[strand] - 1) * (steps - 1)
    node = position.long().clamp_max(steps - 2)
    fraction = (position - node)[:, None]
    return torch.lerp(nodes[strand, node], nodes[strand, node + 1], fraction)


_SKY = 14
_SKY_SIZE = 72


def _open_sky(points: Tensor) -> Tensor:
    """Return soft self-occlusion [N] of hair points, from depth maps of several directions."""
    index = torch.arange(_SKY, device=points.device) + 0.5
    height = 1 - 1.35 * index / _SKY
    # The golden angle distributes the directions evenly.
    around = index * 2.399963
    flat = (1 - height * height).clamp_min(0).sqrt()
    directions = torch.stack([flat * around.sin(), height, flat * around.cos()], 1)
    # All directions in one batch, because kernel launches dominate the time on a GPU.
    upright = directions[:, 1].abs() > 0.9
    level = torch.zeros_like(directions)
    level[:, 0], level[:, 1] = upright, ~upright
    right = F.normalize(torch.linalg.cross(level, directions), dim=1)
    axes = torch.stack([right, torch.linalg.cross(right, directions), -directions], 2)
    centre = points.mean(0)
    reach = (points - centre).norm(dim=1).max() + 0.05
    seen = (points - centre) @ axes
    plane = (seen[..., :2] / reach * 0.5 + 0.5) * _SKY_SIZE
    depth = seen[..., 2] + 2 * reach
    buffer = new_buffer(_SKY, _SKY_SIZE, _SKY_SIZE, points.device)
    draw_points(buffer, torch.cat([plane, depth[..., None]], -1), 0, (_SKY_SIZE, _SKY_SIZE))
    nearest = (buffer >> 32).to(torch.int32).view(torch.float32)
    nearest = torch.where(buffer == EMPTY, torch.full_like(nearest, 1e3), nearest)
    texel = plane.long().clamp(0, _SKY_SIZE - 1)
    picked = texel[..., 1] * _SKY_SIZE + texel[..., 0]
    behind = depth - nearest.view(_SKY, -1).gather(1, picked)
    open_share = torch.exp(-behind.clamp_min(0) / 0.16).mean(0)
    return (open_share * 1.25).clamp(0.12, 1)
