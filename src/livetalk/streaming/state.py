"""The state that a stream carries from chunk to chunk, as a value.

Any process with the same model, settings and conditioning can continue it, also on another machine through
`to_bytes` and `from_bytes`.
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
from livetalk.streaming.audio import AudioBuffer, EncodedSection, Recording
from livetalk.streaming.loudness import LoudnessState

STATE_FORMAT = "livetalk-stream-state-2"


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamState:
    """State of one stream. A chunk returns a new state; repeating it from the same state is bit-identical.

    Attributes:
        rng_state: of a random generator on the kind of device that holds `motion_latents`; uint8 on the CPU.
        last_frame: `[1, 3, H, W]`, -1..1, the frame shown last; None without seam correction.
    """

    motion_latents: Tensor  # `[1, C, M, h, w]` float32, clean latents that start the next window
    audio: AudioBuffer | Recording  # the live audio buffer, or the position in a complete recording
    rng_state: Tensor
    next_frame: int = 0  # index of the next chunk's first frame in the stream
    last_frame: Tensor | None = None
    loudness: LoudnessState | None = None

    @property
    def num_bytes(self) -> int:
        last_frame = 0 if self.last_frame is None else self.last_frame.nbytes
        loudness = 0 if self.loudness is None else self.loudness.num_bytes
        fixed = self.motion_latents.nbytes + self.audio.num_bytes + self.rng_state.nbytes
        return fixed + last_frame + loudness

    def to(self, device: torch.device) -> "StreamState":
        """Return the state on a device; the noise continues only on the same kind of device."""
        return _move(self, self.motion_latents.device.type, device)

    def to_bytes(self) -> bytes:
        """Serialise the state as a safetensors file in memory."""
        tensors = {"motion_latents": self.motion_latents, "rng_state": self.rng_state}
        fields: dict[str, Any] = {
            "format": STATE_FORMAT,
            "device": self.motion_latents.device.type,
            "next_frame": self.next_frame,
            "num_consumed": None,
            "first_row": None,
            "loudness": None,
        }
        tensors["samples"] = self.audio.samples
        if isinstance(self.audio, Recording):
            fields["num_consumed"] = self.audio.num_consumed
            if self.audio.section is not None:
                fields["first_row"] = self.audio.section.first_row
                tensors["features"] = self.audio.section.features
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
        """Restore a state that `to_bytes` wrote; `InputError` if it is damaged or of another version."""
        try:
            tensors, fields = load(data), _read_fields(data)
            state = _rebuild(tensors, fields)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError("stream state: the data is damaged or of another version") from error
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
    rng_state = state.rng_state
    # Generators of different kinds of device draw different numbers and cannot read each other's state: on a
    # new kind the noise continues from a seed that is derived from the old state.
    if rng_kind != device.type:
        # 56 bits of the digest, because a seed must fit a signed 64-bit integer.
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
    """Return the fields besides tensors, from the JSON header of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    fields = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["state"])
    if not isinstance(fields, dict) or fields["format"] != STATE_FORMAT:
        raise ValueError(f"format must be {STATE_FORMAT}")
    return fields


def _rebuild(tensors: dict[str, Tensor], fields: dict[str, Any]) -> StreamState:
    audio: AudioBuffer | Recording = AudioBuffer(tensors["samples"])
    if fields["num_consumed"] is not None:
        section = None
        if fields["first_row"] is not None:
            section = EncodedSection(fields["first_row"], tensors["features"])
        audio = Recording(tensors["samples"], fields["num_consumed"], section)
    loudness = None
    if (saved := fields["loudness"]) is not None:
        # JSON turned the tuples into lists.
        values: dict[str, Any] = {k: tuple(x) if isinstance(x, list) else x for k, x in saved.items()}
        loudness = LoudnessState(pending=tensors["pending"], **values)
    return StreamState(
        motion_latents=tensors["motion_latents"],
        audio=audio,
        rng_state=tensors["rng_state"],
        next_frame=fields["next_frame"],
        last_frame=tensors.get("last_frame"),
        loudness=loudness,
    )
