"""The CC0 head that all synthetic identities are derived from: mesh, regions, morphs and facial units."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from livetalk.synthetic.performance.performance import FACE_UNITS

SKIN, EYE, TEETH, TONGUE, LASH, CLOTH, ORAL = range(7)
"""Materials of the triangles; `ORAL` is the inner lining of the mouth."""

UPPER_LIP = (467, 509, 468, 474, 520, 537)
LOWER_LIP = (523, 493, 494, 540, 513, 495, 557)
"""Vertices of the middle of both lips, from outside to inside; they touch when the mouth is closed."""


@dataclass(frozen=True)
class HeadAsset:
    """The mesh at rest, in decimetres: x to the model's left, y up, z forward.

    Attributes:
        lips, eyelids, ears: [V], float32 0..1, painted regions.
    """

    base: NDArray[np.float32]  # [V, 3], float32, rest positions
    triangles: NDArray[np.int64]  # [T, 3], int64, counter-clockwise from outside
    material: NDArray[np.int64]  # [T], int64, one of the material constants
    lips: NDArray[np.float32]
    eyelids: NDArray[np.float32]
    ears: NDArray[np.float32]
    units: NDArray[np.float32]  # [52, V, 3], float32, offsets of `FACE_UNITS`
    morph_names: tuple[str, ...]  # names of the shape morphs, `group/name`
    morphs: NDArray[np.float16]  # [M, V, 3], float16, offsets of the shape morphs

    def vertices_of(self, *materials: int) -> NDArray[np.int64]:
        """Return sorted vertex indices [N] of triangles with these materials."""
        chosen: NDArray[np.int64] = np.unique(self.triangles[np.isin(self.material, materials)])
        return chosen

    def shape(self, weights: dict[str, float]) -> NDArray[np.float32]:
        """Return rest positions [V, 3] with shape morphs at these weights.

        Raises:
            KeyError: a name is unknown.
        """
        index = {name: i for i, name in enumerate(self.morph_names)}
        ids = [index[name] for name in weights]
        amounts = np.fromiter(weights.values(), np.float32, len(ids))
        offset = np.tensordot(amounts, self.morphs[ids].astype(np.float32), 1)
        return np.asarray(self.base + offset, np.float32)


def _split_cloth(data: dict[str, NDArray[Any]]) -> tuple[NDArray[Any], ...]:
    """Split every cloth triangle into four, so that collars can be cut smoothly."""
    triangles = data["triangles"].astype(np.int64)
    material = data["material"].astype(np.int64)
    cloth = triangles[material == CLOTH]
    count = len(data["base"])
    edges = np.sort(np.concatenate([cloth[:, [0, 1]], cloth[:, [1, 2]], cloth[:, [2, 0]]]), 1)
    unique, inverse = np.unique(edges, axis=0, return_inverse=True)
    ab, bc, ca = (inverse.reshape(3, -1) + count).astype(np.int64)
    a, b, c = cloth.T
    split = np.concatenate([np.stack(t, 1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
    keep = material != CLOTH
    return (
        unique,
        np.concatenate([triangles[keep], split]),
        np.concatenate([material[keep], np.full(len(split), CLOTH, np.int64)]),
    )


def _seat_teeth(data: dict[str, NDArray[Any]]) -> None:
    """Move the upper teeth down and back, in place, so that an open mouth shows them below the lip."""
    names = [str(name) for name in data["names"]]
    jaw = data["deltas"][names.index("fu/jawOpen")].astype(np.float32)
    teeth = np.unique(data["triangles"][data["material"] == TEETH])
    moves = np.abs(jaw[teeth, 1]) > 0.05
    base = data["base"].astype(np.float32)
    base[teeth[~moves]] += np.array([0, -0.05, -0.035], np.float32)
    base[teeth[moves]] += np.array([0, -0.025, -0.02], np.float32)
    data["base"] = base


@cache
def load_head() -> HeadAsset:
    """Load the head once; the arrays are shared and must not be modified."""
    with files("livetalk").joinpath("assets/head/head.npz").open("rb") as stream, np.load(stream) as packed:
        data = {key: packed[key] for key in packed.files}
    edges, triangles, material = _split_cloth(data)

    def extend(values: NDArray[Any], axis: int) -> NDArray[Any]:
        ends = np.take(values, edges[:, 0], axis), np.take(values, edges[:, 1], axis)
        # Averaged in float32, because the stored integers and halves would overflow or round.
        middle = (ends[0].astype(np.float32) + ends[1].astype(np.float32)) / 2
        return np.concatenate([values, middle.astype(values.dtype)], axis)

    names = [str(name) for name in data["names"]]
    _seat_teeth(data)
    deltas = extend(data["deltas"], 1)
    masks = extend(data["masks"], 0).astype(np.float32) / 255
    unit_ids = [names.index(f"fu/{unit}") for unit in FACE_UNITS]
    morph_ids = [i for i, name in enumerate(names) if not name.startswith("fu/")]
    return HeadAsset(
        base=extend(data["base"], 0).astype(np.float32),
        triangles=triangles,
        material=material,
        lips=masks[:, 0],
        eyelids=masks[:, 2],
        ears=masks[:, 3],
        units=deltas[unit_ids].astype(np.float32),
        morph_names=tuple(names[i] for i in morph_ids),
        morphs=deltas[morph_ids],
    )
