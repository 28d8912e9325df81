"""Sound that is announced before its chunk is asked for: heard sooner, and nothing else."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.worker_program import SIZE, build
from livetalk.assembly.session import SessionOptions
from livetalk.engine.audio_feed import AudioPiece
from livetalk.engine.commands import BeginChunk, NextChunk, NextPiece, OpenStream
from livetalk.engine.stream import generate_stream
from livetalk.engine.worker import StreamTable


@pytest.fixture
def events() -> list[str]:
    return []


@pytest.fixture
def streams(events: list[str]) -> StreamTable:
    """Return a table with two streams that begin alike; the parts of its model say when they work."""
    table = StreamTable(build())
    models = table.model.models
    models.dit.audio_projection.register_forward_pre_hook(lambda *_: events.append("hear"))
    models.vae.decoder.register_forward_pre_hook(lambda *_: events.append("decode"))
    for number in (1, 2):
        table.run(open_stream(number))
    return table


def open_stream(stream: int) -> OpenStream:
    rng = torch.Generator().manual_seed(0)
    picture = torch.rand(3, SIZE.height, SIZE.width, generator=rng) * 2 - 1
    options: SessionOptions = {"loudness": "running"}
    return OpenStream(stream=stream, picture=picture, sound=torch.zeros(0), options=options)


def sound(streams: StreamTable, index: int) -> Tensor:
    rng = torch.Generator().manual_seed(50 + index)
    return torch.randn(streams.model.models.config.geometry.chunk_samples, generator=rng) / 10


def make(streams: StreamTable, stream: int, samples: Tensor, ahead: Tensor | None = None) -> Tensor:
    chunk = streams.run(NextChunk(stream=stream, samples=samples, ahead=ahead))
    assert chunk is not None
    return chunk.pixels


def test_what_was_announced_is_heard_once_and_before_the_frames(
    streams: StreamTable, events: list[str]
) -> None:
    sounds = [sound(streams, index) for index in range(3)]
    expected = [make(streams, 1, samples) for samples in sounds]
    assert events == ["hear", "decode"] * 3
    events.clear()
    found = [
        make(streams, 2, samples, ahead) for samples, ahead in zip(sounds, [*sounds[1:], None], strict=True)
    ]
    assert events == ["hear", "hear", "decode", "hear", "decode", "decode"]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_sound_may_turn_out_to_be_another(streams: StreamTable, events: list[str]) -> None:
    sounds = [sound(streams, index) for index in range(2)]
    expected = [make(streams, 1, samples) for samples in sounds]
    events.clear()
    found = [make(streams, 2, sounds[0], ahead=sound(streams, 7)), make(streams, 2, sounds[1])]
    assert events == ["hear", "hear", "decode", "hear", "decode"]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("in_pieces", [False, True])
def test_what_was_announced_behind_a_chunk_that_is_given_up_is_forgotten(
    streams: StreamTable, in_pieces: bool
) -> None:
    """It was heard after another past."""
    given_up, first, second = (sound(streams, index) for index in (7, 0, 1))
    expected = [make(streams, 1, samples) for samples in (first, second)]
    streams.run(BeginChunk(stream=2, samples=given_up, ahead=second))
    streams.run(NextPiece(stream=2))
    if in_pieces:
        streams.run(BeginChunk(stream=2, samples=first))
        while streams.run(NextPiece(stream=2)) is not None:
            pass
    else:
        assert torch.equal(make(streams, 2, first), expected[0])
    assert torch.equal(make(streams, 2, second), expected[1])


def test_a_chunk_that_sounds_like_the_one_announced_behind_it_is_still_itself(streams: StreamTable) -> None:
    samples = sound(streams, 0)
    expected = [make(streams, 1, samples) for _ in range(3)]
    streams.run(BeginChunk(stream=2, samples=samples, ahead=samples))
    streams.run(NextPiece(stream=2))
    found = [make(streams, 2, samples, ahead=samples) for _ in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert not torch.equal(expected[0], expected[1])


def test_a_chunk_that_cannot_be_heard_ahead_changes_nothing(streams: StreamTable) -> None:
    samples = sound(streams, 0)
    with pytest.raises(ValueError, match="audio must be"):
        make(streams, 2, samples, ahead=torch.zeros(3))
    assert torch.equal(make(streams, 2, samples), make(streams, 1, samples))


@pytest.mark.parametrize("progressive", [False, True])
def test_only_sound_that_is_there_is_asked_for(streams: StreamTable, progressive: bool) -> None:
    samples = [sound(streams, index).numpy().astype(np.float32) for index in range(3)]
    made: dict[bool, list[Tensor]] = {}
    taken: list[int] = []

    def pieces() -> Iterator[AudioPiece]:
        for index, piece in enumerate(samples):
            taken.append(index)
            yield AudioPiece(piece, num_frames=12)

    for ahead, seen in ((False, [0]), (True, [0, 1])):
        taken.clear()
        chunks = generate_stream(streams, open_stream(3), pieces(), progressive=progressive, ahead=ahead)
        first = next(chunks)
        assert taken == seen
        made[ahead] = [first.pixels, *(chunk.pixels for chunk in chunks)]
        assert taken == [0, 1, 2]
    assert all(torch.equal(a, b) for a, b in zip(made[True], made[False], strict=True))
    assert sum(pixels.shape[1] for pixels in made[True]) == 36
