"""Generation of one chunk: audio in, frames out as they are decoded, and the state for the next chunk.

`generate_pieces` is the only way to generate a chunk. Frames can be delivered in pieces because the VAE is
causal, colours are matched with the statistics of each frame alone, and the seam correction depends only on
the frame before the chunk's first. Only the motion frames of the next window need the last frame.

Shapes: C channels · F frames · T latent frames · M motion latent frames · H W and h w height and width of
frames and latents. The batch size of a stream is 1.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from livetalk.diffusion.samplers import NoiseSource
from livetalk.models.reference_decoder import DecoderReference
from livetalk.models.vae import CausalVideoVAE
from livetalk.streaming.audio import AudioBuffer, Recording
from livetalk.streaming.conditioning import Prepared
from livetalk.streaming.denoise import build_predictor, denoise, normal_noise, sampler_sigmas
from livetalk.streaming.executor import Executor
from livetalk.streaming.loudness import LoudnessState
from livetalk.streaming.seams import Seam, measure_seam
from livetalk.streaming.settings import SamplerKind, StreamSettings
from livetalk.streaming.speech import adjust_level, push_chunk_audio, start_live_audio, start_recording
from livetalk.streaming.state import StreamState, restore_rng, seeded_rng_state
from livetalk.streaming.window import WindowInputs
from livetalk.tracing import span
from livetalk.types import VideoChunk

PieceT = TypeVar("PieceT")
ResultT = TypeVar("ResultT")


def create_state(
    executor: Executor,
    settings: StreamSettings,
    prepared: Prepared,
    seed: int,
    lead_audio: Tensor | None = None,
) -> StreamState:
    """Return the initial state of a live stream.

    `lead_audio`, `[n]`, is the audio of the look-ahead, the first `lookahead_frames` of the stream, padded
    with zeros if shorter. `generate_pieces` then takes the samples after these. Without it the video starts
    with `lookahead_frames` of silence. `ValueError` if it is longer than the look-ahead.
    """
    audio, loudness = start_live_audio(executor, settings, lead_audio)
    return _first_state(executor, prepared, seed, audio, loudness)


def create_recorded_state(
    executor: Executor, settings: StreamSettings, prepared: Prepared, seed: int, recording: Tensor
) -> StreamState:
    """Return the initial state of a stream whose audio is complete, so that frames depend on the future too.

    `recording` is all of the audio, `[samples]` float32, -1..1, at least one sample. The look-ahead is
    ignored. `generate_pieces` takes the same chunks of audio as for a live stream but uses only their number.
    """
    return _first_state(executor, prepared, seed, start_recording(executor, settings, recording))


def _first_state(
    executor: Executor,
    prepared: Prepared,
    seed: int,
    audio: AudioBuffer | Recording,
    loudness: LoudnessState | None = None,
) -> StreamState:
    return StreamState(
        motion_latents=prepared.conditioning.reference_latents,
        audio=audio,
        rng_state=seeded_rng_state(seed, executor.device),
        loudness=loudness,
    )


def generate_pieces(
    executor: Executor,
    settings: StreamSettings,
    prepared: Prepared,
    samples: Tensor,
    state: StreamState,
    noise_source: NoiseSource | None = None,
) -> Generator[VideoChunk, None, StreamState]:
    """Generate the next chunk of a stream; yield its new frames as they are decoded, return the next state.

    `samples` are the next `chunk_samples`, `[n]` float32, -1..1; another number raises `ValueError`. The
    setting `latents_per_decode` determines the size of the pieces. `noise_source` replaces the stream's
    random generator, whose state then stays unchanged.

    Computation is lazy: it starts with the first `next` and runs only as far as the next piece needs. `state`
    is not modified, so the stream can continue from it if the generator is abandoned. The caller may modify
    the pixels.
    """
    audio_context, state = push_chunk_audio(executor, settings, samples, state)
    latents, state = denoise_window(executor, settings, prepared, audio_context, state, noise_source)
    finishing = finish_window(executor, settings, prepared, latents, state)
    # `yield from` could not leave out pieces without shown frames.
    while True:
        try:
            piece = next(finishing)
        except StopIteration as end:
            following: StreamState = end.value
            return following
        if piece.num_new:
            yield VideoChunk(
                pixels=piece.pixels[0, :, -piece.num_new :],
                first_frame=state.next_frame + max(piece.index, 0),
            )


def generate_chunk(
    executor: Executor,
    settings: StreamSettings,
    prepared: Prepared,
    samples: Tensor,
    state: StreamState,
    noise_source: NoiseSource | None = None,
) -> tuple[VideoChunk, StreamState]:
    """Run `generate_pieces` to its end; return all new frames and the state for the next chunk."""
    pieces, following = drain(generate_pieces(executor, settings, prepared, samples, state, noise_source))
    pixels = [piece.pixels for piece in pieces]
    joined = pixels[0] if len(pixels) == 1 else torch.cat(pixels, dim=1)
    return VideoChunk(pixels=joined, first_frame=state.next_frame), following


def drain(pieces: Generator[PieceT, None, ResultT]) -> tuple[list[PieceT], ResultT]:
    """Return all values that a generator yields, and its return value."""
    taken: list[PieceT] = []
    while True:
        try:
            taken.append(next(pieces))
        except StopIteration as end:
            return taken, end.value


def denoise_window(
    executor: Executor,
    settings: StreamSettings,
    prepared: Prepared,
    audio_context: Tensor,
    state: StreamState,
    noise_source: NoiseSource | None = None,
) -> tuple[Tensor, StreamState]:
    """Denoise the next window of a stream from its `audio_context`, `[1, F, context, num_blocks, channels]`.

    Returns normalised latents `[1, C, T, h, w]` float32, and `state` with only its random generator advanced.
    """
    conditioning, sampler = prepared.conditioning, settings.sampler
    window = WindowInputs(
        motion_latents=state.motion_latents,
        condition=conditioning.condition,
        audio_context=audio_context,
        text_embeds=conditioning.text_embeds,
        image_embeds=conditioning.image_embeds,
    )
    sigmas = sampler_sigmas(sampler)
    # Published weights expect their first noise in the transformer's dtype: another dtype draws other numbers
    # from the same seed.
    published = sampler.kind is SamplerKind.RENOISE
    dtype = executor.networks.dit.patch_embedding.weight.dtype if published else torch.float32
    rng = None
    if noise_source is None:
        rng = restore_rng(state.rng_state, executor.device)
        noise_source = normal_noise(rng)
    with span("step.denoise"):
        predict_velocity = build_predictor(executor, window, sigmas, prepared.constants)
        latents = denoise(predict_velocity, window, sigmas, noise_source, sampler.kind, dtype)
    return latents, state if rng is None else replace(state, rng_state=rng.get_state())


@dataclass(frozen=True, slots=True)
class FinishedPiece:
    """Decoded frames of a window after colour matching and seam correction."""

    pixels: Tensor  # `[1, 3, F, H, W]` float32, -1..1
    index: int  # of its first frame among the chunk's new frames; frames below 0 are not shown

    @property
    def num_new(self) -> int:
        """Number of frames that are shown: the last ones."""
        return max(0, self.pixels.shape[2] + min(self.index, 0))

    @property
    def holds_border(self) -> bool:
        """Whether the piece contains the frame before the chunk's first."""
        return self.index < 0 <= self.index + self.pixels.shape[2]


def finish_window(
    executor: Executor, settings: StreamSettings, prepared: Prepared, latents: Tensor, state: StreamState
) -> Generator[FinishedPiece, None, StreamState]:
    """Decode a window in pieces, match colours, correct the seam and encode the motion frames.

    `latents` is `[1, C, T, h, w]`, normalised; `state` already includes the window's audio and noise. The
    caller may modify the frames. Returns the state for the next window.
    """
    geometry, seam_config = settings.geometry, settings.seam
    pieces = _decode_pieces(executor.networks.vae, settings, latents, prepared.decoder_reference)
    # Counted from the chunk's first frame, so that hidden frames are negative.
    index = settings.skipped_frames - geometry.dropped_frames
    seam = None
    recent: Tensor | None = None
    for decoded in pieces:
        with span("step.color"):
            matched = executor.match_color(decoded, prepared.color, settings.sampler.color_strength)
            piece = FinishedPiece(matched, index)
            if piece.holds_border and state.last_frame is not None and seam_config.enabled:
                before = piece.pixels[:, :, -piece.index - 1]
                seam = measure_seam(before, state.last_frame, geometry.chunk_frames, seam_config)
            if seam is not None:
                piece = _hide(seam, piece)
        recent = _keep_last(recent, piece.pixels, geometry.motion_frames)
        yield piece
        index += decoded.shape[2]
    assert recent is not None
    with span("step.encode"):
        motion_latents = encode_motion(executor.networks.vae, recent)
    return replace(
        state,
        motion_latents=motion_latents,
        next_frame=state.next_frame + geometry.chunk_frames,
        last_frame=recent[:, :, -1] if seam_config.enabled else None,
    )


def cut_chunk(
    executor: Executor,
    settings: StreamSettings,
    states: tuple[StreamState, StreamState],
    samples: Tensor,
    shown: Tensor,
    num_shown: int,
) -> StreamState:
    """Return the state of a stream that was interrupted after `num_shown` frames of its newest chunk.

    The audio of frames that were not shown is dropped, and the next window starts from the frames that were
    shown last. `states` are those before and after the chunk, `samples` are the chunk's. `shown` is
    `[3, F, H, W]` float32, -1..1, the last shown frames of this chunk and earlier ones; the first is repeated
    if there are fewer than `motion_frames`. `ValueError` if `num_shown` is out of range, or for a recording.
    """
    geometry = settings.geometry
    before, after = states
    if not isinstance(before.audio, AudioBuffer):
        raise ValueError("a stream that reads a whole recording cannot be cut")
    if not 0 <= num_shown <= geometry.chunk_frames:
        raise ValueError(f"a chunk has {geometry.chunk_frames} frames, {num_shown} cannot have been shown")
    # At a chunk border the state exists already; encoding shown frames again would change it.
    if num_shown in (0, geometry.chunk_frames):
        return after if num_shown else before
    audio, loudness = adjust_level(
        settings, samples[: num_shown * geometry.samples_per_frame], before.loudness
    )
    missing = geometry.motion_frames - shown.shape[1]
    padded = torch.cat((shown[:, :1].expand(-1, max(0, missing), -1, -1), shown), dim=1)
    motion = padded[None, :, -geometry.motion_frames :]
    return replace(
        after,
        motion_latents=encode_motion(executor.networks.vae, motion),
        audio=before.audio.push(audio),
        next_frame=before.next_frame + num_shown,
        last_frame=motion[:, :, -1] if settings.seam.enabled else None,
        loudness=loudness,
    )


def encode_motion(vae: CausalVideoVAE, frames: Tensor) -> Tensor:
    """Encode motion frames `[1, 3, F, H, W]`, -1..1, to `[1, C, M, h, w]` float32."""
    motion_latents, _ = vae.encode(frames)
    return motion_latents.float()


def _decode_pieces(
    vae: CausalVideoVAE, settings: StreamSettings, latents: Tensor, reference: DecoderReference | None
) -> Iterator[Tensor]:
    stride = settings.geometry.latent_stride
    size = settings.latents_per_decode or latents.shape[2]
    to_skip = settings.skipped_frames
    cache = None
    for start in range(0, latents.shape[2], size):
        piece = latents[:, :, start : start + size]
        num_frames = piece.shape[2] * stride
        # The first latent frame stands for one frame, every other for `stride` frames.
        if start == 0:
            num_frames -= stride - 1
        skip = min(to_skip, num_frames)
        to_skip -= skip
        with span("step.decode"):
            frames, cache = vae.decode(piece, cache, skip, reference)
        if skip < num_frames:
            yield frames


def _keep_last(recent: Tensor | None, pixels: Tensor, num_frames: int) -> Tensor:
    before = () if recent is None else (recent,)
    # A copy, because the caller may modify its frames.
    return torch.cat((*before, pixels[:, :, -num_frames:]), dim=2)[:, :, -num_frames:]


def _hide(seam: Seam, piece: FinishedPiece) -> FinishedPiece:
    num_old = piece.pixels.shape[2] - piece.num_new
    new = seam.hide(piece.pixels[:, :, num_old:], max(piece.index, 0))
    return FinishedPiece(torch.cat((piece.pixels[:, :, :num_old], new), dim=2), piece.index)
