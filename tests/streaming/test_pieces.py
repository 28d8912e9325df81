"""Frames that leave as they are decoded: those of the whole chunk, whoever stops taking them and when."""

import dataclasses
from collections.abc import Generator, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from livetalk.models.reference_decoder import ReferenceDecoderConfig
from livetalk.recipes.embedded import embedded_stream
from livetalk.streaming.audio import AudioBuffer
from livetalk.streaming.chunk import create_recorded_state, create_state, generate_chunk, generate_pieces
from livetalk.streaming.color import match_color
from livetalk.streaming.conditioning import Prepared, prepare_stream
from livetalk.streaming.geometry import ChunkGeometry
from livetalk.streaming.settings import AudioConfig, LoudnessMode, SeamConfig, StreamSettings
from livetalk.streaming.state import StreamState
from livetalk.types import VideoChunk
from tiny import IMAGE_SIDE, VAE, VAE_PATCHED, TinyModel, tiny_model
from tolerance import assert_same_network

IMAGE = torch.rand(3, IMAGE_SIDE, IMAGE_SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
GEOMETRY = ChunkGeometry(window_frames=13)
PUBLISHED = StreamSettings(geometry=GEOMETRY, audio=AudioConfig(buffer_seconds=2))
WARPING = dataclasses.replace(
    VAE_PATCHED,
    reference=ReferenceDecoderConfig(feature_channels=4, width=8, fine_width=4, reference_width=8),
)
EMBEDDED = dataclasses.replace(
    embedded_stream(), geometry=GEOMETRY, audio=AudioConfig(buffer_seconds=2, lookahead_frames=5)
)
CONFIGS = pytest.mark.parametrize(
    "config",
    [
        EMBEDDED,
        PUBLISHED,
        dataclasses.replace(EMBEDDED, decode_dropped=True),
        dataclasses.replace(PUBLISHED, decode_dropped=False),
        dataclasses.replace(EMBEDDED, seam=SeamConfig(detail_frames=6)),
    ],
    ids=["embedded", "published", "embedded-all", "published-shown", "detail-only"],
)

Start = tuple[TinyModel, Prepared, StreamState]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Bits are promised at one number of threads only."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def start(config: StreamSettings, latents_per_decode: int | None = None) -> Start:
    """Begin a stream, with the VAE that the configuration's model has, small."""
    config = dataclasses.replace(config, latents_per_decode=latents_per_decode)
    vae = VAE if config.reference_layout is PUBLISHED.reference_layout else VAE_PATCHED
    model = tiny_model(vae=vae)._replace(settings=config)
    prepared = prepare_stream(*model, IMAGE)
    return model, prepared, create_state(*model, prepared, 3)


def speech(chunk: int) -> Tensor:
    rng = torch.Generator().manual_seed(100 + chunk)
    return torch.randn(GEOMETRY.chunk_samples, generator=rng) * 0.1


def take_all(pieces: Generator[VideoChunk, None, StreamState]) -> tuple[list[VideoChunk], StreamState]:
    """Take every piece, and return them with the state that follows."""
    taken = []
    while True:
        try:
            taken.append(next(pieces))
        except StopIteration as end:
            return taken, end.value


def join(pieces: list[VideoChunk]) -> Tensor:
    return torch.cat([piece.pixels for piece in pieces], dim=1)


def values(state: StreamState) -> list[Tensor]:
    """List the tensors that a stream goes on from."""
    assert isinstance(state.audio, AudioBuffer)
    return [
        state.motion_latents,
        state.rng_state,
        state.audio.samples,
        *([] if state.last_frame is None else [state.last_frame]),
    ]


def assert_same_state(found: StreamState, expected: StreamState) -> None:
    assert (found.next_frame, found.loudness) == (expected.next_frame, expected.loudness)
    for a, b in zip(values(found), values(expected), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("latents_per_decode", [1, 2])
def test_pieces_that_warp_the_portrait_are_those_of_the_whole_chunk(latents_per_decode: int) -> None:
    model = tiny_model(vae=WARPING)
    cut, at_once = (
        model._replace(settings=dataclasses.replace(EMBEDDED, latents_per_decode=number))
        for number in (latents_per_decode, None)
    )
    prepared = prepare_stream(*cut, IMAGE)
    state = create_state(*cut, prepared, 3)
    taken, following = take_all(generate_pieces(*cut, prepared, speech(0), state))
    chunk, expected = generate_chunk(*cut, prepared, speech(0), state)
    assert torch.equal(join(taken), chunk.pixels)
    assert_same_state(following, expected)
    whole = partial(generate_chunk, *at_once, prepared, speech(0), state)
    assert_same_network(join(taken), lambda: whole()[0].pixels, model.executor.networks.vae)


def test_the_portrait_of_the_stream_is_the_one_that_is_warped() -> None:
    model = tiny_model(vae=WARPING)._replace(settings=EMBEDDED)
    prepared = prepare_stream(*model, IMAGE)
    other = dataclasses.replace(
        prepared, decoder_reference=prepare_stream(*model, IMAGE.flip(-1)).decoder_reference
    )
    state = create_state(*model, prepared, 3)
    frames, turned = (generate_chunk(*model, each, speech(0), state)[0].pixels for each in (prepared, other))
    assert (turned - frames).abs().max() > 0.1


@CONFIGS
@pytest.mark.parametrize("latents_per_decode", [1, 2, 3, None])
def test_the_pieces_are_the_chunk_and_the_stream_goes_on_the_same(
    config: StreamSettings, latents_per_decode: int | None
) -> None:
    model, prepared, state = start(config, latents_per_decode)
    at_once = model._replace(settings=dataclasses.replace(config, latents_per_decode=None))
    for index in range(3):
        pieces, following = take_all(generate_pieces(*model, prepared, speech(index), state))
        chunk, expected = generate_chunk(*model, prepared, speech(index), state)
        assert torch.equal(join(pieces), chunk.pixels)
        assert_same_state(following, expected)
        # Decoded at once, convolutions of another shape may add up in another order.
        whole = partial(generate_chunk, *at_once, prepared, speech(index), state)
        assert_same_network(join(pieces), lambda make=whole: make()[0].pixels, model.executor.networks.vae)
        state = following


@pytest.mark.parametrize("latents_per_decode", [1, None])
def test_the_seam_is_measured_at_the_same_moment_however_many_hidden_frames_are_decoded(
    latents_per_decode: int | None,
) -> None:
    all_frames = dataclasses.replace(EMBEDDED, decode_dropped=True)
    model, prepared, state = start(EMBEDDED, latents_per_decode)
    other = model._replace(settings=dataclasses.replace(all_frames, latents_per_decode=latents_per_decode))
    assert EMBEDDED.seam.enabled and not EMBEDDED.decode_dropped
    _, state = generate_chunk(*model, prepared, speech(0), state)
    found, _ = generate_chunk(*other, prepared, speech(1), state)
    expected = partial(generate_chunk, *model, prepared, speech(1), state)
    assert_same_network(found.pixels, lambda: expected()[0].pixels, model.executor.networks.vae)


@pytest.mark.parametrize(
    ("config", "latents_per_decode", "expected"),
    [
        # Four latent frames: 1 + 4 + 4 + 4 frames, the first five of which are not shown.
        (EMBEDDED, 1, [(8, 4), (12, 4)]),
        (EMBEDDED, 2, [(8, 8)]),
        (EMBEDDED, 3, [(8, 4), (12, 4)]),
        (PUBLISHED, 1, [(8, 4), (12, 4)]),
        (PUBLISHED, 3, [(8, 4), (12, 4)]),
        (PUBLISHED, None, [(8, 8)]),
    ],
)
def test_pieces_say_which_frames_they_are(
    config: StreamSettings, latents_per_decode: int | None, expected: list[tuple[int, int]]
) -> None:
    model, prepared, state = start(config, latents_per_decode)
    _, state = generate_chunk(*model, prepared, speech(0), state)
    pieces, _ = take_all(generate_pieces(*model, prepared, speech(1), state))
    assert [(piece.first_frame, piece.pixels.shape[1]) for piece in pieces] == expected
    for piece in pieces:
        assert piece.pixels.shape == (3, piece.pixels.shape[1], IMAGE_SIDE, IMAGE_SIDE)
        assert piece.pixels.dtype == torch.float32 and piece.pixels.abs().max() <= 1


class CountedVAE:
    """Counts what a VAE is asked for, and fails when told to."""

    def __init__(self, model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.fail_at: int | None = None
        for name in ("decode", "encode"):
            monkeypatch.setattr(
                model.executor.networks.vae,
                name,
                self.count(name, getattr(model.executor.networks.vae, name)),
            )

    def count(self, name: str, work: Any) -> Any:
        """Return `work` counted."""

        def counted(*args: Any) -> Any:
            self.calls.append(name)
            if len(self.calls) == self.fail_at:
                raise RuntimeError("no memory")
            return work(*args)

        return counted


@CONFIGS
def test_a_piece_leaves_before_the_work_that_it_does_not_need(
    config: StreamSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prepared, state = start(config, 1)
    vae = CountedVAE(model, monkeypatch)
    pieces = generate_pieces(*model, prepared, speech(0), state)
    assert vae.calls == []
    next(pieces)
    assert vae.calls == ["decode"] * 3
    next(pieces)
    assert vae.calls == ["decode"] * 4
    with pytest.raises(StopIteration):
        next(pieces)
    assert vae.calls == ["decode"] * 4 + ["encode"]


@CONFIGS
@pytest.mark.parametrize("num_taken", [0, 1, 2])
def test_who_leaves_early_leaves_nothing_behind(config: StreamSettings, num_taken: int) -> None:
    model, prepared, state = start(config, 1)
    _, state = generate_chunk(*model, prepared, speech(0), state)
    before = [value.clone() for value in values(state)]
    expected, following = generate_chunk(*model, prepared, speech(1), state)
    pieces = generate_pieces(*model, prepared, speech(1), state)
    for _ in range(num_taken):
        next(pieces).pixels.zero_()
    pieces.close()
    assert all(torch.equal(a, b) for a, b in zip(values(state), before, strict=True))
    again, after = take_all(generate_pieces(*model, prepared, speech(1), state))
    assert torch.equal(join(again), expected.pixels)
    assert_same_state(after, following)


@CONFIGS
@pytest.mark.parametrize("fail_at", [1, 4, 5])
def test_an_error_in_the_middle_is_told_and_the_chunk_can_be_made_again(
    config: StreamSettings, fail_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prepared, state = start(config, 1)
    expected, following = generate_chunk(*model, prepared, speech(0), state)
    with monkeypatch.context() as patch:
        CountedVAE(model, patch).fail_at = fail_at
        taken = []
        with pytest.raises(RuntimeError, match="no memory"):
            for piece in generate_pieces(*model, prepared, speech(0), state):
                taken.append(piece.pixels)
    assert len(taken) == max(0, fail_at - 3)
    for index, pixels in enumerate(taken):
        assert torch.equal(pixels, expected.pixels[:, 4 * index : 4 * index + 4])
    again, after = take_all(generate_pieces(*model, prepared, speech(0), state))
    assert torch.equal(join(again), expected.pixels)
    assert_same_state(after, following)


@CONFIGS
@pytest.mark.parametrize("latents_per_decode", [1, 2, None])
def test_frames_belong_to_who_takes_them(config: StreamSettings, latents_per_decode: int | None) -> None:
    model, prepared, state = start(config, latents_per_decode)
    _, expected = generate_chunk(*model, prepared, speech(0), state)
    pieces = generate_pieces(*model, prepared, speech(0), state)
    while True:
        try:
            next(pieces).pixels.fill_(0.5)
        except StopIteration as end:
            assert_same_state(end.value, expected)
            return


def test_streams_may_take_turns_within_a_chunk() -> None:
    model, prepared, state = start(EMBEDDED, 1)
    other = create_state(*model, prepared, 4)
    expected = [generate_chunk(*model, prepared, speech(0), s)[0].pixels for s in (state, other)]
    both = zip(
        generate_pieces(*model, prepared, speech(0), state),
        generate_pieces(*model, prepared, speech(0), other),
        strict=True,
    )
    found = [join(list(pieces)) for pieces in zip(*both, strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_recordings_and_loudness_are_heard_alike() -> None:
    model, prepared, _ = start(EMBEDDED, 1)
    settings = dataclasses.replace(model.settings, loudness=LoudnessMode.RUNNING)
    model = model._replace(settings=settings)
    live = create_state(*model, prepared, 0)
    recorded = create_recorded_state(*model, prepared, 0, torch.cat((speech(0), speech(1))))
    for state in (live, recorded):
        for index in range(2):
            pieces, following = take_all(generate_pieces(*model, prepared, speech(index), state))
            chunk, after = generate_chunk(*model, prepared, speech(index), state)
            assert torch.equal(join(pieces), chunk.pixels)
            assert (following.loudness is None) == (after.loudness is None)
            state = following


def test_refuses_the_wrong_number_of_samples() -> None:
    model, prepared, state = start(EMBEDDED)
    pieces = generate_pieces(*model, prepared, torch.zeros(3), state)
    with pytest.raises(ValueError, match="audio must be"):
        next(pieces)


def test_another_form_of_colour_matching_makes_chunks_and_pieces() -> None:
    model, prepared, state = start(PUBLISHED, 1)
    executor = dataclasses.replace(model.executor, match_color=lambda *given: -match_color(*given))
    inverted = model._replace(executor=executor)
    expected = -generate_chunk(*model, prepared, speech(0), state)[0].pixels
    assert torch.equal(generate_chunk(*inverted, prepared, speech(0), state)[0].pixels, expected)
    pieces, _ = take_all(generate_pieces(*inverted, prepared, speech(0), state))
    assert torch.equal(join(pieces), expected)
