"""Chunks made piece by piece: the frames and the streams that whole chunks make."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.worker_program import build, networks_of, open_request
from livetalk.assembly.model import AvatarModel
from livetalk.engine.backend import Backend
from livetalk.engine.join import ControlChannel
from livetalk.engine.leader import Leader, follow
from livetalk.engine.offline import run_stream
from livetalk.engine.table import StreamTable
from livetalk.engine.worker import parallelize_model, share_weights
from livetalk.types import VideoChunk
from parallel.gloo_ranks import run_ranks
from tolerance import assert_near, expect_all

NO_AUDIO = np.zeros(0, np.float32)


def audio(index: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(50 + index)
    return rng.normal(0, 0.1, 12 * 640).astype(np.float32)


def open_stream(
    backend: Backend[VideoChunk], stream: int, portrait: int = 0, progressive: bool = True
) -> None:
    """Open a stream that decodes one latent frame at a time."""
    request = open_request(stream, portrait, latents_per_decode=1, progressive=progressive)
    backend.open(request, backend.prepare(request), NO_AUDIO)


def make_chunk(backend: Backend[VideoChunk], samples: NDArray[np.float32], stream: int) -> list[Tensor]:
    """Make the next chunk of a stream, and return its pieces."""
    made = [backend.advance(stream, samples)]
    while not made[-1].chunk_ended:
        made.append(backend.advance(stream))
    return [piece.frames.pixels for piece in made if piece.frames is not None]


@pytest.fixture
def table() -> StreamTable:
    """Return a table with two streams that begin alike, 1 in whole chunks and 2 in pieces."""
    table = StreamTable(build())
    open_stream(table, 1, progressive=False)
    open_stream(table, 2)
    return table


def test_a_stream_in_pieces_has_the_frames_of_whole_chunks(table: StreamTable) -> None:
    for index in range(3):
        whole, pieces = (make_chunk(table, audio(index), stream) for stream in (1, 2))
        assert len(whole) == 1 and [piece.shape[1] for piece in pieces] == [4, 4, 4]
        assert torch.equal(whole[0], torch.cat(pieces, dim=1))


def blocks(*num_samples: int) -> list[NDArray[np.float32]]:
    return [audio(index)[:size] for index, size in enumerate(num_samples)]


def test_a_progressive_stream_is_cut_to_its_audio() -> None:
    made = {}
    for progressive in (False, True):
        request = open_request(1, latents_per_decode=1, progressive=progressive)
        made[progressive] = list(run_stream(StreamTable(build()), request, blocks(12 * 640, 6 * 640)))
    assert [(c.first_frame, c.pixels.shape[1]) for c in made[False]] == [(0, 12), (12, 6)]
    sizes = [(c.first_frame, c.pixels.shape[1]) for c in made[True]]
    assert sizes == [(0, 4), (4, 4), (8, 4), (12, 4), (16, 2)]
    joined = [torch.cat([chunk.pixels for chunk in made[way]], dim=1) for way in (False, True)]
    assert torch.equal(joined[0], joined[1])


def take_turns(backend: Backend[VideoChunk], model: AvatarModel) -> list[Tensor]:
    """Make pieces of two streams in turns, cut one of them amid its chunk, and go on."""
    taken = []
    for number in (1, 2):
        open_stream(backend, number, portrait=number)
    made = [backend.advance(1, audio(0)), backend.advance(2, audio(0)), backend.advance(1)]
    taken = [piece.frames.pixels for piece in made if piece.frames is not None]
    backend.cut(2, 3)
    return [*taken, *make_chunk(backend, audio(1), 2), *make_chunk(backend, audio(2), 2)]


def lead_or_follow() -> list[Tensor]:
    channel = ControlChannel()
    model = build()
    vae = share_weights(model.executor.networks.vae)
    table = StreamTable(parallelize_model(model), vae)
    if not channel.leads:
        follow(table, channel)
        return []
    with Leader(table, channel) as leader:
        return take_turns(leader, leader.model)


def test_all_ranks_stop_and_go_on_together() -> None:
    model = build()
    expected = expect_all(lambda: take_turns(StreamTable(model), model), *networks_of(model))
    found = run_ranks(lead_or_follow, 2)
    assert [pixels.shape[1] for pixels, _ in expected] == [4] * 9 and found[1] == []
    for own, one_rank in zip(found[0], expected, strict=True):
        assert_near(own, *one_rank)
