"""A whole recording is the stream with its future known: same windows, same frames, pieces that fit."""

from functools import partial

import pytest
import torch
from torch import Tensor

from livetalk.streaming.audio import SECTION_CONTEXT_SECONDS, SECTION_SECONDS, Recording, recorded_context
from livetalk.streaming.chunk import create_recorded_state, create_state, generate_chunk
from livetalk.streaming.conditioning import prepare_stream
from livetalk.streaming.geometry import ChunkGeometry
from livetalk.streaming.speech import encode_audio_context
from livetalk.streaming.state import StreamState
from tiny import IMAGE_SIDE, FrameEncoder, tiny_model
from tolerance import assert_near, assert_same_network, distance, rounding

GEOMETRY = ChunkGeometry(window_frames=13)
CHUNK = GEOMETRY.chunk_samples
LIMIT = rounding(640)
"""The encoder of these tests adds as many products."""
LONGEST_AT_ONCE = (SECTION_SECONDS + 2 * SECTION_CONTEXT_SECONDS) * GEOMETRY.fps


class CountingEncoder(FrameEncoder):
    """Remembers how many frames it was given each time."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    def __call__(self, samples: Tensor) -> Tensor:
        self.calls.append(samples.shape[1] // 640)
        return super().__call__(samples)


def read_through(encoder: FrameEncoder, samples: Tensor, num_chunks: int) -> list[Tensor]:
    """Return the context of each chunk."""
    recording, contexts = Recording.create(samples, GEOMETRY), []
    for _ in range(num_chunks):
        recording = recording.push(torch.zeros(CHUNK)).read(encoder, GEOMETRY)
        contexts.append(recorded_context(recording, GEOMETRY, 2))
    return contexts


def draw_audio(num_samples: int) -> Tensor:
    return torch.randn(num_samples, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("num_samples", [1, 640, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 700])
def test_each_frame_reads_the_same_audio_as_in_a_stream(num_samples: int) -> None:
    model = tiny_model()
    recording = draw_audio(num_samples)
    prepared = prepare_stream(*model, torch.zeros(3, IMAGE_SIDE, IMAGE_SIDE))
    live = create_state(*model, prepared, 0).audio
    whole = create_recorded_state(*model, prepared, 0, recording).audio
    assert isinstance(whole, Recording)
    num_chunks = GEOMETRY.num_chunks(num_samples)
    padded = torch.nn.functional.pad(recording, (0, num_chunks * CHUNK - num_samples))
    for chunk in range(num_chunks):
        samples = padded[chunk * CHUNK : (chunk + 1) * CHUNK]
        live, whole = (
            live.push(samples),
            whole.push(samples).read(model.executor.networks.audio_encoder, GEOMETRY),
        )
        now, later = (
            encode_audio_context(model.executor.networks.audio_encoder, model.settings, audio)
            for audio in (live, whole)
        )
        assert now.shape == later.shape
        # Only the last two frames of a window reach beyond what a stream has heard.
        assert_near(now[:, :-2], later[:, :-2], LIMIT)
        if chunk + 1 < num_chunks:
            assert distance(now[:, -1], later[:, -1]) > 100 * LIMIT
    with pytest.raises(ValueError, match=f"has no chunk {num_chunks}"):
        whole.push(padded[:CHUNK]).read(model.executor.networks.audio_encoder, GEOMETRY)


def test_frames_are_those_of_a_stream_where_the_future_brings_nothing_new() -> None:
    model = tiny_model()
    # Every frame sounds the same, so that a frame's future is its present; the onset is frame 0.
    steady = draw_audio(640).repeat(3 * GEOMETRY.chunk_frames)
    # A picture of one colour would give its colours to the frames, whatever is heard.
    picture = torch.rand(3, IMAGE_SIDE, IMAGE_SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    prepared = prepare_stream(*model, picture)

    def show(state: StreamState) -> Tensor:
        frames = []
        for start in range(0, len(steady), CHUNK):
            chunk, state = generate_chunk(*model, prepared, steady[start : start + CHUNK], state)
            assert chunk.first_frame == start // 640
            frames.append(chunk.pixels)
        return torch.cat(frames, dim=1)

    live = partial(show, create_state(*model, prepared, 5))
    recorded = show(create_recorded_state(*model, prepared, 5, steady))
    networks = model.executor.networks
    assert_same_network(recorded, live, networks.dit, networks.vae)


def test_a_long_recording_is_encoded_in_pieces_of_bounded_length() -> None:
    encoder = CountingEncoder()
    num_chunks = 200
    samples = draw_audio(num_chunks * CHUNK)
    contexts = read_through(encoder, samples, num_chunks)
    assert max(encoder.calls) <= LONGEST_AT_ONCE
    assert len(encoder.calls) == -(-num_chunks * GEOMETRY.chunk_frames // (SECTION_SECONDS * GEOMETRY.fps))
    # The encoder of this test sees one frame at a time, so that pieces change nothing.
    rows = torch.cat((torch.zeros(5, 1, 6), FrameEncoder()(samples[None])[0]))
    for chunk, context in enumerate(contexts):
        middle = rows[chunk * GEOMETRY.chunk_frames :][: GEOMETRY.window_frames]
        assert_near(context[0, :, 2], middle, LIMIT)


def test_a_short_recording_is_encoded_at_once() -> None:
    encoder = CountingEncoder()
    read_through(encoder, draw_audio(60 * CHUNK), 60)
    assert encoder.calls == [5 + 60 * GEOMETRY.chunk_frames]


def test_a_position_in_a_recording_is_a_value() -> None:
    start = Recording.create(draw_audio(3 * CHUNK), GEOMETRY)
    first = start.push(torch.zeros(CHUNK))
    read = first.read(FrameEncoder(), GEOMETRY)
    second = read.push(torch.zeros(CHUNK))
    assert [position.num_consumed for position in (start, first, read, second)] == [0, 1, 1, 2]
    assert (start.section, first.section) == (None, None)
    assert second.read(FrameEncoder(), GEOMETRY) is second
    assert start.num_bytes == 4 * (3 * CHUNK + 5 * 640)
    assert read.num_bytes == start.num_bytes + 4 * (3 * GEOMETRY.chunk_frames + 5) * 6
    with pytest.raises(ValueError, match="has no chunk -1"):
        start.read(FrameEncoder(), GEOMETRY)
    with pytest.raises(ValueError, match="encode the recording"):
        recorded_context(first, GEOMETRY, 2)
