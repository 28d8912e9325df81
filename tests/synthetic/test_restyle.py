"""Other hair, beards, scarves and reflections: fixed by the seed, visible, and with the same face."""

import dataclasses

import numpy as np
import pytest
import torch

from livetalk.synthetic.people.identity import HAIR_STYLES, Identity, sample_identity
from livetalk.synthetic.people.restyle import restyle
from livetalk.synthetic.people.world import NeckScarf, Print, World
from livetalk.synthetic.performance.performance import FACE_UNITS, Performance
from livetalk.synthetic.rendering.renderer import Renderer

SIZE = 64
RED = (0.5, 0.05, 0.05)
PRINT = Print("stripes", (0.8, 0.8, 0.8), (0.1, 0.1, 0.8), period=0.3, angle=0.3, seed=2)


def bald_with_glasses() -> Identity:
    person = sample_identity(11)
    hair = dataclasses.replace(person.hair, style="bald")
    outfit = dataclasses.replace(person.outfit, glasses="thin", kind="v_neck")
    return dataclasses.replace(person, hair=hair, outfit=outfit)


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    torch.set_num_threads(1)
    return Renderer("cpu", resolution=SIZE)


def shown(renderer: Renderer, world: World) -> torch.Tensor:
    zeros = np.zeros((1, 3), np.float32)
    units = np.zeros((1, len(FACE_UNITS)), np.float32)
    still = Performance(units, zeros, zeros.copy(), zeros[:, :2].copy(), zeros[:, 0].copy())
    subject = renderer.prepare(dataclasses.replace(bald_with_glasses(), world=world))
    return renderer.render(subject, still)[0].int()


def test_the_seed_decides_and_the_face_stays() -> None:
    person = sample_identity(5)
    draws = [restyle(person, seed, PRINT, RED) for seed in range(300)]
    assert draws[7] == restyle(person, 7, PRINT, RED)
    assert {draw.hair.style for draw in draws} == set(HAIR_STYLES)
    assert {draw.world.neck_scarf is None for draw in draws} == {True, False}
    assert all(draw.shape == person.shape and draw.skin.tone == person.skin.tone for draw in draws)


def test_scarf_and_reflections_are_visible_where_they_belong(renderer: Renderer) -> None:
    plain = shown(renderer, World())
    scarf = (shown(renderer, World(neck_scarf=NeckScarf(RED, 0.3, None))) - plain).abs().amax(-1) > 8
    printed = shown(renderer, World(neck_scarf=NeckScarf(RED, 0.3, PRINT)))
    glass = (shown(renderer, World(reflection=0.5)) - plain).abs().amax(-1) > 8
    eye_row = round(bald_with_glasses().view.eye_row * SIZE)
    assert scarf[eye_row + 10 :].float().mean() > 0.05
    assert not scarf[: eye_row - 3].any()
    assert ((printed - plain).abs().amax(-1) > 8).any()
    assert glass[eye_row - 6 : eye_row + 6].sum() == glass.sum() > 5
