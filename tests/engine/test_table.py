"""The streams of a model as a scheduler drives them: cuts, snapshots, and what is kept for them."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.worker_program import build, open_request
from livetalk.engine.messages import Snapshot
from livetalk.engine.table import StreamTable
from livetalk.errors import InputError
from livetalk.streaming.settings import AudioMode

NO_AUDIO = np.zeros(0, np.float32)


@pytest.fixture(scope="module")
def table() -> StreamTable:
    return StreamTable(build())


def draw_audio(index: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(index)
    return rng.normal(0, 0.1, 12 * 640).astype(np.float32)


def start(table: StreamTable, stream: int, **spec: object) -> None:
    request = open_request(stream, latents_per_decode=1, **spec)
    audio = draw_audio(0) if spec.get("audio_mode") is AudioMode.WHOLE else NO_AUDIO
    table.open(request, table.prepare(request), audio)


def chunk(
    table: StreamTable, stream: int, samples: NDArray[np.float32], num_frames: int | None = None
) -> Tensor:
    """Make the next chunk, whole or in pieces."""
    made = [table.advance(stream, samples, num_frames)]
    while not made[-1].chunk_ended:
        made.append(table.advance(stream))
    return torch.cat([piece.frames.pixels for piece in made if piece.frames is not None], dim=1)


def test_a_cut_does_not_depend_on_whether_the_chunk_was_finished(table: StreamTable) -> None:
    start(table, 1)
    start(table, 2, progressive=True)
    for stream in (1, 2):
        chunk(table, stream, draw_audio(0))
    chunk(table, 1, draw_audio(1))
    table.advance(2, draw_audio(1))
    for stream in (1, 2):
        table.cut(stream, 15)
    first, second = (chunk(table, stream, draw_audio(2)) for stream in (1, 2))
    assert torch.equal(first, second)
    assert first.shape[1] == 12


def test_a_cut_at_a_border_is_as_if_no_later_chunk_had_been_made(table: StreamTable) -> None:
    start(table, 1)
    start(table, 2)
    for stream in (1, 2):
        chunk(table, stream, draw_audio(0))
    chunk(table, 2, draw_audio(1))
    table.cut(2, 12)
    assert torch.equal(chunk(table, 1, draw_audio(2)), chunk(table, 2, draw_audio(2)))
    table.cut(2, 0)
    start(table, 3)
    assert torch.equal(chunk(table, 2, draw_audio(5)), chunk(table, 3, draw_audio(5)))


def test_the_frames_after_a_cut_go_on_from_those_that_were_shown(table: StreamTable) -> None:
    """The next window starts from the frame of the cut, not from the end of the chunk."""
    start(table, 1)
    frames = chunk(table, 1, draw_audio(0))
    table.cut(1, 7)
    own = table._streams[1]
    assert own.state.next_frame == 7
    vae = table.model.executor.networks.vae
    with torch.no_grad():
        expected = vae.encode(frames[None, :, 2:7])[0].float()
    assert torch.equal(own.state.motion_latents, expected)


def test_frames_that_are_too_old_cannot_be_cut_to(table: StreamTable) -> None:
    start(table, 1)
    for index in range(6):
        chunk(table, 1, draw_audio(index))
    info = table.prepare(open_request(1)).info
    # One chunk waits to be read, one is under way, and the newest that was read can be taken back.
    oldest = 72 - 2 * info.chunk_frames - info.cut_frames
    table.cut(1, oldest)
    assert table._streams[1].state.next_frame == oldest
    start(table, 2)
    for index in range(6):
        chunk(table, 2, draw_audio(index))
    with pytest.raises(InputError, match="cut to frame 11: the stream does not keep it"):
        table.cut(2, 11)
    assert len(table._streams[2].chunks) < 6


def test_frames_that_were_never_made_cannot_be_cut_to(table: StreamTable) -> None:
    start(table, 1)
    chunk(table, 1, draw_audio(0), num_frames=5)
    with pytest.raises(InputError, match="cut to frame 6"):
        table.cut(1, 6)


@pytest.mark.parametrize("spec", [{"cuttable": False}, {"audio_mode": AudioMode.WHOLE}])
def test_streams_that_keep_nothing_cannot_be_cut(table: StreamTable, spec: dict[str, object]) -> None:
    start(table, 1, **spec)
    chunk(table, 1, draw_audio(0))
    with pytest.raises(InputError, match="cut"):
        table.cut(1, 5)
    assert not table._streams[1].chunks


def test_a_snapshot_at_the_end_of_the_audio_is_that_of_the_frames_that_were_delivered(
    table: StreamTable,
) -> None:
    start(table, 1)
    chunk(table, 1, draw_audio(0), num_frames=5)
    data = table.snapshot(1)
    snapshot = Snapshot(data=data, num_frames=5, num_samples=5 * 640)
    request = open_request(2, latents_per_decode=1, snapshot=snapshot)
    table.open(request, table.prepare(request), NO_AUDIO)
    assert table._streams[2].delivered == 5
    table.cut(1, 5)
    assert torch.equal(chunk(table, 1, draw_audio(1)), chunk(table, 2, draw_audio(1)))


def test_a_damaged_snapshot_is_refused(table: StreamTable) -> None:
    snapshot = Snapshot(data=b"nothing", num_frames=5, num_samples=5 * 640)
    request = open_request(1, snapshot=snapshot)
    with pytest.raises(InputError, match="stream state"):
        table.open(request, table.prepare(request), NO_AUDIO)


def test_a_forgotten_stream_is_gone(table: StreamTable) -> None:
    start(table, 1)
    table.close(1)
    table.close(1)
    with pytest.raises(KeyError):
        table.advance(1, draw_audio(0))
