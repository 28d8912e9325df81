"""Speech synthesis at 16 kHz with timed phonemes, by two free synthesisers that run offline.

hibari (natural, one voice that can be warped) comes with the extra `livetalk[data]`; flite (plain, exact
timing) is a program of the operating system. Both are needed only to create a corpus.
"""

import importlib
import shutil
import subprocess
import tempfile
import wave
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from livetalk.errors import InputError
from livetalk.synthetic.performance.visemes import PHONEMES, PhonemeEvent
from livetalk.synthetic.speech.voices import VoiceWarp, tilt_gain, warp_pitch, warp_rows, warp_waveform

Samples = NDArray[np.float32]

SAMPLE_RATE: Final = 16_000

_HIBARI_RATE = 24_000
_HIBARI_UNIT_SECONDS = 0.025
# Delay of the labels relative to the audio, by forced alignment of both (median over 2,600 phonemes).
_HIBARI_LAG_SECONDS = 0.060
_FLITE_LAG_SECONDS = 0.005
_HIBARI_DURATIONS = "/Cast_32_output_0"

IPA_TO_PHONEME: Final[Mapping[str, str]] = {
    **{letter: letter for letter in "pbtdkmnfvszlw"},
    "\u0261": "g", "\u014b": "ng", "\u03b8": "th", "\u00f0": "dh", "\u0283": "sh", "\u0292": "zh", "h": "hh",
    "\u02a7": "ch", "\u02a4": "jh", "\u0279": "r", "j": "y", "\u027e": "dx", "T": "dx", "\u0294": "t",
    "\u0251": "aa", "\u00e6": "ae", "a": "ae", "\u028c": "ah", "\u0259": "ax", "\u1d4a": "ax", "\u0250": "ax",
    "\u0254": "ao", "\u0252": "ao", "\u025b": "eh", "\u025c": "er", "\u025a": "er", "\u026a": "ih",
    "\u1d7b": "ih", "i": "iy", "\u028a": "uh", "u": "uw", "e": "ey", "o": "ow",
    "A": "ey", "I": "ay", "O": "ow", "Q": "ow", "W": "aw", "Y": "oy",
}  # fmt: skip
"""hibari's phoneme letters (IPA, capitals for diphthongs) as symbols of `PhonemeEvent`."""

_STRESS = frozenset("\u02c8\u02cc")
_LENGTH = "\u02d0"


@dataclass(frozen=True)
class Speech:
    """A spoken text."""

    waveforms: tuple[Samples, ...]  # the utterance in each voice, [samples] each, float32, 16 kHz, peak 0.7
    events: tuple[PhonemeEvent, ...]  # phonemes, the same for all voices


class Synthesiser(Protocol):
    """A synthesiser that speaks a text in several voices with the same timing."""

    def speak(self, text: str, speed: float, voices: Sequence[VoiceWarp], rng: np.random.Generator) -> Speech:
        """Speak `text`, `speed` times as fast as usual, once per voice."""


class HibariSynthesiser:
    """Natural English voice; the input of its vocoder is warped to create other speakers.

    Args:
        sample_rate: of the result; the voice itself has 24,000 samples per second.

    Raises:
        InputError: the packages of the extra `data` are missing.
    """

    def __init__(self, sample_rate: int = SAMPLE_RATE) -> None:
        self._sample_rate = sample_rate
        hibari, onnx, onnxruntime = (_import(name) for name in ("hibari", "onnx", "onnxruntime"))
        self._dsp: Any = _import("hibari.dsp")
        self._voice: Any = hibari.Hibari()
        self._letters = {number: letter for letter, number in self._voice.vocab.items()}
        graph = onnx.load(self._voice.model_path)
        durations = onnx.helper.make_tensor_value_info(_HIBARI_DURATIONS, onnx.TensorProto.INT64, None)
        graph.graph.output.append(durations)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session: Any = onnxruntime.InferenceSession(graph.SerializeToString(), options)

    def speak(self, text: str, speed: float, voices: Sequence[VoiceWarp], rng: np.random.Generator) -> Speech:
        """Speak an English text; speeds of 0.8..1.25 sound natural. `rng` draws the noise of the vocoder."""
        parts: list[list[Samples]] = [[] for _ in voices]
        events: list[PhonemeEvent] = []
        offset = 0.0
        for phonemes in self._voice.phonemize(text):
            ids = self._voice.ids(phonemes)
            inputs = {"ids": np.array([ids], np.int64), "speed": np.array([speed], np.float32)}
            *spectra, pitch, durations = self._session.run(None, inputs)
            for sink, voice in zip(parts, voices, strict=True):
                sink.append(self._render([part[0] for part in spectra], pitch[0], voice, rng))
            ends = np.cumsum(np.ravel(durations)) * _HIBARI_UNIT_SECONDS
            symbols = [self._letters.get(number, "") for number in ids]
            events += hibari_events(symbols, ends, offset - _HIBARI_LAG_SECONDS)
            offset += parts[0][-1].size / _HIBARI_RATE
        waveforms = [np.concatenate(sink) for sink in parts]
        events = end_with_sound(events, waveforms[0], _HIBARI_RATE)
        resampled = (_set_peak(_resample(one, _HIBARI_RATE, self._sample_rate)) for one in waveforms)
        return Speech(tuple(resampled), tuple(events))

    def _render(
        self, spectra: Sequence[Samples], pitch: Samples, voice: VoiceWarp, rng: np.random.Generator
    ) -> Samples:
        harmonic, phase, noise, free, free_phase = (warp_rows(part, voice.formant_scale) for part in spectra)
        tilt = tilt_gain(harmonic.shape[0], _HIBARI_RATE, voice.tilt_db_per_octave)[:, None]
        breath = np.float32(voice.breath_db * np.log(10.0) / 20.0)
        rendered = self._dsp.synth(
            harmonic + tilt,
            phase,
            noise + tilt + breath,
            free + tilt,
            free_phase,
            warp_pitch(pitch, voice),
            rng,
        )
        return np.asarray(rendered, np.float32)


class FliteSynthesiser:
    """The `flite` program of the operating system: plain voices, exact timing.

    Args:
        voice: `slt` (female), `rms`, `awb` or `kal16` (male).

    Raises:
        InputError: the program is missing.
    """

    def __init__(self, voice: str) -> None:
        if shutil.which("flite") is None:
            raise InputError("the program flite is missing; install it (apt install flite) to make a corpus")
        self._voice = voice

    def speak(self, text: str, speed: float, voices: Sequence[VoiceWarp], rng: np.random.Generator) -> Speech:
        """Speak an English text; voices differ in formants and tilt and share a random change of pitch.

        Raises:
            InputError: flite fails.
        """
        waveform, rate, ends = self._run(text, speed)
        # A faster playback rate raises pitch and formants together. Multiples of 100 keep the resampling
        # filter short.
        # Another playback rate changes the pitch and the vocal tract of the few voices together.
        played_rate = round(rate * rng.uniform(0.88, 1.14) / 100) * 100
        pitch_scale = played_rate / rate
        waveform = _resample(waveform, played_rate)
        events: list[PhonemeEvent] = []
        start = 0.0
        for symbol, end in ends:
            events.append(PhonemeEvent(symbol, start / pitch_scale, end / pitch_scale))
            start = end
        events = shift_events(events, -_FLITE_LAG_SECONDS)
        warped = (warp_waveform(waveform, voice, SAMPLE_RATE) for voice in voices)
        return Speech(tuple(_set_peak(one) for one in warped), tuple(events))

    def _run(self, text: str, speed: float) -> tuple[Samples, int, list[tuple[str, float]]]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "speech.wav"
            stretch = f"duration_stretch={1.0 / speed:.3f}"
            command = [
                "flite",
                "-voice",
                self._voice,
                "--setf",
                stretch,
                "-psdur",
                "-t",
                text,
                "-o",
                str(path),
            ]
            finished = subprocess.run(command, capture_output=True, text=True, check=False)
            if finished.returncode or not path.exists():
                raise InputError(f"flite could not speak {text[:40]!r}: {finished.stderr.strip()[:200]}")
            with wave.open(str(path)) as file:
                rate = file.getframerate()
                pcm = np.frombuffer(file.readframes(file.getnframes()), np.int16)
        return pcm.astype(np.float32) / 32_768.0, rate, list(_flite_ends(finished.stdout))


def hibari_events(symbols: Sequence[str], ends: NDArray[np.float64], offset: float) -> list[PhonemeEvent]:
    """Convert hibari's labels to events.

    The time of stress marks belongs to the following vowel, that of length marks to the preceding one; the
    time of a space between words is divided between its neighbours. All other symbols that are no phonemes
    are pauses.

    Args:
        symbols: one letter per label, "" for the ends of the utterance.
        ends: [labels], end of each label in seconds.
        offset: added to all times, seconds.
    """
    events: list[PhonemeEvent] = []
    start = 0.0
    for symbol, end in zip(symbols, (float(end) for end in ends), strict=True):
        if symbol in _STRESS:
            continue  # The next label starts at the same time.
        if events and symbol in (_LENGTH, " "):
            last = events.pop()
            start = end if symbol == _LENGTH else (start + end) / 2
            events.append(PhonemeEvent(last.symbol, last.start_seconds, start + offset))
            continue
        if end > start:
            events.append(PhonemeEvent(IPA_TO_PHONEME.get(symbol, "pau"), start + offset, end + offset))
        start = end
    return events


def end_with_sound(events: Sequence[PhonemeEvent], waveform: Samples, sample_rate: int) -> list[PhonemeEvent]:
    """Shorten phonemes that end in silence to their audible part, by at least 0.06 s or not at all.

    hibari assigns up to 0.3 s of the silence after a phrase to its last phoneme, during which the mouth
    would hold the vowel or the closure of a final /p/. `waveform` is [samples], float32.
    """
    step = sample_rate // 100
    frames = waveform[: waveform.size // step * step].reshape(-1, step)
    decibels = 10.0 * np.log10(np.mean(np.square(frames), axis=1) + 1e-12)
    # Relative to the loud frames, because synthesisers differ in level.
    audible = decibels > np.percentile(decibels, 95) - 38.0 if decibels.size else np.zeros(0, bool)
    ended: list[PhonemeEvent] = []
    for event in events:
        first = max(0, int(event.start_seconds * 100))
        sounding = np.flatnonzero(audible[first : int(np.ceil(event.end_seconds * 100))])
        last = (first + int(sounding[-1]) + 1) / 100 if sounding.size else 0.0
        end = max(last, event.start_seconds + 0.05)
        if event.symbol != "pau" and event.end_seconds - end > 0.06:
            event = PhonemeEvent(event.symbol, event.start_seconds, end)
        ended.append(event)
    return ended


def shift_events(events: Sequence[PhonemeEvent], seconds: float) -> list[PhonemeEvent]:
    """Return the events delayed by `seconds`."""
    return [
        PhonemeEvent(event.symbol, event.start_seconds + seconds, event.end_seconds + seconds)
        for event in events
    ]


def _flite_ends(output: str) -> Iterator[tuple[str, float]]:
    for item in output.split():
        symbol, _, end = item.partition(":")
        yield (symbol if symbol in PHONEMES else "pau"), float(end)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"making speech needs {name}: pip install 'livetalk[data]'") from error


def _resample(waveform: Samples, rate: int, wanted: int = SAMPLE_RATE) -> Samples:
    """Resample with a polyphase filter."""
    if rate == wanted:
        return waveform
    divisor = int(np.gcd(wanted, rate))
    signal = _import("scipy.signal")
    return np.asarray(signal.resample_poly(waveform, wanted // divisor, rate // divisor), np.float32)


def _set_peak(waveform: Samples, peak: float = 0.7) -> Samples:
    loudest = float(np.abs(waveform).max(initial=1e-6))
    return waveform * np.float32(peak / loudest)
