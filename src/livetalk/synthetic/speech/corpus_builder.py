"""Creation of a speech corpus: sentences, spoken in several voices and arranged with pauses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from livetalk.models.audio_encoder import LogMel
from livetalk.synthetic.performance.prosody import measure_prosody
from livetalk.synthetic.performance.visemes import PhonemeEvent
from livetalk.synthetic.speech.corpus import CLIP_SECONDS, NUM_FRAMES, ClipInfo, CorpusClip
from livetalk.synthetic.speech.sentences import SentenceGenerator
from livetalk.synthetic.speech.synthesis import SAMPLE_RATE, Synthesiser, shift_events
from livetalk.synthetic.speech.voices import VoiceWarp, draw_voice

Samples = NDArray[np.float32]

NUM_VOICES: Final = 2
"""Voices per clip."""

SILENT_SHARE: Final = 0.04
"""Share of clips without speech."""

_CLIP_SAMPLES = CLIP_SECONDS * SAMPLE_RATE
_EDGE_SECONDS = 0.3


class CorpusBuilder:
    """Creates corpus clips, each determined by the seed and its index.

    Args:
        synthesisers: by source name.
        shares: relative frequency of each, by the same names.
        seed: of the corpus.
    """

    def __init__(
        self, synthesisers: Mapping[str, Synthesiser], shares: Mapping[str, float], seed: int
    ) -> None:
        self._synthesisers = synthesisers
        self._names = sorted(synthesisers)
        weights = np.array([shares[name] for name in self._names])
        self._weights = weights / weights.sum()
        self._seed = seed
        self._log_mel = LogMel()

    def build(self, count: int, report: Callable[[int], None] = lambda done: None) -> list[CorpusClip]:
        """Create clips 0 .. count - 1; `report` is called with the number of finished clips."""
        clips = []
        for index in range(count):
            clips.append(self.clip(index))
            report(index + 1)
        return clips

    def clip(self, index: int) -> CorpusClip:
        """Create one clip, deterministically."""
        rng = np.random.default_rng((self._seed, index))
        if rng.random() < SILENT_SHARE:
            return self._silent_clip(rng)
        name = str(rng.choice(self._names, p=self._weights))
        voices = tuple(draw_voice(rng) for _ in range(NUM_VOICES))
        waveforms, events, text = self._speak(name, index, voices, rng)
        gains = 10.0 ** rng.uniform(-0.8, 0.1, NUM_VOICES)
        loud = [waveform * np.float32(gain) for waveform, gain in zip(waveforms, gains, strict=True)]
        recorded = [record(waveform, rng) if rng.random() < 0.3 else waveform for waveform in loud]
        return CorpusClip(
            info=ClipInfo(name, text, tuple(_describe(voice) for voice in voices)),
            events=tuple(events),
            # The motion follows the clean audio; only the network's input is degraded.
            prosody=measure_prosody(loud[0], NUM_FRAMES),
            log_mels=tuple(self._spectrogram(waveform) for waveform in recorded),
        )

    def _speak(
        self, name: str, index: int, voices: Sequence[VoiceWarp], rng: np.random.Generator
    ) -> tuple[list[Samples], list[PhonemeEvent], str]:
        """Fill 8 s with sentences and pauses; return samples [128,000] per voice, events and text."""
        sentences = SentenceGenerator(int(rng.integers(1 << 30)))
        speed = float(rng.uniform(0.8, 1.25))
        canvas = [np.zeros(_CLIP_SAMPLES, np.float32) for _ in voices]
        events: list[PhonemeEvent] = []
        texts: list[str] = []
        start = _first_start(rng)
        end = CLIP_SECONDS if rng.random() < 0.8 else rng.uniform(4.5, 7.5)
        long_pause = rng.random() < 0.12
        while start < end:
            texts.append(sentences.draw())
            speech = self._synthesisers[name].speak(texts[-1], speed, voices, rng)
            for target, waveform in zip(canvas, speech.waveforms, strict=True):
                _paste(target, waveform, round(start * SAMPLE_RATE))
            events += shift_events(speech.events, round(start * SAMPLE_RATE) / SAMPLE_RATE)
            start += speech.waveforms[0].size / SAMPLE_RATE + rng.uniform(0.0, 0.5)
            if long_pause and start > 1.5:
                start += rng.uniform(1.5, 2.5)
                long_pause = False
        return canvas, _inside(events), " ".join(texts)

    def _silent_clip(self, rng: np.random.Generator) -> CorpusClip:
        """Create a clip of digital silence, hiss or hum, for which the mouth must stay closed."""
        silence = np.zeros(_CLIP_SAMPLES, np.float32)
        noises = [silence, *(coloured_noise(_CLIP_SAMPLES, rng) for _ in range(NUM_VOICES - 1))]
        levels = 10.0 ** rng.uniform(-4.0, -1.3, NUM_VOICES)
        waveforms = [noise * np.float32(level) for noise, level in zip(noises, levels, strict=True)]
        return CorpusClip(
            info=ClipInfo("silence", "", ("digital silence", *["noise"] * (NUM_VOICES - 1))),
            events=(),
            prosody=measure_prosody(silence, NUM_FRAMES),
            log_mels=tuple(self._spectrogram(waveform) for waveform in waveforms),
        )

    def _spectrogram(self, waveform: Samples) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(self._log_mel(torch.from_numpy(waveform)[None])[0].numpy(), np.float32)


def record(waveform: Samples, rng: np.random.Generator) -> Samples:
    """Degrade audio [samples], float32, 16 kHz, like a recording.

    Reverberation, band limit, noise and coarse quantization are each applied at random.
    """
    worse = waveform
    if rng.random() < 0.6:
        worse = _add_room(worse, rng)
    if rng.random() < 0.35:
        worse = _cut_band(worse, rng)
    if rng.random() < 0.6:
        level = float(np.abs(worse).max(initial=1e-4)) * 10.0 ** rng.uniform(-3.3, -1.2)
        worse = worse + coloured_noise(worse.size, rng) * np.float32(level)
    if rng.random() < 0.2:
        companded = np.sign(worse) * np.log1p(255.0 * np.minimum(np.abs(worse), 1.0)) / np.log(256.0)
        coarse = np.round(companded * 127.0) / 127.0
        worse = np.sign(coarse) * (256.0 ** np.abs(coarse) - 1.0) / 255.0
    return np.asarray(worse, np.float32)


def coloured_noise(length: int, rng: np.random.Generator) -> Samples:
    """Return noise [length] of unit variance, from white to brown, sometimes with mains hum."""
    spectrum = np.fft.rfft(rng.normal(size=length))
    # Bounded below, because brown noise has infinite power at 0 Hz.
    hertz = np.maximum(np.fft.rfftfreq(length, 1.0 / SAMPLE_RATE), 30.0)
    noise = np.fft.irfft(spectrum * hertz ** -rng.uniform(0.0, 1.1), length)
    noise /= noise.std()
    if rng.random() < 0.3:
        time = np.arange(length) / SAMPLE_RATE
        noise += sum(np.sin(2 * np.pi * 50.0 * k * time + k) / k for k in range(1, 6)) * rng.uniform(0.2, 1.0)
    return np.asarray(noise / noise.std(), np.float32)


def _add_room(waveform: Samples, rng: np.random.Generator) -> Samples:
    length = int(rng.uniform(0.1, 0.4) * SAMPLE_RATE)
    tail = rng.normal(size=length) * np.exp(-np.arange(length) * 6.9 / length)
    response = tail * 10.0 ** rng.uniform(-1.8, -1.0) / np.sqrt(length / 400.0)
    response[0] = 1.0
    size = waveform.size + length
    wet = np.fft.irfft(np.fft.rfft(waveform, size) * np.fft.rfft(response, size), size)
    return wet[: waveform.size].astype(np.float32)


def _cut_band(waveform: Samples, rng: np.random.Generator) -> Samples:
    spectrum = np.fft.rfft(waveform)
    hertz = np.fft.rfftfreq(waveform.size, 1.0 / SAMPLE_RATE)
    top, bottom = rng.uniform(3200.0, 7000.0), rng.uniform(40.0, 280.0)
    gain = 1.0 / (1.0 + (hertz / top) ** 24) / (1.0 + (bottom / np.maximum(hertz, 1.0)) ** 8)
    return np.fft.irfft(spectrum * gain, waveform.size).astype(np.float32)


def _first_start(rng: np.random.Generator) -> float:
    """Draw a start during speech, shortly before it, or up to 2 s before it."""
    choice = rng.random()
    if choice < 0.35:
        return float(-rng.uniform(0.2, 1.5))
    return float(rng.uniform(0.0, 0.4) if choice < 0.75 else rng.uniform(0.4, 2.0))


def _paste(target: Samples, waveform: Samples, start: int) -> None:
    """Add the part of `waveform` that is inside the target."""
    skipped = max(0, -start)
    inside = waveform[skipped : skipped + target.size - max(0, start)]
    if inside.size:
        target[max(0, start) : max(0, start) + inside.size] += inside


def _inside(events: Sequence[PhonemeEvent]) -> list[PhonemeEvent]:
    """Drop events far outside the clip; those near its ends affect its first and last frames."""
    return [
        event
        for event in events
        if event.end_seconds > -_EDGE_SECONDS and event.start_seconds < CLIP_SECONDS + _EDGE_SECONDS
    ]


def _describe(voice: VoiceWarp) -> str:
    return " ".join(f"{name}={value:.3g}" for name, value in asdict(voice).items())
