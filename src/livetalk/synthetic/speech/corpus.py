"""The speech corpus for training: spectrograms, timed phonemes and prosody in a few small files.

A clip lasts 8 s and is stored in several voices with the same timing. Spectrograms are quantized
coefficients of a cosine transform in blocks (about 1.7 kB per second), so that hours of speech need little
space and reading them needs neither a synthesiser nor an audio decoder.
"""

import json
import lzma
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from livetalk.errors import UNSUITABLE_CONTENT, InputError
from livetalk.synthetic.augment import augment_log_mel
from livetalk.synthetic.performance.motion import PerformanceStyle, perform
from livetalk.synthetic.performance.performance import Performance
from livetalk.synthetic.performance.prosody import Prosody
from livetalk.synthetic.performance.visemes import FRAMES_PER_SECOND, PHONEMES, PhonemeEvent

CLIP_SECONDS: Final = 8
NUM_FRAMES: Final = CLIP_SECONDS * FRAMES_PER_SECOND
NUM_MELS: Final = CLIP_SECONDS * 100
NUM_BINS: Final = 80
LOWEST_DECADE: Final = -7.2
"""Decades of mel power are stored down to here; the speech encoder clips at -7."""

AUGMENTED_PER_STORED: Final = 2
"""Augmented versions (noise, reverberation, band limit, gain) per stored recording."""

_VERSION = 1
_BLOCK = (8, 16)
_CENTRE = -3.5
_INDEX = "index.json"
_TRACKS = "tracks.npz"
_SYMBOLS = tuple(sorted(PHONEMES))


@dataclass(frozen=True, slots=True)
class ClipInfo:
    """Origin of a clip."""

    source: str  # `hibari`, `flite-<voice>`, or `silence`
    text: str  # spoken text, empty for silence
    voices: tuple[str, ...]  # one description per stored recording


@dataclass(frozen=True)
class CorpusClip:
    """One clip to be saved.

    Attributes:
        log_mels: one [800, 80] float32 spectrogram per voice, decades of mel power.
    """

    info: ClipInfo
    events: tuple[PhonemeEvent, ...]  # phonemes, seconds from the clip's start
    prosody: Prosody  # loudness and pitch, 200 frames
    log_mels: tuple[NDArray[np.float32], ...]


class Corpus:
    """A loaded corpus; see `load_corpus`."""

    def __init__(
        self,
        infos: Sequence[ClipInfo],
        events: Sequence[tuple[PhonemeEvent, ...]],
        prosody: Sequence[Prosody],
        levels: NDArray[np.int8],
    ) -> None:
        self._infos = infos
        self._events = events
        self._prosody = prosody
        self._levels = levels

    @property
    def num_clips(self) -> int:
        return len(self._infos)

    @property
    def num_frames(self) -> int:
        """Video frames of every clip."""
        return NUM_FRAMES

    def num_variants(self, clip: int) -> int:
        """Return the number of recordings of a clip: stored voices, then augmented versions of each."""
        return len(self._infos[clip].voices) * (1 + AUGMENTED_PER_STORED)

    def info(self, clip: int) -> ClipInfo:
        """Return the origin of a clip."""
        return self._infos[clip]

    def events(self, clip: int) -> tuple[PhonemeEvent, ...]:
        """Return the phonemes of a clip; those at its ends may extend beyond it."""
        return self._events[clip]

    def prosody(self, clip: int) -> Prosody:
        """Return loudness and pitch of a clip, 200 frames."""
        return self._prosody[clip]

    def log_mel(self, clip: int, variant: int = 0) -> Tensor:
        """Return a spectrogram [800, 80], float32, decades of mel power, as `LogMel` computes it.

        It is not level-normalised, so that windows may be cut from it. Variants after the stored voices are
        augmented, deterministically.

        Raises:
            IndexError: there is no such variant.
        """
        if not 0 <= variant < self.num_variants(clip):
            raise IndexError(f"clip {clip} has {self.num_variants(clip)} variants, asked for {variant}")
        stored = len(self._infos[clip].voices)
        log_mel = decode_log_mel(self._levels[clip, variant % stored])
        if variant >= stored:
            log_mel = augment_log_mel(log_mel, np.random.default_rng((clip, variant)))
        return torch.from_numpy(log_mel)

    def performance(self, clip: int, seed: int, style: PerformanceStyle | None = None) -> Performance:
        """Create the motion of a whole clip; the seed also draws the style if None."""
        return perform(self._events[clip], self._prosody[clip], NUM_FRAMES, seed, style)


def save_corpus(folder: Path, clips: Sequence[CorpusClip], seed: int, clips_per_shard: int = 128) -> None:
    """Write a corpus to a folder, which is created if missing.

    Raises:
        ValueError: there are no clips, or they differ in their number of voices.
    """
    if len({len(clip.log_mels) for clip in clips}) != 1:
        raise ValueError(
            "all clips of a corpus have the same number of voices, and there is at least one clip"
        )
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[str] = []
    for start in range(0, len(clips), clips_per_shard):
        part = clips[start : start + clips_per_shard]
        levels = np.stack([np.stack([encode_log_mel(mel) for mel in clip.log_mels]) for clip in part])
        # Equal coefficients are stored together in time order, which compresses best.
        ordered = np.ascontiguousarray(levels.transpose(4, 5, 0, 1, 2, 3))
        shards.append(f"mel-{len(shards):03d}.xz")
        (folder / shards[-1]).write_bytes(lzma.compress(ordered.tobytes(), preset=6))
    np.savez_compressed(folder / _TRACKS, **_pack_tracks(clips))
    index = {
        "version": _VERSION,
        "seed": seed,
        "symbols": _SYMBOLS,
        "num_voices": len(clips[0].log_mels),
        "clips_per_shard": clips_per_shard,
        "shards": shards,
        "clips": [asdict(clip.info) for clip in clips],
    }
    (folder / _INDEX).write_text(json.dumps(index), encoding="utf-8")


def load_corpus(folder: Path) -> Corpus:
    """Read a corpus that `save_corpus` wrote; compressed blocks stay in memory (about 64 kB per recording).

    Raises:
        InputError: the folder has no corpus, or a damaged one.
    """
    if not (folder / _INDEX).exists():
        raise InputError(
            f"{folder}: no speech corpus here; make one with `livetalk data speech --out {folder}`"
        )
    try:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        if index["version"] != _VERSION:
            raise InputError(f"{folder}: corpus version {index['version']} cannot be read; make it anew")
        infos = [ClipInfo(c["source"], c["text"], tuple(c["voices"])) for c in index["clips"]]
        levels = np.concatenate([_read_shard(folder / name, index["num_voices"]) for name in index["shards"]])
        with np.load(folder / _TRACKS) as tracks:
            events, prosody = _unpack_tracks({name: tracks[name] for name in tracks.files}, index["symbols"])
    except UNSUITABLE_CONTENT as error:
        raise InputError(f"{folder}: the speech corpus is damaged ({error}); make it anew") from error
    if not len(infos) == len(events) == len(levels):
        raise InputError(f"{folder}: the speech corpus is damaged (files of different lengths); make it anew")
    return Corpus(infos, events, prosody, levels)


def encode_log_mel(log_mel: NDArray[np.float32]) -> NDArray[np.int8]:
    """Quantize a spectrogram [800, 80] in decades to levels of cosine coefficients [100, 5, 8, 16]."""
    rows, columns = _BLOCK
    raised = np.maximum(log_mel, LOWEST_DECADE) - _CENTRE
    blocks = raised.reshape(NUM_MELS // rows, rows, NUM_BINS // columns, columns).transpose(0, 2, 1, 3)
    coefficients = _cosines(rows) @ blocks @ _cosines(columns).T
    return np.asarray(np.clip(np.round(coefficients / _steps()), -127, 127), np.int8)


def decode_log_mel(levels: NDArray[np.int8]) -> NDArray[np.float32]:
    """Invert `encode_log_mel` with an error of about 0.14 decades (root mean square)."""
    coefficients = levels.astype(np.float32) * _steps()
    blocks = _cosines(_BLOCK[0]).T @ coefficients @ _cosines(_BLOCK[1])
    log_mel = blocks.transpose(0, 2, 1, 3).reshape(NUM_MELS, NUM_BINS) + _CENTRE
    return np.maximum(log_mel, LOWEST_DECADE).astype(np.float32)


def _steps() -> NDArray[np.float32]:
    """Return the quantization step of each coefficient; high frequencies are mostly noise and coarser."""
    rows, columns = np.arange(_BLOCK[0])[:, None], np.arange(_BLOCK[1])[None]
    steps = 0.35 * (1.0 + 0.1 * rows + 0.03 * columns)
    steps[0, 0] = 0.6  # The mean of a block has the widest range.
    return steps.astype(np.float32)


def _cosines(size: int) -> NDArray[np.float32]:
    """Return an orthonormal cosine basis [coefficient, position]."""
    basis = np.cos(np.pi / size * np.arange(size)[:, None] * (np.arange(size)[None] + 0.5))
    basis *= np.sqrt(2.0 / size)
    basis[0] /= np.sqrt(2.0)
    return basis.astype(np.float32)


def _read_shard(path: Path, num_voices: int) -> NDArray[np.int8]:
    """Return the levels of one file, [clips, voices, 100, 5, 8, 16]."""
    flat = np.frombuffer(lzma.decompress(path.read_bytes()), np.int8)
    shape = (*_BLOCK, -1, num_voices, NUM_MELS // _BLOCK[0], NUM_BINS // _BLOCK[1])
    return np.ascontiguousarray(flat.reshape(shape).transpose(2, 3, 4, 5, 0, 1))


def _pack_tracks(clips: Sequence[CorpusClip]) -> dict[str, NDArray[np.generic]]:
    """Convert events to milliseconds and prosody to whole dB and Hz."""
    events = [event for clip in clips for event in clip.events]
    milliseconds = [[round(e.start_seconds * 1000), round(e.end_seconds * 1000)] for e in events]
    return {
        "events_per_clip": np.array([len(clip.events) for clip in clips], np.int32),
        "symbols": np.array([_SYMBOLS.index(event.symbol) for event in events], np.uint8),
        "milliseconds": np.array(milliseconds, np.int16).reshape(-1, 2),
        "energy_db": np.stack([np.round(clip.prosody.energy_db) for clip in clips]).astype(np.int8),
        "pitch_hz": np.stack([np.round(clip.prosody.pitch_hz) for clip in clips]).astype(np.uint16),
    }


def _unpack_tracks(
    tracks: dict[str, NDArray[np.generic]], symbols: Sequence[str]
) -> tuple[list[tuple[PhonemeEvent, ...]], list[Prosody]]:
    """Invert `_pack_tracks`."""
    flat = [
        PhonemeEvent(symbols[int(symbol)], start / 1000.0, end / 1000.0)
        for symbol, (start, end) in zip(
            tracks["symbols"].tolist(), tracks["milliseconds"].tolist(), strict=True
        )
    ]
    ends = np.cumsum(tracks["events_per_clip"]).tolist()
    events = [tuple(flat[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    energy, pitch = tracks["energy_db"].astype(np.float32), tracks["pitch_hz"].astype(np.float32)
    return events, [Prosody(*pair) for pair in zip(energy, pitch, strict=True)]
