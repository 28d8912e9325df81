"""One chunk: audio in, new frames out, and the state for the next.

Shapes: C channels · F frames · T latent frames · H W frame height, width · h w latent height, width. A stream
is a batch of one.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from livetalk.diffusion.samplers import NoiseSource, pin_motion, sample_euler, sample_renoise
from livetalk.streaming.audio import AudioBuffer, Recording
from livetalk.streaming.color import measure_color
from livetalk.streaming.conditioning import encode_conditioning
from livetalk.streaming.config import SamplerKind
from livetalk.streaming.hearing import Heard, Speech, begin_window, listen_live, listen_recorded
from livetalk.streaming.loudness import LoudnessState
from livetalk.streaming.models import Models
from livetalk.streaming.seams import hide_seam
from livetalk.streaming.state import StreamState, restore_rng, seeded_rng_state
from livetalk.streaming.velocity import make_predictor, prepare_constants
from livetalk.tracing import span
from livetalk.types import Conditioning, VideoChunk


def prepare_conditioning(
    models: Models, image: Tensor, text_embeds: Tensor | None = None, image_embeds: Tensor | None = None
) -> Conditioning:
    """Encode the reference image of a stream, and make what all of the stream's steps share.

    Args:
        models: networks and settings, the weights of the transformer and their form final.
        image: `[3, H, W]`, -1..1.
        text_embeds: `[1, S, text_dim]` for a transformer with a text branch.
        image_embeds: `[1, S, image_dim]` for a transformer with an image branch.
    """
    conditioning = encode_conditioning(
        models.vae,
        image.to(models.device),
        models.config.geometry,
        models.config.reference_layout,
        text_embeds,
        image_embeds,
    )
    if models.prepare is None:
        return conditioning
    return prepare_constants(models.dit, models.prepare, conditioning, models.sigmas)


def create_state(
    models: Models, conditioning: Conditioning, seed: int, lead_audio: Tensor | None = None
) -> StreamState:
    """Start a stream.

    Args:
        models: networks and settings.
        conditioning: of the stream.
        seed: of its noise.
        lead_audio: with a look-ahead, the first `lookahead_frames` worth of samples of the stream, `[n]`
            (zeros are added to fewer). `generate_chunk` is then given the samples after these, and frame 0
            belongs to sample 0. Without it the video starts with `lookahead_frames` of silence.

    Raises:
        ValueError: `lead_audio` is longer than the look-ahead.
    """
    audio, loudness = listen_live(models, lead_audio)
    return _first_state(models, conditioning, seed, audio, loudness)


def create_recorded_state(
    models: Models, conditioning: Conditioning, seed: int, recording: Tensor
) -> StreamState:
    """Start a stream whose sound is already there from start to end, so that every frame hears its future.

    Frames, their number and their noise are those of a live stream; only the speech that a frame reads
    differs. `generate_chunk` is given the same chunks of sound, and takes no more of them than their count.

    Args:
        models: networks and settings; a look-ahead is not needed and not used.
        conditioning: of the stream.
        seed: of its noise.
        recording: `[samples]` float32, -1..1, all of the sound, at least one sample.
    """
    return _first_state(models, conditioning, seed, listen_recorded(models, recording))


def _first_state(
    models: Models,
    conditioning: Conditioning,
    seed: int,
    audio: AudioBuffer | Recording,
    loudness: LoudnessState | None = None,
) -> StreamState:
    return StreamState(
        motion_latents=conditioning.reference_latents,
        audio=audio,
        rng_state=seeded_rng_state(seed, models.device),
        color=measure_color(conditioning.reference_pixels),
        chunk_index=0,
        loudness=loudness,
    )


@torch.no_grad()
def generate_chunk(
    models: Models, conditioning: Conditioning, audio: Tensor | Heard, state: StreamState
) -> tuple[VideoChunk, StreamState]:
    """Generate the next chunk of a stream.

    `livetalk.streaming.progressive.generate_pieces` makes the same frames and hands them over as they come.

    Args:
        models: networks and settings.
        conditioning: of the stream.
        audio: the next `chunk_samples` samples, `[n]` float32, -1..1, or what `hear_chunk` heard of them.
        state: from `create_state` or from the chunk before; it is not changed.

    Returns:
        The chunk's new frames, and the state for the next chunk.

    Raises:
        ValueError: the number of samples is wrong.
    """
    geometry = models.config.geometry
    speech, heard = begin_window(models, audio, state)
    pixels, following = generate_window(models, conditioning, speech, heard)
    chunk = VideoChunk(
        pixels=pixels[:, -geometry.chunk_frames :],
        first_frame=state.chunk_index * geometry.chunk_frames,
    )
    return chunk, following


@torch.no_grad()
def generate_window(
    models: Models, conditioning: Conditioning, speech: Speech, state: StreamState
) -> tuple[Tensor, StreamState]:
    """Generate the next window of a stream from its speech: denoise, decode, go on.

    Args:
        models: networks and settings.
        conditioning: of the stream.
        speech: of the window.
        state: of the stream; it is not changed.

    Returns:
        Decoded frames `[3, F, H, W]` float32, -1..1, the chunk's new ones last (see `decode_window`), and
        the state for the next window, its sound as it was.
    """
    latents, denoised = denoise_next(models, conditioning, speech, state)
    pixels, motion_latents = decode_window(models, latents, state)
    return pixels[0], end_window(models, denoised, pixels[:, :, -1], motion_latents)


def denoise_next(
    models: Models, conditioning: Conditioning, speech: Speech, state: StreamState
) -> tuple[Tensor, StreamState]:
    """Denoise the next window of a stream with the stream's own noise.

    Returns:
        Latents as from `denoise_window`, and the state with the noise drawn and nothing else changed.
    """
    rng = restore_rng(state.rng_state, models.device)
    latents = denoise_window(models, conditioning, speech, state.motion_latents, normal_noise(rng))
    return latents, replace(state, rng_state=rng.get_state())


def end_window(models: Models, state: StreamState, last_frame: Tensor, motion_latents: Tensor) -> StreamState:
    """Return the state that the next window starts from.

    Args:
        models: networks and settings.
        state: of the stream, the window's sound and noise taken in.
        last_frame: `[1, 3, H, W]` float32, -1..1, of the window, as shown.
        motion_latents: of the next window, `[1, C, M, h, w]` float32.
    """
    return replace(
        state,
        motion_latents=motion_latents,
        chunk_index=state.chunk_index + 1,
        last_frame=last_frame if models.config.seam.enabled else None,
    )


def denoise_window(
    models: Models,
    conditioning: Conditioning,
    speech: Speech,
    motion_latents: Tensor,
    noise_source: NoiseSource,
) -> Tensor:
    """Denoise one window.

    Args:
        models: networks and settings.
        conditioning: of the stream.
        speech: of the window.
        motion_latents: clean latents `[1, C, M, h, w]` that start the window.
        noise_source: called for the initial noise, then by the sampler.

    Returns:
        Normalised latents, `[1, C, T, h, w]` float32.
    """
    config = models.config
    shape = (*motion_latents.shape[:2], config.geometry.window_latents, *motion_latents.shape[3:])
    # Published weights expect their first noise in the transformer's precision: other precisions draw other
    # numbers from the same seed.
    published = config.sampler.kind is SamplerKind.RENOISE
    dtype = models.dit.patch_embedding.weight.dtype if published else torch.float32
    noise = noise_source(motion_latents.new_empty(shape, dtype=dtype))
    sigmas = models.sigmas
    predict_velocity = make_predictor(models.dit, conditioning, speech, sigmas, models.prepare)
    pin = pin_motion(motion_latents)
    if config.sampler.kind is SamplerKind.EULER:
        return sample_euler(predict_velocity, noise, sigmas, pin)
    return sample_renoise(predict_velocity, noise, sigmas, noise_source, pin)


def decode_window(models: Models, latents: Tensor, state: StreamState) -> tuple[Tensor, Tensor]:
    """Decode a window, match its colours and encode its last frames.

    Returns:
        Frames `[1, 3, F, H, W]` float32, -1..1, the shown ones last; without `decode_dropped` no more than
        those and what joins them to the chunk before; and the motion latents of the next window
        `[1, C, M, h, w]`.
    """
    config = models.config
    with span("step.decode"):
        pixels = decode_pixels(models, latents)
    with span("step.color"):
        pixels = models.match_color(pixels, state.color, config.sampler.color_strength)
        pixels = hide_seam(pixels, state.last_frame, config.geometry.chunk_frames, config.seam)
    return pixels, encode_motion(models, pixels)


def encode_motion(models: Models, pixels: Tensor) -> Tensor:
    """Encode the last of some finished frames for the next window.

    Args:
        models: networks and settings.
        pixels: `[1, 3, F, H, W]` float32, -1..1, F >= `motion_frames`, colours and seam as shown.

    Returns:
        `[1, C, M, h, w]` float32, normalised.
    """
    with span("step.encode"):
        motion_latents, _ = models.vae.encode(pixels[:, :, -models.config.geometry.motion_frames :])
    return motion_latents.float()


def decode_pixels(models: Models, latents: Tensor) -> Tensor:
    """Decode a window's latents `[1, C, T, h, w]`, in pieces as configured: `[1, 3, F, H, W]`, -1..1."""
    return torch.cat(list(decode_pieces(models, latents)), dim=2)


def decode_pieces(models: Models, latents: Tensor) -> Iterator[Tensor]:
    """Decode a window piece by piece, each when it is asked for.

    Args:
        models: networks and settings.
        latents: `[1, C, T, h, w]`, normalised.

    Yields:
        Frames `[1, 3, F, H, W]`, -1..1, F >= 1, one piece after the other; the last is the window's last.
    """
    config = models.config
    size = config.latents_per_decode or latents.shape[2]
    unwanted = config.skipped_frames
    cache = None
    for start in range(0, latents.shape[2], size):
        piece = latents[:, :, start : start + size]
        num_frames = piece.shape[2] * config.geometry.latent_stride
        if start == 0:
            num_frames -= config.geometry.latent_stride - 1
        skip = min(unwanted, num_frames)
        unwanted -= skip
        frames, cache = models.vae.decode(piece, cache, skip)
        if skip < num_frames:
            yield frames


def normal_noise(rng: torch.Generator) -> NoiseSource:
    """Return a source of standard normal noise, of the shape and in the precision of what it is given."""

    def draw(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=rng, device=like.device, dtype=like.dtype)

    return draw
