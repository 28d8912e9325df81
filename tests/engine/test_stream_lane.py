"""On a GPU, streams listen beside the main work: sooner, and not a bit differently."""

import dataclasses

import pytest
import torch
from torch import Tensor

from livetalk.assembly.random_model import build_random_model
from livetalk.assembly.session import SessionOptions
from livetalk.bench.chunks import draw_picture, hum
from livetalk.engine.commands import BeginChunk, NextChunk, NextPiece, OpenStream
from livetalk.engine.worker import StreamTable
from livetalk.ops.lanes import Lane

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

NUM_CHUNKS = 5
BUSY_CYCLES = 100_000_000
"""About a twentieth of a second."""


def open_streams(options: SessionOptions) -> StreamTable:
    """Build the small graph of the published model, the same each time, and open a stream of it."""
    model = build_random_model("tiny", device=torch.device("cuda"), dtype=torch.bfloat16)
    streams = StreamTable(model)
    heard = torch.cat([samples(streams, index) for index in range(NUM_CHUNKS)])
    sound = heard if options["audio_mode"] == "whole" else torch.zeros(0)
    picture = draw_picture(model.portrait)
    streams.run(OpenStream(stream=0, picture=picture, sound=sound, options=options))
    return streams


def without_lane(streams: StreamTable) -> StreamTable:
    """Let a table's streams listen in the main work."""
    torch.cuda.synchronize()
    for number, stream in streams._streams.items():
        plain = dataclasses.replace(stream.models, lane=Lane())
        streams._streams[number] = dataclasses.replace(stream, models=plain)
    return streams


def samples(streams: StreamTable, index: int) -> Tensor:
    geometry = streams.model.models.config.geometry
    return hum(index * geometry.chunk_samples, geometry.chunk_samples, geometry.sample_rate)


def make_chunks(streams: StreamTable, *, progressive: bool, busy: bool) -> list[Tensor]:
    """Make all chunks; with `busy`, sound is announced and the main work lags far behind."""
    made = []
    for index in range(NUM_CHUNKS):
        now, ahead = samples(streams, index), None
        if busy:
            torch.cuda._sleep(BUSY_CYCLES)
            ahead = None if index + 1 == NUM_CHUNKS else samples(streams, index + 1)
        if progressive:
            streams.run(BeginChunk(stream=0, samples=now, ahead=ahead))
            while (piece := streams.run(NextPiece(stream=0))) is not None:
                made.append(piece.pixels)
        else:
            chunk = streams.run(NextChunk(stream=0, samples=now, ahead=ahead))
            assert chunk is not None
            made.append(chunk.pixels)
    return made


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("audio_mode", ["stream", "whole"])
@pytest.mark.parametrize("loudness", ["off", "running", "published"])
def test_frames_are_the_same_to_the_bit(loudness: str, audio_mode: str, progressive: bool) -> None:
    options: SessionOptions = {"loudness": loudness, "audio_mode": audio_mode}
    plain = make_chunks(without_lane(open_streams(options)), progressive=progressive, busy=False)
    found = make_chunks(open_streams(options), progressive=progressive, busy=True)
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))
    assert not torch.equal(plain[1], plain[2])


def test_speech_is_encoded_while_the_main_work_is_busy() -> None:
    streams = open_streams({"loudness": "off", "audio_mode": "stream"})
    make_chunks(streams, progressive=True, busy=False)
    overtaken = []
    # The first times, memory is taken for so much work at once, for which the driver waits.
    for index in range(NUM_CHUNKS, NUM_CHUNKS + 3):
        torch.cuda.synchronize()
        torch.cuda._sleep(20 * BUSY_CYCLES)  # longer than the host takes to ask for it
        before = torch.cuda.current_stream().record_event()
        now, ahead = samples(streams, index), samples(streams, index + 1)
        streams.run(BeginChunk(stream=0, samples=now, ahead=ahead))
        heard = streams.model.models.lane.mark()
        assert heard is not None
        heard.synchronize()
        overtaken.append(not before.query())
        while streams.run(NextPiece(stream=0)) is not None:
            pass
    assert overtaken[-1]
