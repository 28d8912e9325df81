"""The portrait renderer: frames of a person and a performance, batched on any torch device."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from livetalk.synthetic.noise import Noise
from livetalk.synthetic.people import pose
from livetalk.synthetic.people.head import LOWER_LIP, SKIN, UPPER_LIP, HeadAsset, load_head
from livetalk.synthetic.people.identity import Identity
from livetalk.synthetic.performance.performance import FACE_UNITS, Performance
from livetalk.synthetic.rendering import appearance, frame, glasses, hair, headwear
from livetalk.synthetic.rendering.backdrop import make_backdrop
from livetalk.synthetic.rendering.background import make_background
from livetalk.synthetic.rendering.camera import make_camera
from livetalk.synthetic.rendering.neckwear import make_scarf
from livetalk.synthetic.rendering.scene import Mesh, Subject
from livetalk.synthetic.rendering.shading import make_lights
from livetalk.synthetic.rendering.skin_paint import paint_skin


class Renderer:
    """Renders synthetic people.

    Args:
        device: of all computation.
        resolution: height and width of the frames.
        supersample: samples per pixel along each axis.
    """

    def __init__(
        self, device: torch.device | str = "cpu", resolution: int = 256, supersample: int = 2
    ) -> None:
        self.device = torch.device(device)
        self.resolution = resolution
        self.supersample = supersample
        head = load_head()
        self._rig = pose.FaceRig(head, self.device)
        self._mesh = Mesh.of(head, self.device)
        texture = 1024 if resolution > 256 else 768 if resolution > 128 else 384
        self._skin_map = appearance.build_skin_map(head, texture, self.device)

    def prepare(self, identity: Identity) -> Subject:
        """Compute everything of an identity that is constant over time: shape, skin, hair, background."""
        head = load_head()
        rest_cpu = hair.tuck_ears(identity, head.shape(identity.shape), head)
        rest = torch.from_numpy(rest_cpu).to(self.device)
        noise = Noise(identity.seed, self.device)
        eyes = torch.stack([pose.eye_centre(rest[ids]) for ids in self._rig.eye_ids])
        camera = make_camera(identity.view, eyes.mean(0))
        per_unit = self.resolution * self.supersample / identity.view.height
        scalp = hair.scalp_mask(identity, self._skin_map.rest, noise)
        world = identity.world
        skin = appearance.bake_skin(identity, self._skin_map, scalp)
        if world.skin is not None:
            skin = paint_skin(skin, identity, world.skin, self._skin_map)
        strands = hair.grow(identity, rest, self._mesh, noise, per_unit)
        if world.headwear is not None:
            skull = hair.skull_of(rest, self._mesh)
            skin = headwear.paint_covered(skin, world.headwear, self._skin_map)
            strands = headwear.put_on(strands, world.headwear, skull, noise, per_unit)
        pivot = _pivot(head.base, rest_cpu, self.device)
        if world.neck_scarf is not None:
            strands = strands.join(make_scarf(world.neck_scarf, pivot, noise, per_unit))
        subject = Subject(
            identity=identity,
            rest=rest,
            pivot=pivot,
            skin=skin,
            strands=strands,
            background=self._background(identity),
            camera=camera,
            lights=make_lights(identity.light, self.device),
            noise=noise,
        )
        subject = self._without_hidden_hair(subject)
        return self._with_small_parts(subject, eyes, _lobes(head, rest), per_unit)

    @staticmethod
    def _with_small_parts(subject: Subject, eyes: Tensor, lobes: Tensor, per_unit: float) -> Subject:
        """Return the subject with glasses, reflections on them, and earrings at `lobes` [2, 3]."""
        identity, world, strands = subject.identity, subject.identity.world, subject.strands
        frames = glasses.make_glasses(identity.outfit, eyes, identity.seed, per_unit)
        if frames is not None:
            strands = strands.join(frames)
        if frames is not None and world.reflection > 0:
            strands = strands.join(glasses.make_reflections(eyes, identity.seed, world.reflection, per_unit))
        if world.earrings is not None:
            strands = strands.join(headwear.make_earrings(world.earrings, lobes, per_unit))
        return replace(subject, strands=strands)

    def _background(self, identity: Identity) -> Tensor:
        backdrop = identity.world.backdrop
        if backdrop is None:
            return make_background(identity, self.resolution, self.device)
        return make_backdrop(backdrop, identity.light.sky, self.resolution, self.device)

    def _without_hidden_hair(self, subject: Subject) -> Subject:
        """Drop hair points that are hidden in all likely head poses, which most of them are."""
        # Yaw and pitch a little beyond the limits of a performance, see `_head_rotation`.
        looks = [(0.0, 0.0), (-0.4, 0.05), (0.4, 0.05), (0.0, 0.22), (0.0, -0.2)]
        yaw, pitch, roll = subject.identity.world.turn
        turned = [(yaw + sideways, pitch + down, roll) for sideways, down in looks]
        rotation = pose.euler(torch.tensor(turned, device=self.device))
        shift = torch.zeros(len(looks), 3, device=self.device)
        still = pose.Pose(rotation, subject.pivot, shift, shift, rotation[:, :, 2])
        seen = torch.zeros(len(subject.strands.points), dtype=torch.bool, device=self.device)
        step = max(1, _POINTS_AT_ONCE // max(1, len(seen)))
        for start in range(0, len(looks), step):
            part = still.slice(slice(start, start + step))
            seen |= frame.visible_hair(subject, self._mesh, part, self.resolution * self.supersample)
        return replace(subject, strands=subject.strands.choose(seen.nonzero().squeeze(1)))

    @torch.no_grad()
    def render(self, subject: Subject, performance: Performance, batch_frames: int | None = None) -> Tensor:
        """Render every frame on the device, uint8 [F, H, W, 3]; `batch_frames` only bounds memory."""
        # A GPU needs large batches to hide kernel launches; a CPU is faster when a batch fits its cache.
        step = batch_frames or (96 if self.device.type == "cuda" else 2)
        motion = self._pose(subject, performance)
        parts = []
        for start in range(0, performance.num_frames, step):
            chosen = slice(start, start + step)
            units = torch.tensor(performance.units[chosen], device=self.device)
            part = motion.slice(chosen)
            vertices, eyes = self._rig.vertices(subject.rest, units, part)
            state = frame.FrameState(vertices, eyes, part, units[:, _JAW].clamp(0, 1))
            parts.append(frame.render_frames(subject, self._mesh, state, self.resolution, self.supersample))
        return torch.cat(parts)

    def _pose(self, subject: Subject, performance: Performance) -> pose.Pose:
        eyes = subject.rest[self._rig.eye_ids[0]].mean(0)
        to_camera = torch.nn.functional.normalize(
            subject.camera.position - eyes * eyes.new_tensor([0, 1, 1]), dim=0
        )
        turn = np.asarray(subject.identity.world.turn, np.float32)
        turned = replace(performance, head_rotation=performance.head_rotation + turn)
        return pose.pose_of(turned, subject.pivot, to_camera, self.device)

    @torch.no_grad()
    def project(
        self, subject: Subject, performance: Performance, vertex_ids: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return pixel positions [F, N, 2] (x, y) of mesh vertices."""
        vertices = self._vertices(subject, performance)[:, torch.from_numpy(vertex_ids).to(self.device)]
        return subject.camera.project(vertices, self.resolution)[..., :2].cpu().numpy()

    @torch.no_grad()
    def lip_opening(self, subject: Subject, performance: Performance) -> NDArray[np.float32]:
        """Return the gap between the inner lips over the mouth's width at rest, [F], 0 when closed."""
        vertices = self._vertices(subject, performance)
        gap = _lip_gap(vertices)
        rest = subject.rest
        shut = _lip_gap(rest[None])
        lips = rest[torch.from_numpy(np.flatnonzero(load_head().lips > 0.5)).to(self.device)]
        width = lips[:, 0].max() - lips[:, 0].min()
        return ((gap - shut).clamp_min(0) / width).cpu().numpy()

    def _vertices(self, subject: Subject, performance: Performance) -> Tensor:
        units = torch.tensor(performance.units, device=self.device)
        return self._rig.vertices(subject.rest, units, self._pose(subject, performance))[0]

    def boxes(
        self, subject: Subject, performance: Performance
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return face and mouth boxes over the whole clip: left, top, right, bottom in pixels, [4]."""
        head = load_head()
        face = (head.base[:, 2] > 0.75) & (head.base[:, 1] > 6.3) & (head.base[:, 1] < 8.1)
        face_ids = np.intersect1d(np.flatnonzero(face), head.vertices_of(SKIN))
        lips = np.flatnonzero(head.lips > 0.5)
        return (
            self._box(self.project(subject, performance, face_ids)),
            self._box(self.project(subject, performance, lips)),
        )

    def _box(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        low, high = points.min((0, 1)), points.max((0, 1))
        return np.asarray(np.clip(np.concatenate([low, high]), 0, self.resolution), np.float32)


def _lip_gap(vertices: Tensor) -> Tensor:
    """Return the smallest distance [F] between the middles of the lips, decimetres."""
    upper, lower = vertices[:, list(UPPER_LIP)], vertices[:, list(LOWER_LIP)]
    return torch.cdist(upper, lower).amin((1, 2))


_POINTS_AT_ONCE = 12_000_000
_JAW = FACE_UNITS.index("jawOpen")


def _lobes(head: HeadAsset, rest: Tensor) -> Tensor:
    """Return the positions [2, 3] of the lowest vertices of the ears."""
    lobes = []
    for side in (1, -1):
        ear = np.flatnonzero((head.ears > 0.5) & (head.base[:, 0] * side > 0))
        lobes.append(int(ear[head.base[ear, 1].argmin()]))
    return rest[lobes]


def _pivot(base: NDArray[np.float32], rest: NDArray[np.float32], device: torch.device) -> Tensor:
    """Return the neck's joint, displaced with the identity's neck."""
    ring = (np.abs(base[:, 1] - 6.5) < 0.25) & (base[:, 2] < 0.6)
    moved = (rest[ring] - base[ring]).mean(0)
    return torch.from_numpy(
        np.array([0, 6.45, 0.15], np.float32) + moved * np.array([0, 1, 1], np.float32)
    ).to(device)
