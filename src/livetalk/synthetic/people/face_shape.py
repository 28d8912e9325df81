"""Random face shapes: weights of the head's morphs."""

import numpy as np

from livetalk.synthetic.people.head import load_head


def sample_shape(
    rng: np.random.Generator, male: bool, age: float, ancestry: tuple[float, float, float]
) -> dict[str, float]:
    """Draw weights of the macro and detail morphs by name; `age` is 0..1, `ancestry` three shares."""
    sex = "male" if male else "female"
    ages = (("young", 1 - age), ("old", age))
    weights: dict[str, float] = {}
    for race, share in zip(("african", "asian", "caucasian"), ancestry, strict=True):
        for label, amount in ages:
            weights[f"macro/{race}-{sex}-{label}"] = share * amount
    muscle = str(rng.choice(["averagemuscle", "maxmuscle", "minmuscle"], p=[0.7, 0.12, 0.18]))
    weight = str(rng.choice(["averageweight", "maxweight", "minweight"], p=[0.72, 0.14, 0.14]))
    for label, amount in ages:
        weights[f"macro/universal-{sex}-{label}-{muscle}-{weight}"] = amount * 0.85
    weights.update(_details(rng))
    names = set(load_head().morph_names)
    return {name: float(value) for name, value in weights.items() if name in names and value > 1e-3}


_DETAIL_STRENGTH = {
    "neck": 0.10, "ears": 0.16, "head": 0.13, "nose": 0.15, "mouth": 0.15, "eyes": 0.15, "asym": 0.12,
    "chin": 0.17, "cheek": 0.18, "forehead": 0.16, "eyebrows": 0.2,
}  # fmt: skip


def _details(rng: np.random.Generator) -> dict[str, float]:
    """Draw weights of the small morphs: one at most of two opposite ones, and the same for left and right."""
    skipped = (
        "trans-in",
        "trans-out",
        "trunk",
        "breast",
        "shape-pointed",
        "shape-triangle",
        "head-trans",
        "head-angle",
    )
    weights: dict[str, float] = {}
    taken: set[str] = set()
    for name in load_head().morph_names:
        group = name.split("/")[0]
        if group == "macro" or "/r-" in name or any(part in name for part in skipped):
            continue
        stem = name.rsplit("-", 1)[0]
        active = rng.random() < (0.25 if group == "asym" else 0.5)
        amount = float(min(abs(rng.normal(0, _DETAIL_STRENGTH[group])), 0.45))
        first = rng.random() < 0.5
        if "mouth-angles" in name:
            # The base head looks sad, so the corners of the mouth always point up, by a varying amount.
            weights["mouth/mouth-angles-up"] = 0.15 + amount
            continue
        if stem in taken or not active or (not first and group != "asym"):
            continue
        taken.add(stem)
        weights[name] = amount
        if "/l-" in name:
            weights[name.replace("/l-", "/r-")] = amount
    return weights
