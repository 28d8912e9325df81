"""Everything that a stream carries from chunk to chunk, as a value.

A state holds no reference to a process, a device queue or a network: any process with the same model,
settings and conditioning can continue it, after `to_bytes` and `from_bytes` on another machine too.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from livetalk.errors import InputError
from livetalk.streaming.audio import AudioBuffer, RecordedPiece, Recording
from livetalk.streaming.loudness import LoudnessState

STATE_FORMAT = "livetalk-stream-state-1"


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamState:
    """State of one stream; a chunk returns a new one, and continuing an old one repeats it bit for bit.

    Attributes:
        motion_latents: `[1, C, M, h, w]` float32, clean latents that start the next window.
        audio: the rolling audio buffer, or the position in a whole recording.
        rng_state: state of the random generator, uint8 on the CPU, of the kind of device it was made on.
        next_frame: index of the next chunk's first frame in the stream.
        last_frame: `[1, 3, H, W]`, -1..1, the frame shown last, where seams are hidden.
        loudness: memory of the running gain; None where there is none.
    """

    motion_latents: Tensor
    audio: AudioBuffer | Recording
    rng_state: Tensor
    next_frame: int = 0
    last_frame: Tensor | None = None
    loudness: LoudnessState | None = None

    @property
    def num_bytes(self) -> int:
        """Size in bytes of the tensors."""
        last_frame = 0 if self.last_frame is None else self.last_frame.nbytes
        loudness = 0 if self.loudness is None else self.loudness.num_bytes
        fixed = self.motion_latents.nbytes + self.audio.num_bytes + self.rng_state.nbytes
        return fixed + last_frame + loudness

    def to(self, device: torch.device) -> "StreamState":
        """Return the state on a device.

        A generator of another kind of device draws other numbers: there the noise goes on from a seed that
        is derived from the old generator's state.
        """
        return _move(self, self.motion_latents.device.type, device)

    def to_bytes(self) -> bytes:
        """Serialise the state, as a safetensors file in memory."""
        tensors = {"motion_latents": self.motion_latents, "rng_state": self.rng_state}
        fields: dict[str, Any] = {
            "format": STATE_FORMAT,
            "device": self.motion_latents.device.type,
            "next_frame": self.next_frame,
            "num_heard": None,
            "first_row": None,
            "loudness": None,
        }
        tensors["waveform"] = self.audio.waveform
        if isinstance(self.audio, Recording):
            fields["num_heard"] = self.audio.num_heard
            if self.audio.piece is not None:
                fields["first_row"] = self.audio.piece.first_row
                tensors["features"] = self.audio.piece.features
        if self.last_frame is not None:
            tensors["last_frame"] = self.last_frame
        if self.loudness is not None:
            tensors["pending"] = self.loudness.pending
            fields["loudness"] = asdict(replace(self.loudness, pending=torch.zeros(0)))
            del fields["loudness"]["pending"]
        on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        return save(on_cpu, metadata={"state": json.dumps(fields)})

    @classmethod
    def from_bytes(cls, data: bytes, device: torch.device) -> "StreamState":
        """Read what `to_bytes` wrote, onto a device.

        Raises:
            InputError: the data is damaged, or of another version.
        """
        try:
            tensors, fields = load(data), _read_fields(data)
            state = _rebuild(tensors, fields)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError("stream state: damaged, or not of this version") from error
        return _move(state, fields["device"], device)


def seeded_rng_state(seed: int, device: torch.device) -> Tensor:
    """Return the state of a generator on `device` freshly seeded with `seed`; empty on the meta device."""
    if device.type == "meta":
        return torch.empty(0, dtype=torch.uint8)
    return torch.Generator(device).manual_seed(seed).get_state()


def restore_rng(rng_state: Tensor, device: torch.device) -> torch.Generator:
    """Return a generator on `device` in a given state."""
    rng = torch.Generator(device)
    rng.set_state(rng_state)
    return rng


def _move(state: StreamState, rng_kind: str, device: torch.device) -> StreamState:
    """Move a state, whose generator is of a kind of device, to a device."""
    rng_state = state.rng_state
    if rng_kind != device.type:
        digest = hashlib.sha256(rng_state.numpy().tobytes()).digest()
        rng_state = seeded_rng_state(int.from_bytes(digest[:7], "little"), device)
    return replace(
        state,
        motion_latents=state.motion_latents.to(device),
        audio=state.audio.to(device),
        rng_state=rng_state,
        last_frame=None if state.last_frame is None else state.last_frame.to(device),
    )


def _read_fields(data: bytes) -> dict[str, Any]:
    """Return the fields besides tensors, from the header of a safetensors file: length, then JSON."""
    length = int.from_bytes(data[:8], "little")
    fields = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["state"])
    if not isinstance(fields, dict) or fields["format"] != STATE_FORMAT:
        raise ValueError("another format")
    return fields


def _rebuild(tensors: dict[str, Tensor], fields: dict[str, Any]) -> StreamState:
    audio: AudioBuffer | Recording = AudioBuffer(tensors["waveform"])
    if fields["num_heard"] is not None:
        piece = None
        if fields["first_row"] is not None:
            piece = RecordedPiece(fields["first_row"], tensors["features"])
        audio = Recording(tensors["waveform"], fields["num_heard"], piece)
    loudness = None
    if (memory := fields["loudness"]) is not None:
        # JSON has lists where the memory of a gain has tuples.
        values: dict[str, Any] = {k: tuple(x) if isinstance(x, list) else x for k, x in memory.items()}
        loudness = LoudnessState(pending=tensors["pending"], **values)
    return StreamState(
        motion_latents=tensors["motion_latents"],
        audio=audio,
        rng_state=tensors["rng_state"],
        next_frame=fields["next_frame"],
        last_frame=tensors.get("last_frame"),
        loudness=loudness,
    )
