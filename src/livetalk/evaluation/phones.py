"""Phones with their times: read from a file, or found by aligning a transcript to the audio."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from livetalk.errors import UNSUITABLE_CONTENT, InputError
from livetalk.evaluation.extras import import_extra
from livetalk.media.files import require_input_file

CLOSED_SOUNDS = frozenset({"p", "b", "m"})
"""Phones with closed lips, in all supported phoneme alphabets."""

_SAMPLE_RATE = 16_000
_ALIGNER_STEPS_PER_SECOND = 100


@dataclass(frozen=True, slots=True)
class Phone:
    """One spoken sound; `symbol` is of any phoneme alphabet, with or without stress marks."""

    symbol: str  # of any phoneme alphabet; case and stress marks are irrelevant for closed lips
    start_seconds: float
    end_seconds: float

    @property
    def closes_lips(self) -> bool:
        """Whether the lips must meet for this phone."""
        return self.symbol.lower() in CLOSED_SOUNDS


def load_phones(path: str | os.PathLike[str]) -> list[Phone]:
    """Read phones from a JSON file: a list, or an object with the list under `events`.

    Each entry is `[symbol, start, end]` or an object with `symbol`, `start_seconds` and `end_seconds`.

    Raises:
        InputError: the file is missing or has other content.
    """
    file = require_input_file(path, "events")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        entries = content["events"] if isinstance(content, dict) else content
        return [_read_phone(entry) for entry in entries]
    except UNSUITABLE_CONTENT as error:
        raise InputError(
            f"events {file}: not a list of symbol, start_seconds, end_seconds ({error})"
        ) from error


def align_transcript(samples: NDArray[np.float32], transcript: str) -> list[Phone]:
    """Align an English transcript to audio [N], float32, -1..1, 16 kHz.

    Punctuation is ignored; digits must be written out.

    Raises:
        InputError: there are no words, a word is not in the dictionary, or the audio says something else.
        LivetalkError: pocketsphinx is not installed.
    """
    words = " ".join(re.findall(r"[a-z']+", transcript.lower()))
    if not words:
        raise InputError("transcript: contains no words")
    # pocketsphinx reads 16-bit integers.
    pcm = (np.clip(samples, -1.0, 1.0) * 32767).astype("<i2").tobytes()
    decoder = import_extra("pocketsphinx").Decoder(samprate=_SAMPLE_RATE, lm=None, loglevel="FATAL")
    try:
        decoder.set_align_text(words)
        # The first pass aligns words, the second the phones within them.
        for refine in (False, True):
            if refine:
                decoder.set_alignment()
            decoder.start_utt()
            decoder.process_raw(pcm, full_utt=True)
            decoder.end_utt()
        alignment = decoder.get_alignment()
    except RuntimeError as error:
        raise InputError(f"transcript: cannot be aligned to the voice ({error})") from error
    if alignment is None:
        raise InputError("transcript: cannot be aligned to the voice")
    step = 1 / _ALIGNER_STEPS_PER_SECOND
    return [
        Phone(phone.name, phone.start * step, (phone.start + phone.duration) * step)
        for word in alignment
        for phone in word
    ]


def _read_phone(entry: Mapping[str, object] | Sequence[object]) -> Phone:
    if isinstance(entry, Mapping):
        symbol, start, end = entry["symbol"], entry["start_seconds"], entry["end_seconds"]
    else:
        symbol, start, end = entry
    if not (isinstance(start, int | float) and isinstance(end, int | float)) or end < start:
        raise ValueError(f"times of {entry!r}")
    return Phone(str(symbol), float(start), float(end))
