"""A stream's state as a value: on another device, as bytes, and cut within a chunk."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from livetalk.errors import InputError
from livetalk.streaming.audio import AudioBuffer
from livetalk.streaming.chunk import create_recorded_state, create_state, cut_chunk, generate_chunk
from livetalk.streaming.conditioning import Prepared, prepare_stream
from livetalk.streaming.settings import LoudnessMode, SeamConfig
from livetalk.streaming.state import StreamState
from tiny import IMAGE_SIDE, TinyModel, tiny_model

CPU = torch.device("cpu")
IMAGE = torch.rand(3, IMAGE_SIDE, IMAGE_SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def rich_model() -> TinyModel:
    """Build a model whose streams remember everything that a stream can remember."""
    model = tiny_model()
    seam = SeamConfig(color_frames=4, detail_frames=2)
    settings = replace(model.settings, seam=seam, loudness=LoudnessMode.RUNNING, decode_dropped=False)
    return model._replace(settings=settings)


def speech(model: TinyModel, chunk: int) -> Tensor:
    rng = torch.Generator().manual_seed(100 + chunk)
    return torch.randn(model.settings.geometry.chunk_samples, generator=rng) * 0.1


def start(model: TinyModel, *, recorded: bool = False) -> tuple[Prepared, StreamState]:
    prepared = prepare_stream(*model, IMAGE)
    if recorded:
        audio = torch.cat([speech(model, chunk) for chunk in range(3)])
        return prepared, create_recorded_state(*model, prepared, 0, audio)
    return prepared, create_state(*model, prepared, 0)


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("num_chunks", [0, 1, 2])
def test_bytes_continue_a_stream_bit_for_bit(recorded: bool, num_chunks: int) -> None:
    model = rich_model()
    prepared, state = start(model, recorded=recorded)
    for index in range(num_chunks):
        _, state = generate_chunk(*model, prepared, speech(model, index), state)
    restored = StreamState.from_bytes(state.to_bytes(), CPU)
    assert restored.next_frame == state.next_frame and restored.num_bytes == state.num_bytes
    expected, _ = generate_chunk(*model, prepared, speech(model, num_chunks), state)
    found, _ = generate_chunk(*model, prepared, speech(model, num_chunks), restored)
    assert torch.equal(found.pixels, expected.pixels)


@pytest.mark.parametrize("damage", [b"", b"\0" * 20, None, "format"])
def test_damaged_bytes_are_refused_in_one_line(damage: bytes | str | None) -> None:
    data = start(rich_model())[1].to_bytes()
    if damage is None:
        data = data[:-1]
    elif isinstance(damage, str):
        data = data.replace(b"livetalk-stream-state-2", b"livetalk-stream-state-0")
    else:
        data = damage
    with pytest.raises(InputError, match="stream state: the data is damaged"):
        StreamState.from_bytes(data, CPU)


def test_noise_of_another_kind_of_device_goes_on_from_a_derived_seed() -> None:
    _, state = start(tiny_model())
    moved = state.to(torch.device("meta"))
    assert moved.motion_latents.is_meta and moved.audio.samples.is_meta
    assert torch.equal(state.to(CPU).rng_state, state.rng_state)


def made(model: TinyModel) -> tuple[Prepared, list[Tensor], list[StreamState]]:
    """Generate two chunks, and return the frames and all states."""
    prepared, state = start(model)
    frames, states = [], [state]
    for index in range(2):
        chunk, state = generate_chunk(*model, prepared, speech(model, index), state)
        frames.append(chunk.pixels)
        states.append(state)
    return prepared, frames, states


@pytest.mark.parametrize("chunk", [0, 1])
def test_a_cut_at_either_end_is_the_state_there(chunk: int) -> None:
    model = rich_model()
    _, frames, states = made(model)
    ends = states[chunk], states[chunk + 1]
    shown = torch.cat(frames[: chunk + 1], dim=1)
    assert cut_chunk(*model, ends, speech(model, chunk), shown, 0) is ends[0]
    assert cut_chunk(*model, ends, speech(model, chunk), shown, 8) is ends[1]
    # Encoding the frames that were shown is what ends a chunk anyway.
    again = model.executor.networks.vae.encode(shown[None, :, -5:])[0].float()
    assert torch.equal(ends[1].motion_latents, again)


@pytest.mark.parametrize(("chunk", "num_shown"), [(0, 1), (0, 6), (1, 1), (1, 7)])
def test_a_cut_stream_goes_on_from_what_was_shown_and_heard(chunk: int, num_shown: int) -> None:
    model = rich_model()
    prepared, frames, states = made(model)
    shown = torch.cat((*frames[:chunk], frames[chunk][:, :num_shown]), dim=1)
    samples = speech(model, chunk)
    cut = cut_chunk(*model, (states[chunk], states[chunk + 1]), samples, shown, num_shown)
    assert cut.next_frame == 8 * chunk + num_shown
    assert cut.last_frame is not None and torch.equal(cut.last_frame[0], shown[:, -1])
    assert cut.motion_latents.shape == states[2].motion_latents.shape
    # Of the chunk's audio only what belongs to the shown frames is left.
    assert isinstance(cut.audio, AudioBuffer)
    unheard = torch.cat((samples[: num_shown * 640], torch.zeros(len(samples) - num_shown * 640)))
    quiet = cut_chunk(*model, (states[chunk], states[chunk + 1]), unheard, shown, num_shown)
    assert isinstance(quiet.audio, AudioBuffer) and torch.equal(cut.audio.samples, quiet.audio.samples)
    following, _ = generate_chunk(*model, prepared, speech(model, 5), cut)
    assert following.first_frame == cut.next_frame and following.pixels.isfinite().all()


def test_a_cut_refuses_what_was_not_there() -> None:
    model = rich_model()
    _, frames, states = made(model)
    ends = states[0], states[1]
    with pytest.raises(ValueError, match="8 frames, 9 cannot"):
        cut_chunk(*model, ends, speech(model, 0), frames[0], 9)
    _, recorded = start(model, recorded=True)
    with pytest.raises(ValueError, match="whole recording"):
        cut_chunk(*model, (recorded, recorded), speech(model, 0), frames[0], 3)
