"""Random worlds: the plain one is unchanged, every option changes the picture, boxes and lips stay right."""

import dataclasses

import numpy as np
import pytest
import torch

from livetalk.synthetic.people.identity import Identity, sample_identity
from livetalk.synthetic.people.widen import DRAWN_SHARE, widen
from livetalk.synthetic.people.world import (
    BACKDROPS,
    EARRINGS,
    HEADWEAR,
    PRINTS,
    Backdrop,
    Earrings,
    Finish,
    Headwear,
    Print,
    SkinPaint,
    Teeth,
    World,
)  # fmt: skip
from livetalk.synthetic.performance.performance import FACE_UNITS, Performance
from livetalk.synthetic.render_clips import cast_identity, with_mood
from livetalk.synthetic.rendering.mouth import shade_teeth
from livetalk.synthetic.rendering.renderer import Renderer
from livetalk.synthetic.rendering.shading import Surface, make_lights

SIZE = 64
RED = (0.6, 0.05, 0.05)
STRIPES = Print("stripes", RED, (0.8, 0.8, 0.8), 0.3, 0.4, 3)
BARE = SkinPaint(5, (0, 0, 0, 0), 0, (0.6, 0.5, 0.5), 0, 0, 0, 0, 0, 0, (0.1, 0.1, 0.6), RED, RED, 0)


def act(*openings: float) -> Performance:
    """A performance with these openings of the jaw and a still head."""
    count = len(openings)
    units = np.zeros((count, len(FACE_UNITS)), np.float32)
    units[:, FACE_UNITS.index("jawOpen")] = openings
    zeros = np.zeros((count, 3), np.float32)
    return Performance(units, zeros, zeros.copy(), zeros[:, :2].copy(), zeros[:, 0].copy())


def man(world: World) -> Identity:
    """A fixed man without hair, which makes preparing him fast, in a world."""
    identity = next(person for person in map(sample_identity, range(40)) if person.male)
    hair = dataclasses.replace(identity.hair, style="bald")
    return dataclasses.replace(identity, hair=hair, world=world)


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    torch.set_num_threads(1)
    return Renderer("cpu", resolution=SIZE)


def picture(renderer: Renderer, identity: Identity) -> torch.Tensor:
    return renderer.render(renderer.prepare(identity), act(0.5))[0]


def test_without_a_share_of_worlds_people_are_plain() -> None:
    assert all(cast_identity(seed).world == World() for seed in range(50))
    assert all(cast_identity(seed, 1.0).world != World() for seed in range(50))


def test_worlds_are_determined_by_the_seed_and_keep_the_person() -> None:
    person = sample_identity(5)
    first, second = widen(person, 5), widen(person, 5)
    assert first == second
    assert first != widen(person, 6)
    back = dataclasses.replace(first, world=World(), light=person.light, view=person.view)
    assert dataclasses.replace(back, hair=person.hair, skin=person.skin) == person


def test_the_share_of_worlds_is_that_asked_for() -> None:
    wide = sum(cast_identity(seed, 0.3).world != World() for seed in range(600))
    # Three standard deviations of 600 draws.
    assert abs(wide / 600 - 0.3) < 3 * (0.3 * 0.7 / 600) ** 0.5


def test_worlds_cover_all_kinds() -> None:
    worlds = [widen(sample_identity(seed), seed).world for seed in range(800)]
    assert {world.cloth.kind for world in worlds if world.cloth} == set(PRINTS)
    assert {world.headwear.kind for world in worlds if world.headwear} == set(HEADWEAR)
    assert {world.earrings.kind for world in worlds if world.earrings} == set(EARRINGS)
    assert {world.backdrop.kind for world in worlds if world.backdrop} == set(BACKDROPS)
    drawn = [w.finish for w in worlds if w.finish and (w.finish.brush or w.finish.levels)]
    assert abs(len(drawn) / 800 - DRAWN_SHARE) < 3 * (DRAWN_SHARE / 800) ** 0.5


def test_a_plain_world_leaves_a_drawn_identity_unchanged(renderer: Renderer) -> None:
    neutral = World(skin=BARE, finish=Finish())
    plain, same = picture(renderer, man(World())).int(), picture(renderer, man(neutral)).int()
    # A finish without effect computes display values again: they differ by rounding only.
    assert (plain - same).abs().max() <= 1


SKINS = {
    "scales": (1.0, 1.0, 1.0, 1.0),
    "blotches": 1.0,
    "freckles": 1.0,
    "moles": 8,
    "wrinkles": 1.0,
    "stubble": 1.0,
    "relief": 1.0,
    "makeup": 1.0,
    "oil": 1.0,
}
FINISHES = {
    "saturation": 0.0,
    "gain": (1.2, 1.0, 0.8),
    "gamma": 1.4,
    "brush": 8,
    "levels": 3,
    "lines": 1.0,
    "paper": 0.7,
}
WORLDS = {
    **{f"skin {name}": World(skin=dataclasses.replace(BARE, **{name: on})) for name, on in SKINS.items()},
    **{f"finish {name}": World(finish=Finish(**{name: on})) for name, on in FINISHES.items()},
    **{f"cloth {kind}": World(cloth=dataclasses.replace(STRIPES, kind=kind)) for kind in PRINTS},
    **{
        f"backdrop {kind}": World(backdrop=Backdrop(kind, 3, (RED, (0.1, 0.4, 0.7)), 0.0, 1.0, STRIPES))
        for kind in BACKDROPS
    },
    **{f"headwear {kind}": World(headwear=Headwear(kind, RED, 0.15, 0.1, None, 0.3)) for kind in HEADWEAR},
    "headwear print": World(headwear=Headwear("cap", RED, 0.15, 0.1, STRIPES, 0.0)),
    **{f"earrings {kind}": World(earrings=Earrings(kind, 0.08, (0.8, 0.1, 0.8))) for kind in EARRINGS},
    "teeth colour": World(teeth=Teeth((0.4, 0.3, 0.1), 0.0, 0.0, None)),
    "turn": World(turn=(0.3, 0.0, 0.0)),
}


@pytest.fixture(scope="module")
def plain(renderer: Renderer) -> torch.Tensor:
    return picture(renderer, man(World()))


@pytest.mark.parametrize("name", WORLDS)
def test_every_option_changes_the_picture(renderer: Renderer, plain: torch.Tensor, name: str) -> None:
    change = (picture(renderer, man(WORLDS[name])).int() - plain.int()).abs().amax(-1)
    # Of the smallest things, moles, a few pixels of a frame of 64 change by more than rounding.
    assert (change > 4).sum() >= 4


def test_skin_paint_follows_the_skin(renderer: Renderer) -> None:
    """The paint of a turned head is turned: it stays in the texture, which the pose does not enter."""
    world = World(skin=dataclasses.replace(BARE, blotches=1.0))
    turned = dataclasses.replace(world, turn=(0.4, 0.0, 0.0))
    first, second = renderer.prepare(man(world)), renderer.prepare(man(turned))
    assert torch.equal(first.skin, second.skin)


def test_boxes_and_lips_are_those_of_the_turned_mesh(renderer: Renderer) -> None:
    performance = act(0.0, 0.5)
    straight, turned = renderer.prepare(man(World())), renderer.prepare(man(World(turn=(0.4, 0.1, 0.1))))
    # The gap between the lips does not depend on the head's pose, beyond rounding of float32 positions.
    np.testing.assert_allclose(
        renderer.lip_opening(straight, performance), renderer.lip_opening(turned, performance), atol=1e-4
    )
    moved = renderer.boxes(turned, performance)[1] - renderer.boxes(straight, performance)[1]
    assert moved[0] > 1
    both = renderer.render(turned, performance).int()
    left, top, right, bottom = renderer.boxes(turned, performance)[1].round().astype(int)
    change = (both[1] - both[0]).abs().sum(-1)
    assert change[max(0, top - 2) : bottom + 8, left - 2 : right + 2].sum() > 0.5 * change.sum()


def test_faces_stay_in_the_frame(renderer: Renderer) -> None:
    for seed in range(24):
        identity = widen(man(World()), seed)
        left, top, right, bottom = renderer.boxes(renderer.prepare(identity), act(0.5))[1]
        assert 0 < left < right < SIZE
        assert 0 < top < bottom < SIZE


def test_moods_move_the_face_and_leave_the_lips_shut(renderer: Renderer) -> None:
    moods = {unit for seed in range(200) for unit in widen(sample_identity(seed), seed).world.mood}
    assert len({name for name, _ in moods}) > 10
    subject = renderer.prepare(man(World()))
    calm = act(0.0)
    strongest = World(mood=tuple({name: weight for name, weight in sorted(moods)}.items()))
    moved = with_mood(calm, strongest)
    assert not calm.units.any()
    assert (moved.units[0] > 0).sum() == len(strongest.mood)
    assert renderer.lip_opening(subject, moved)[0] < 0.05
    assert not torch.equal(renderer.render(subject, moved), renderer.render(subject, calm))


def test_teeth_differ_in_shape(renderer: Renderer) -> None:
    """Uneven, gapped and missing teeth differ from even ones, in linear light at the same samples."""
    rest = torch.stack([torch.linspace(-0.3, 0.3, 200), torch.full((200,), 6.7), torch.full((200,), 1.45)], 1)
    ones, ahead = torch.ones(200), torch.tensor([[0.0, 0.0, 1.0]]).expand(200, 3)
    surface = Surface(rest, ahead, ahead, ahead, ones, ones)
    person = man(World())
    lights = make_lights(person.light, torch.device("cpu"))

    def shade(teeth: Teeth) -> torch.Tensor:
        return shade_teeth(surface, lights, (person.skin, teeth), rest, ones)

    even = Teeth((0.8, 0.8, 0.8), 0.0, 0.0, None)
    for change in ({"uneven": 1.0}, {"gap": 1.0}, {"missing": 0}):
        assert (shade(dataclasses.replace(even, **change)) - shade(even)).abs().max() > 0.05
