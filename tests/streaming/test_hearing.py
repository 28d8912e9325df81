"""Where a stream listens: all of a chunk's sound on the lane, all else in the main work."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from livetalk.ops.lanes import Lane, Mark
from livetalk.streaming.hearing import begin_window, encode_audio_context, hear_chunk, project_speech
from livetalk.streaming.loudness import LoudnessMode
from livetalk.streaming.progressive import generate_pieces
from livetalk.streaming.step import (
    create_recorded_state,
    create_state,
    generate_chunk,
    prepare_conditioning,
)
from tiny import IMAGE_SIDE, FrameEncoder, tiny_models

IMAGE = torch.rand(3, IMAGE_SIDE, IMAGE_SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1


class WatchedLane(Lane):
    """Notes what happens on it and around it."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = False
        self.events: list[str] = []
        self.joined: list[Tensor] = []

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        self.inside = True
        yield
        self.inside = False

    def follow(self) -> None:
        self.note("follow")

    def mark(self) -> Mark:
        self.note("mark")
        return None

    def join(self, mark: Mark, *made: Tensor) -> None:
        self.note("join")
        self.joined = list(made)

    def note(self, name: str) -> None:
        """Note an event and where it happened."""
        self.events.append(f"{name}, {'lane' if self.inside else 'main'}")


class Fixture:
    """A tiny model whose parts tell a lane where they run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
        self.lane = lane = WatchedLane()
        self.models = dataclasses.replace(tiny_models(), lane=lane, **changes)
        encode = FrameEncoder.__call__

        def listen(encoder: FrameEncoder, waveform: Tensor) -> Tensor:
            lane.note("encode")
            return encode(encoder, waveform)

        monkeypatch.setattr(FrameEncoder, "__call__", listen)
        dit = self.models.dit
        dit.audio_projection.register_forward_pre_hook(lambda *_: lane.note("project"))
        dit.patch_embedding.register_forward_pre_hook(lambda *_: lane.note("step"))
        self.conditioning = prepare_conditioning(self.models, IMAGE)

    def sound(self, index: int) -> Tensor:
        """Return the sound of a chunk."""
        rng = torch.Generator().manual_seed(index)
        return torch.randn(self.models.config.geometry.chunk_samples, generator=rng) * 0.1


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("loudness", LoudnessMode)
def test_sound_is_heard_on_the_lane(
    monkeypatch: pytest.MonkeyPatch, progressive: bool, recorded: bool, loudness: LoudnessMode
) -> None:
    fixture = Fixture(monkeypatch, loudness=loudness)
    models, lane = fixture.models, fixture.lane
    if recorded:
        state = create_recorded_state(models, fixture.conditioning, 0, fixture.sound(0))
    else:
        state = create_state(models, fixture.conditioning, 0)
    if progressive:
        list(generate_pieces(models, fixture.conditioning, fixture.sound(0), state))
    else:
        generate_chunk(models, fixture.conditioning, fixture.sound(0), state)
    # The lane waits for the main work once, when the stream begins: never again.
    heard = ["encode, lane", "project, lane", "mark, main", "join, main"]
    assert lane.events == ["follow, main", *heard, *["step, main"] * 2]


def test_all_that_the_main_work_needs_is_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    fixture = Fixture(monkeypatch)
    state = create_state(fixture.models, fixture.conditioning, 0)
    heard = hear_chunk(fixture.models, fixture.sound(0), state)
    assert not fixture.lane.joined
    speech, following = begin_window(fixture.models, heard, state)
    assert speech.tokens is not None
    assert [x.data_ptr() for x in fixture.lane.joined] == [
        speech.context.data_ptr(),
        speech.tokens.data_ptr(),
    ]
    assert torch.equal(speech.context, encode_audio_context(fixture.models, following.audio))
    assert torch.equal(speech.tokens, fixture.models.dit.project_audio(speech.context))
    assert following.motion_latents is state.motion_latents and following.chunk_index == 0


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("loudness", LoudnessMode)
def test_chunks_may_be_heard_before_the_ones_before_are_made(
    monkeypatch: pytest.MonkeyPatch, recorded: bool, loudness: LoudnessMode
) -> None:
    fixture = Fixture(monkeypatch, loudness=loudness)
    sounds = [fixture.sound(index) for index in range(3)]
    if recorded:
        state = create_recorded_state(fixture.models, fixture.conditioning, 0, torch.cat(sounds))
    else:
        state = create_state(fixture.models, fixture.conditioning, 0)
    heard = [hear_chunk(fixture.models, sounds[0], state)]
    for sound in sounds[1:]:
        heard.append(hear_chunk(fixture.models, sound, heard[-1]))
    plain = ahead = state
    for sound, speech in zip(sounds, heard, strict=True):
        expected, plain = generate_chunk(fixture.models, fixture.conditioning, sound, plain)
        found, ahead = generate_chunk(fixture.models, fixture.conditioning, speech, ahead)
        assert torch.equal(found.pixels, expected.pixels)
    assert (ahead.loudness is None) == (plain.loudness is None)


def test_where_each_step_projects_nothing_is_projected_before(monkeypatch: pytest.MonkeyPatch) -> None:
    fixture = Fixture(monkeypatch, prepare=None)
    state = create_state(fixture.models, fixture.conditioning, 0)
    speech, _ = begin_window(fixture.models, fixture.sound(0), state)
    assert speech.tokens is None and len(fixture.lane.joined) == 1
    assert project_speech(fixture.models, speech.context).tokens is None
    generate_chunk(fixture.models, fixture.conditioning, fixture.sound(0), state)
    assert fixture.lane.events[-4:] == ["project, main", "step, main"] * 2
