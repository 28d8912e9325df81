"""Chunks made piece by piece, as commands: the frames and the streams that whole chunks make."""

from itertools import repeat

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.worker_program import SIZE, build, networks_of
from livetalk.assembly.model import AvatarModel
from livetalk.assembly.session import SessionOptions
from livetalk.engine.audio_feed import AudioPiece
from livetalk.engine.commands import BeginChunk, CloseStream, NextChunk, NextPiece, OpenStream
from livetalk.engine.join import ControlLine
from livetalk.engine.stream import Streams, generate_stream
from livetalk.engine.worker import Leader, StreamTable, follow, spread_model
from parallel.gloo_ranks import run_ranks
from tolerance import assert_near, expect_all


def open_stream(stream: int, portrait: int = 0) -> OpenStream:
    """Open a stream that decodes one latent frame at a time."""
    rng = torch.Generator().manual_seed(portrait)
    picture = torch.rand(3, SIZE.height, SIZE.width, generator=rng) * 2 - 1
    options: SessionOptions = {"loudness": "off", "latents_per_decode": 1}
    return OpenStream(stream=stream, picture=picture, sound=torch.zeros(0), options=options)


def sound(model: AvatarModel, index: int) -> Tensor:
    rng = torch.Generator().manual_seed(50 + index)
    return torch.randn(model.settings.geometry.chunk_samples, generator=rng) / 10


def whole(streams: Streams, samples: Tensor, stream: int = 1) -> Tensor:
    """Make the next chunk at once."""
    chunk = streams.run(NextChunk(stream=stream, samples=samples))
    assert chunk is not None
    return chunk.pixels


def in_pieces(streams: Streams, samples: Tensor, stream: int = 1) -> Tensor:
    """Make the next chunk piece by piece."""
    streams.run(BeginChunk(stream=stream, samples=samples))
    taken = []
    while (piece := streams.run(NextPiece(stream=stream))) is not None:
        taken.append(piece.pixels)
    assert len(taken) == 3
    return torch.cat(taken, dim=1)


@pytest.fixture
def streams() -> StreamTable:
    """Return a table with two streams that begin alike."""
    table = StreamTable(build())
    for number in (1, 2):
        table.run(open_stream(number))
    return table


def test_a_stream_goes_on_alike_however_its_chunks_are_made(streams: StreamTable) -> None:
    sounds = [sound(streams.model, index) for index in range(3)]
    expected = [whole(streams, samples, 1) for samples in sounds]
    ways = (in_pieces, whole, in_pieces)
    found = [way(streams, samples, 2) for way, samples in zip(ways, sounds, strict=True)]
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def test_a_chunk_that_is_given_up_was_never_there(streams: StreamTable) -> None:
    first, second = sound(streams.model, 0), sound(streams.model, 1)
    expected = [whole(streams, samples, 1) for samples in (first, second)]
    streams.run(BeginChunk(stream=2, samples=second))
    streams.run(NextPiece(stream=2))
    assert torch.equal(in_pieces(streams, first, 2), expected[0])
    streams.run(BeginChunk(stream=2, samples=first))
    streams.run(NextPiece(stream=2))
    assert torch.equal(whole(streams, second, 2), expected[1])
    with pytest.raises(ValueError, match="stream 2 is not amid a chunk"):
        streams.run(NextPiece(stream=2))


def test_a_chunk_that_failed_does_not_pass_for_one_that_ended(
    streams: StreamTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = sound(streams.model, 0)
    expected = whole(streams, samples, 1)
    streams.run(BeginChunk(stream=2, samples=samples))
    streams.run(NextPiece(stream=2))
    with monkeypatch.context() as patch:
        patch.setattr(streams.model.executor.networks.vae, "decode", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            streams.run(NextPiece(stream=2))
    with pytest.raises(ValueError, match="not amid a chunk"):
        streams.run(NextPiece(stream=2))
    assert torch.equal(in_pieces(streams, samples, 2), expected)


def test_a_progressive_stream_is_cut_to_its_sound() -> None:
    model = build()
    samples = [sound(model, index).numpy() for index in range(2)]
    pieces = [AudioPiece(samples[0], num_frames=12), AudioPiece(samples[1], num_frames=6)]
    made = {}
    for progressive in (False, True):
        streams = StreamTable(model)
        chunks = generate_stream(streams, open_stream(1), pieces, progressive=progressive)
        made[progressive] = list(chunks)
        with pytest.raises(KeyError):
            streams.run(CloseStream(stream=1))
    assert [(c.first_frame, c.pixels.shape[1]) for c in made[False]] == [(0, 12), (12, 6)]
    assert [(c.first_frame, c.pixels.shape[1]) for c in made[True]] == [
        (0, 4),
        (4, 4),
        (8, 4),
        (12, 4),
        (16, 2),
    ]
    joined = [torch.cat([chunk.pixels for chunk in made[way]], dim=1) for way in (False, True)]
    assert torch.equal(joined[1], joined[0])


def test_a_progressive_stream_that_is_left_amid_a_chunk_is_forgotten() -> None:
    streams = StreamTable(build())
    silence = np.zeros(streams.model.settings.geometry.chunk_samples, np.float32)
    pieces = repeat(AudioPiece(silence, num_frames=12))
    chunks = generate_stream(streams, open_stream(1), pieces, progressive=True)
    assert [next(chunks).first_frame for _ in range(4)] == [0, 4, 8, 12]
    chunks.close()
    with pytest.raises(KeyError):
        streams.run(CloseStream(stream=1))


def take_turns(streams: Streams, model: AvatarModel) -> list[Tensor]:
    """Make pieces of two streams in turns, give one chunk up, and go on."""
    samples = sound(model, 0)
    for number in (1, 2):
        streams.run(open_stream(number, portrait=number))
        streams.run(BeginChunk(stream=number, samples=samples))
    taken = [streams.run(NextPiece(stream=number)) for number in (1, 2, 1)]
    return [*(piece.pixels for piece in taken if piece is not None), in_pieces(streams, samples, 2)]


def lead_or_follow() -> list[Tensor]:
    line = ControlLine()
    model = spread_model(build())
    streams = StreamTable(model)
    if not line.leads:
        follow(streams, line)
        return []
    with Leader(streams, line) as leader:
        return take_turns(leader, model)


def test_all_ranks_stop_and_go_on_together() -> None:
    model = build()
    expected = expect_all(lambda: take_turns(StreamTable(model), model), *networks_of(model))
    found = run_ranks(lead_or_follow, 2)
    assert [pixels.shape[1] for pixels, _ in expected] == [4, 4, 4, 12] and found[1] == []
    for own, one_rank in zip(found[0], expected, strict=True):
        assert_near(own, *one_rank)
