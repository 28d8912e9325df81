"""The streams of one model on one rank: a backend over the chunks of `livetalk.streaming`."""

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from livetalk.assembly.model import AvatarModel
from livetalk.assembly.stream_plan import StreamPlan, plan_stream
from livetalk.engine.backend import Made, Preparation
from livetalk.engine.host_copy import HostCopy, PendingFrames
from livetalk.engine.messages import OpenStream, StreamInfo
from livetalk.errors import InputError
from livetalk.media.framing import frame_portrait
from livetalk.media.image import image_to_tensor
from livetalk.models.vae import CausalVideoVAE
from livetalk.ops.transfer import to_device
from livetalk.streaming.chunk import create_recorded_state, create_state, cut_chunk, generate_pieces
from livetalk.streaming.conditioning import Prepared, encode_conditioning, prepare_constants
from livetalk.streaming.denoise import normal_noise
from livetalk.streaming.settings import AudioMode, StreamSettings
from livetalk.streaming.spec import StreamSpec
from livetalk.streaming.state import StreamState, restore_rng
from livetalk.tracing import span
from livetalk.types import Conditioning, PromptEmbeds, VideoChunk


@dataclass(frozen=True, slots=True)
class Encoded:
    """Preparation of a stream: its plan, and its conditioning on the CPU."""

    plan: StreamPlan
    conditioning: Conditioning


@dataclass(slots=True)
class _Chunk:
    """A chunk that a cut may return to."""

    before: StreamState  # state before it
    samples: Tensor  # its audio
    after: StreamState | None = None  # state after it; None while it is being generated
    frames: list[Tensor] = field(default_factory=list)  # delivered pieces, `[3, F, H, W]` each
    num_frames: int = 0  # number of delivered frames


@dataclass(slots=True)
class _Stream:
    plan: StreamPlan
    prepared: Prepared
    state: StreamState
    progressive: bool
    keep: int
    delivered: int
    wanted: int = 0
    rng: torch.Generator | None = None
    pieces: Generator[VideoChunk, None, StreamState] | None = None
    chunks: deque[_Chunk] = field(default_factory=deque)

    @property
    def settings(self) -> StreamSettings:
        return self.plan.settings


class StreamTable:
    """The streams of one model on one rank; see `livetalk.engine.backend.Backend`."""

    def __init__(
        self, model: AvatarModel, vae: CausalVideoVAE | None = None, *, beside: bool = False
    ) -> None:
        """Start without streams.

        Args:
            model: ready to run.
            vae: encodes portraits on this rank alone; None uses the model's VAE, which must then not be split
                between ranks.
            beside: encode portraits on a side stream, in parallel with chunks. This takes additional memory.
        """
        self.model = model
        self._vae = model.executor.networks.vae if vae is None else vae
        self._device = model.executor.device
        self._copy = HostCopy(self._device)
        self._side_stream: torch.cuda.Stream | None = None
        if beside and self._device.type == "cuda":
            self._side_stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._streams: dict[int, _Stream] = {}

    @property
    def title(self) -> str:
        """Model and execution in one line."""
        return self.model.title

    @torch.no_grad()
    def prepare(self, request: OpenStream) -> Preparation:
        """Frame and encode a portrait, and encode the prompt.

        Raises:
            InputError: the model cannot use the portrait or an option.
        """
        plan = plan_stream(self.model, request.spec)
        size = (plan.portrait.height, plan.portrait.width)
        framed = frame_portrait(request.image, *size, crop=plan.crop)
        # `torch.cuda.stream(None)` is a no-op, so this also runs on the CPU.
        with torch.cuda.stream(self._side_stream):
            conditioning = self._encode(plan, image_to_tensor(framed, self.model.image_dtype))
        return Preparation(describe_stream(plan, request.spec), Encoded(plan, conditioning))

    @torch.no_grad()
    def open(self, request: OpenStream, preparation: Preparation, audio: NDArray[np.float32]) -> None:
        """Open a stream, or continue a snapshot; `InputError` if the snapshot is damaged."""
        encoded, executor, spec = preparation.value, self.model.executor, request.spec
        assert isinstance(encoded, Encoded)
        plan = encoded.plan
        conditioning = move_conditioning(encoded.conditioning, self._device)
        prepared = prepare_constants(executor, plan.settings, conditioning)
        if request.snapshot is not None:
            state = StreamState.from_bytes(request.snapshot.data, self._device)
        else:
            create = create_state if plan.audio_mode is AudioMode.STREAM else create_recorded_state
            state = create(executor, plan.settings, prepared, plan.seed, torch.from_numpy(audio))
        info = preparation.info
        pending = spec.max_pending_frames or info.chunk_frames
        self._streams[request.stream] = _Stream(
            plan=plan,
            prepared=prepared,
            state=state,
            progressive=spec.progressive,
            keep=pending + info.chunk_frames + info.cut_frames if info.cut_frames else 0,
            delivered=state.next_frame,
        )

    @torch.no_grad()
    def advance(
        self, stream: int, samples: NDArray[np.float32] | None = None, num_frames: int | None = None
    ) -> Made[VideoChunk]:
        """Generate the next frames: a piece of a progressive stream, the whole chunk otherwise."""
        own = self._streams[stream]
        if samples is not None:
            self._begin(own, torch.from_numpy(samples), num_frames)
        assert own.pieces is not None
        taken: list[Tensor] = []
        ended = False
        with span("engine.piece" if own.progressive else "engine.chunk"):
            while not (ended or (taken and own.progressive)):
                try:
                    taken.append(next(own.pieces).pixels)
                except StopIteration as end:
                    ended = True
                    self._finish(own, end.value)
        return self._deliver(own, taken, ended)

    def start_copy(self, frames: VideoChunk) -> PendingFrames:
        """Start to copy frames to the host, in parallel with later work."""
        return self._copy.start(frames)

    @torch.no_grad()
    def cut(self, stream: int, num_frames: int) -> None:
        """Reset a stream to the state after `num_frames` frames; `InputError` if it is not retained."""
        own = self._streams[stream]
        own.state = self._state_after(own, num_frames)
        own.pieces, own.delivered = None, num_frames

    @torch.no_grad()
    def snapshot(self, stream: int) -> bytes:
        """Return the state of a stream after its newest frame.

        Raises:
            InputError: the audio ended within a chunk and the stream is not cuttable.
        """
        own = self._streams[stream]
        if own.delivered == own.state.next_frame:
            return own.state.to_bytes()
        # The audio ended within the chunk: the state must forget the frames that were not delivered.
        self.cut(stream, own.delivered)
        return own.state.to_bytes()

    def close(self, stream: int) -> None:
        """Discard a stream."""
        self._streams.pop(stream, None)

    def _encode(self, plan: StreamPlan, picture: Tensor) -> Conditioning:
        """Encode a framed portrait `[3, H, W]`; the result is on the CPU."""
        picture = picture.to(self._device)
        embeds = PromptEmbeds(text_embeds=None, image_embeds=None)
        if self.model.prompt_encoder is not None:
            embeds = self.model.prompt_encoder.encode(plan.prompt, picture[None])
        settings = plan.settings
        conditioning = encode_conditioning(
            self._vae, picture, settings.geometry, settings.reference_layout, embeds
        )
        # On several ranks the leader encodes and sends; and a waiting stream takes no GPU memory.
        return move_conditioning(conditioning, torch.device("cpu"))

    def _begin(self, own: _Stream, samples: Tensor, num_frames: int | None) -> None:
        """Begin a chunk; the first piece is computed on demand."""
        own.wanted = own.settings.geometry.chunk_frames if num_frames is None else num_frames
        # The stream owns the generator, so that a cut within the chunk can save how much noise was drawn.
        own.rng = restore_rng(own.state.rng_state, self._device)
        own.pieces = generate_pieces(
            self.model.executor, own.settings, own.prepared, samples, own.state, normal_noise(own.rng)
        )
        if own.keep:
            own.chunks.append(_Chunk(own.state, samples))

    def _finish(self, own: _Stream, state: StreamState) -> None:
        assert own.rng is not None
        own.state, own.pieces = replace(state, rng_state=own.rng.get_state()), None
        if own.keep:
            own.chunks[-1].after = own.state
            motion_frames = own.settings.geometry.motion_frames
            # A cut needs the motion frames before the oldest frame that it may return to.
            while sum(chunk.num_frames for chunk in own.chunks) - own.chunks[0].num_frames >= (
                own.keep + motion_frames
            ):
                own.chunks.popleft()

    def _deliver(self, own: _Stream, taken: list[Tensor], ended: bool) -> Made[VideoChunk]:
        """Return the frames that the audio covers; the rest of the last chunk is padding."""
        pixels = torch.cat(taken, dim=1) if len(taken) > 1 else taken[0] if taken else None
        num_frames = 0 if pixels is None else min(own.wanted, pixels.shape[1])
        if pixels is None or num_frames == 0:
            return Made(None, 0, ended)
        shown = pixels[:, :num_frames]
        chunk = VideoChunk(pixels=shown, first_frame=own.delivered)
        own.wanted -= num_frames
        own.delivered += num_frames
        if own.keep:
            own.chunks[-1].frames.append(shown)
            own.chunks[-1].num_frames += num_frames
        return Made(chunk, num_frames, ended)

    def _state_after(self, own: _Stream, num_frames: int) -> StreamState:
        """Return the state after some frames, and drop the chunks that begin later."""
        state = own.state
        while own.chunks and own.chunks[-1].before.next_frame >= num_frames:
            state = own.chunks.pop().before
        if num_frames == state.next_frame:
            return state
        num_shown = num_frames - own.chunks[-1].before.next_frame if own.chunks else -1
        if not own.chunks or num_shown > own.chunks[-1].num_frames:
            raise InputError(f"cut to frame {num_frames}: the stream does not keep it")
        return self._cut_last(own, num_shown)

    def _cut_last(self, own: _Stream, num_shown: int) -> StreamState:
        """Cut the newest retained chunk."""
        chunk = own.chunks[-1]
        after = chunk.after
        if after is None:
            assert own.rng is not None
            after = replace(chunk.before, rng_state=own.rng.get_state())
        kept = torch.cat(chunk.frames, dim=1)[:, :num_shown]
        earlier = [frames for other in own.chunks for frames in other.frames if other is not chunk]
        shown = torch.cat([*earlier, kept], dim=1)[:, -own.settings.geometry.motion_frames :]
        state = cut_chunk(
            self.model.executor, own.settings, (chunk.before, after), chunk.samples, shown, num_shown
        )
        chunk.frames, chunk.num_frames, chunk.after = [kept], num_shown, state
        return state


def describe_stream(plan: StreamPlan, spec: StreamSpec) -> StreamInfo:
    """Return the properties of a stream that its client needs."""
    geometry = plan.settings.geometry
    return StreamInfo(
        fps=geometry.fps,
        sample_rate=geometry.sample_rate,
        height=plan.portrait.height,
        width=plan.portrait.width,
        chunk_frames=geometry.chunk_frames,
        lookahead_frames=plan.settings.audio.lookahead_frames,
        audio_mode=plan.audio_mode,
        cut_frames=geometry.chunk_frames if spec.cuttable and plan.audio_mode is AudioMode.STREAM else 0,
    )


def move_conditioning(conditioning: Conditioning, device: torch.device) -> Conditioning:
    """Copy a conditioning to a device; a copy to a GPU does not block the host."""
    text, image = conditioning.text_embeds, conditioning.image_embeds
    return Conditioning(
        reference_pixels=to_device(conditioning.reference_pixels, device),
        reference_latents=to_device(conditioning.reference_latents, device),
        condition=to_device(conditioning.condition, device),
        text_embeds=None if text is None else to_device(text, device),
        image_embeds=None if image is None else to_device(image, device),
    )
