"""The portrait renderer: same seed same frames, shut lips are shut, batches equal single frames."""

import dataclasses

import numpy as np
import pytest
import torch

from livetalk.synthetic.people.head import load_head
from livetalk.synthetic.people.identity import HAIR_STYLES, sample_identity
from livetalk.synthetic.performance.performance import FACE_UNITS, Performance
from livetalk.synthetic.rendering.renderer import Renderer
from livetalk.synthetic.rendering.scene import Subject

SIZE = 64


def act(*frames: dict[str, float]) -> Performance:
    """A performance with these facial units per frame and a still head."""
    count = len(frames)
    units = np.zeros((count, len(FACE_UNITS)), np.float32)
    for row, weights in zip(units, frames, strict=True):
        for name, weight in weights.items():
            row[FACE_UNITS.index(name)] = weight
    zeros = np.zeros((count, 3), np.float32)
    return Performance(units, zeros, zeros.copy(), zeros[:, :2].copy(), zeros[:, 0].copy())


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    torch.set_num_threads(1)
    return Renderer("cpu", resolution=SIZE)


@pytest.fixture(scope="module")
def subject(renderer: Renderer) -> Subject:
    return renderer.prepare(sample_identity(11))


def test_identity_is_determined_by_its_seed() -> None:
    assert sample_identity(5) == sample_identity(5)
    assert sample_identity(5) != sample_identity(6)


def test_identities_cover_every_hair_style() -> None:
    seen = {sample_identity(seed).hair.style for seed in range(400)}
    assert seen == set(HAIR_STYLES)


def test_head_has_all_units_and_no_wild_offsets() -> None:
    head = load_head()
    assert head.units.shape == (len(FACE_UNITS), len(head.base), 3)
    assert np.abs(head.units).max(axis=(1, 2)).min() > 0.01
    assert head.triangles.max() < len(head.base)


def test_same_seed_gives_same_frames(renderer: Renderer, subject: Subject) -> None:
    again = Renderer("cpu", resolution=SIZE)
    performance = act({"jawOpen": 0.3})
    first = renderer.render(subject, performance)
    second = again.render(again.prepare(sample_identity(11)), performance)
    assert torch.equal(first, second)


def test_frames_are_pictures_of_a_person(renderer: Renderer, subject: Subject) -> None:
    frames = renderer.render(subject, act({}, {"jawOpen": 0.6}))
    assert frames.shape == (2, SIZE, SIZE, 3)
    assert frames.dtype == torch.uint8
    difference = (frames[0].int() - frames[1].int()).abs().sum(-1)
    _, mouth = renderer.boxes(subject, act({}, {"jawOpen": 0.6}))
    left, top, right, bottom = mouth.round().astype(int)
    inside = difference[top : bottom + 8, left:right].sum()
    assert inside > 0.5 * difference.sum()


def test_batches_equal_single_frames(renderer: Renderer, subject: Subject) -> None:
    performance = act({}, {"jawOpen": 0.4}, {"eyeBlinkLeft": 1.0}, {"mouthSmileLeft": 0.7})
    whole = renderer.render(subject, performance, batch_frames=4)
    single = renderer.render(subject, performance, batch_frames=1)
    assert (whole.int() - single.int()).abs().max() <= 1


def test_head_motion_moves_the_face(renderer: Renderer, subject: Subject) -> None:
    performance = act({}, {})
    performance.head_rotation[1, 0] = 0.4
    nose = np.array([int(np.argmax(load_head().base[:, 2] * (load_head().base[:, 1] > 6.8)))])
    points = renderer.project(subject, performance, nose)
    assert points[1, 0, 0] > points[0, 0, 0] + 1


@pytest.mark.parametrize(
    "closed",
    [
        {},
        {"mouthPressLeft": 0.5, "mouthPressRight": 0.5},
        {"mouthRollLower": 0.4, "mouthRollUpper": 0.4},
        {"jawOpen": 0.25, "mouthClose": 0.25},
    ],
)
def test_lip_opening_is_small_when_shut(
    renderer: Renderer, subject: Subject, closed: dict[str, float]
) -> None:
    shut, ajar = renderer.lip_opening(subject, act(closed, {"jawOpen": 0.25}))
    assert shut < 0.035
    assert ajar > 0.1


def test_lip_opening_grows_with_the_jaw(renderer: Renderer, subject: Subject) -> None:
    opening = renderer.lip_opening(subject, act(*({"jawOpen": w} for w in (0.0, 0.1, 0.3, 0.6))))
    assert opening[0] == 0
    assert (np.diff(opening) > 0.02).all()


def test_boxes_hold_the_face_and_the_mouth_lies_inside(renderer: Renderer, subject: Subject) -> None:
    face, mouth = renderer.boxes(subject, act({}))
    assert 0 <= face[0] < mouth[0] < mouth[2] < face[2] <= SIZE
    assert 0 <= face[1] < mouth[1] < mouth[3] < face[3] <= SIZE


def test_bald_people_have_no_strands(renderer: Renderer) -> None:
    identity = sample_identity(3)
    bald = dataclasses.replace(identity, hair=dataclasses.replace(identity.hair, style="bald"))
    assert len(renderer.prepare(bald).strands.points) == 0
