"""One chunk of a stream: audio in, new frames out as they are decoded, and the state for the next.

`generate_pieces` is the only way to make a chunk. Its frames can be delivered in pieces because the VAE is
causal, colours are matched by the mean and deviation of each frame alone, and a seam is hidden by one
difference, that of the frame before the chunk's first. Only the motion frames of the next window must wait
for the last frame.

Shapes: C channels · F frames · T latent frames · M motion latent frames · H W frame height, width · h w
latent height, width. A stream is a batch of one.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from livetalk.diffusion.samplers import NoiseSource
from livetalk.models.vae import CausalVideoVAE
from livetalk.streaming.audio import AudioBuffer, Recording
from livetalk.streaming.conditioning import Prepared
from livetalk.streaming.denoise import denoise, make_predictor, normal_noise, sampler_sigmas
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
    """Start a stream.

    Args:
        executor: that will run the stream.
        settings: of the stream.
        prepared: of the stream.
        seed: of its noise.
        lead_audio: with a look-ahead, the first `lookahead_frames` worth of samples of the stream, `[n]`
            (zeros are added to fewer). `generate_pieces` is then given the samples after these, and frame 0
            belongs to sample 0. Without it the video starts with `lookahead_frames` of silence.

    Raises:
        ValueError: `lead_audio` is longer than the look-ahead.
    """
    audio, loudness = start_live_audio(executor, settings, lead_audio)
    return _first_state(executor, prepared, seed, audio, loudness)


def create_recorded_state(
    executor: Executor, settings: StreamSettings, prepared: Prepared, seed: int, recording: Tensor
) -> StreamState:
    """Start a stream whose audio is complete, so that every frame depends on its future too.

    Frames, their number and their noise are those of a live stream; only the speech that a frame reads
    differs. `generate_pieces` is given the same chunks of audio, and uses no more of them than their count.

    Args:
        executor: that will run the stream.
        settings: of the stream; a look-ahead is not needed and not used.
        prepared: of the stream.
        seed: of its noise.
        recording: `[samples]` float32, -1..1, all of the audio, at least one sample.
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
    """Generate the next chunk of a stream, and yield its frames as they are decoded.

    Nothing runs before the first piece is asked for, and then no more than what that piece needs. A generator
    that is abandoned early changes nothing: the stream can go on from `state`.

    Args:
        executor: runs the networks.
        settings: of the stream; `latents_per_decode` gives the size of the pieces. Without it there is one,
            which still leaves before its motion frames are encoded.
        prepared: of the stream.
        samples: the next `chunk_samples` samples, `[n]` float32, -1..1.
        state: from `create_state` or from the chunk before; it is not changed.
        noise_source: draws all noise in place of the stream's own generator, whose state then stays.

    Yields:
        New frames of the chunk, in order, at least one at a time; the caller may change them.

    Returns:
        The state for the next chunk, once the last piece was taken and its last frames are encoded.

    Raises:
        ValueError: the number of samples is wrong; raised when the first piece is asked for.
    """
    audio_context, state = push_chunk_audio(executor, settings, samples, state)
    latents, state = denoise_window(executor, settings, prepared, audio_context, state, noise_source)
    finishing = finish_window(executor, settings, prepared, latents, state)
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
    """Drain `generate_pieces`.

    Returns:
        The chunk's new frames, and the state for the next chunk.
    """
    pieces, following = drain(generate_pieces(executor, settings, prepared, samples, state, noise_source))
    pixels = [piece.pixels for piece in pieces]
    joined = pixels[0] if len(pixels) == 1 else torch.cat(pixels, dim=1)
    return VideoChunk(pixels=joined, first_frame=state.next_frame), following


def drain(pieces: Generator[PieceT, None, ResultT]) -> tuple[list[PieceT], ResultT]:
    """Return everything that a generator yields, and what it returns."""
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
    """Denoise the next window of a stream.

    Args:
        executor: runs the transformer.
        settings: of the stream.
        prepared: of the stream.
        audio_context: `[1, F, context, num_blocks, channels]`, of the window.
        state: of the stream; it is not changed.
        noise_source: draws all noise in place of the stream's own generator.

    Returns:
        Normalised latents `[1, C, T, h, w]` float32, and the state with the noise drawn and nothing else
        changed.
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
    # Published weights expect their first noise in the transformer's precision: another precision draws other
    # numbers from the same seed.
    published = sampler.kind is SamplerKind.RENOISE
    dtype = executor.networks.dit.patch_embedding.weight.dtype if published else torch.float32
    rng = None
    if noise_source is None:
        rng = restore_rng(state.rng_state, executor.device)
        noise_source = normal_noise(rng)
    with span("step.denoise"):
        predict_velocity = make_predictor(executor, window, sigmas, prepared.constants)
        latents = denoise(predict_velocity, window, sigmas, noise_source, sampler.kind, dtype)
    return latents, state if rng is None else replace(state, rng_state=rng.get_state())


@dataclass(frozen=True, slots=True)
class FinishedPiece:
    """Decoded frames of a window, colours and seam as shown.

    Attributes:
        pixels: `[1, 3, F, H, W]` float32, -1..1.
        index: of the first of them among the chunk's new frames; those below 0 are not shown.
    """

    pixels: Tensor
    index: int

    @property
    def num_new(self) -> int:
        """Frames that are shown, the last ones."""
        return max(0, self.pixels.shape[2] + min(self.index, 0))

    @property
    def holds_border(self) -> bool:
        """Whether the frame before the chunk's first is among these."""
        return self.index < 0 <= self.index + self.pixels.shape[2]


def finish_window(
    executor: Executor, settings: StreamSettings, prepared: Prepared, latents: Tensor, state: StreamState
) -> Generator[FinishedPiece, None, StreamState]:
    """Decode a window piece by piece, match its colours, hide its seam, and encode its last frames.

    Args:
        executor: runs the VAE.
        settings: of the stream.
        prepared: of the stream.
        latents: `[1, C, T, h, w]`, normalised.
        state: of the stream, the window's audio and noise taken in; it is not changed.

    Yields:
        Frames in order; without `decode_dropped` none before the shown ones but what joins them to the chunk
        before. The caller may change them.

    Returns:
        The state for the next window, once the last piece was taken.
    """
    geometry, seam_config = settings.geometry, settings.seam
    pieces = _decode_pieces(executor.networks.vae, settings, latents)
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
    """Return the state of a stream that was interrupted after some frames of its newest chunk were shown.

    The audio of frames that were not shown is forgotten, and the next window starts from the frames that were
    shown last.

    Args:
        executor: whose VAE encodes the frames.
        settings: of the stream.
        states: of the stream before and after the chunk.
        samples: of the chunk, `[chunk_samples]`.
        shown: `[3, F, H, W]` float32, -1..1, the last frames that were shown, of this chunk and of those
            before it: `motion_frames` of them, or fewer where the stream has no more; the first of those is
            then repeated.
        num_shown: frames of the chunk that were shown, 0..`chunk_frames`.

    Raises:
        ValueError: the number is out of its range, or the stream reads a whole recording.
    """
    geometry = settings.geometry
    before, after = states
    if not isinstance(before.audio, AudioBuffer):
        raise ValueError("a stream that reads a whole recording cannot be cut")
    if not 0 <= num_shown <= geometry.chunk_frames:
        raise ValueError(f"a chunk has {geometry.chunk_frames} frames, {num_shown} cannot have been shown")
    if num_shown in (0, geometry.chunk_frames):
        return after if num_shown else before
    heard, loudness = adjust_level(
        settings, samples[: num_shown * geometry.samples_per_frame], before.loudness
    )
    missing = geometry.motion_frames - shown.shape[1]
    padded = torch.cat((shown[:, :1].expand(-1, max(0, missing), -1, -1), shown), dim=1)
    motion = padded[None, :, -geometry.motion_frames :]
    return replace(
        after,
        motion_latents=encode_motion(executor.networks.vae, motion),
        audio=before.audio.push(heard),
        next_frame=before.next_frame + num_shown,
        last_frame=motion[:, :, -1] if settings.seam.enabled else None,
        loudness=loudness,
    )


def encode_motion(vae: CausalVideoVAE, frames: Tensor) -> Tensor:
    """Encode the motion frames of the next window, `[1, 3, F, H, W]`, -1..1: `[1, C, M, h, w]` float32."""
    motion_latents, _ = vae.encode(frames)
    return motion_latents.float()


def _decode_pieces(vae: CausalVideoVAE, settings: StreamSettings, latents: Tensor) -> Iterator[Tensor]:
    """Decode latents `[1, C, T, h, w]` in pieces `[1, 3, F, H, W]`, each when it is asked for."""
    stride = settings.geometry.latent_stride
    size = settings.latents_per_decode or latents.shape[2]
    unwanted = settings.skipped_frames
    cache = None
    for start in range(0, latents.shape[2], size):
        piece = latents[:, :, start : start + size]
        num_frames = piece.shape[2] * stride
        if start == 0:
            num_frames -= stride - 1
        skip = min(unwanted, num_frames)
        unwanted -= skip
        with span("step.decode"):
            frames, cache = vae.decode(piece, cache, skip)
        if skip < num_frames:
            yield frames


def _keep_last(recent: Tensor | None, pixels: Tensor, num_frames: int) -> Tensor:
    """Return the last frames of `recent` and `pixels` in a row."""
    before = () if recent is None else (recent,)
    # Copied, because the caller may change its frames.
    return torch.cat((*before, pixels[:, :, -num_frames:]), dim=2)[:, :, -num_frames:]


def _hide(seam: Seam, piece: FinishedPiece) -> FinishedPiece:
    num_old = piece.pixels.shape[2] - piece.num_new
    new = seam.hide(piece.pixels[:, :, num_old:], max(piece.index, 0))
    return FinishedPiece(torch.cat((piece.pixels[:, :, :num_old], new), dim=2), piece.index)
