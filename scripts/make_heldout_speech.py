"""Create the held-out audio of the evaluation: WAV files and a manifest with timed phonemes.

Nothing of it is in the training data: the sentences, the warps of hibari, flite's voices awb and kal, and
recordings of people. The recordings come from the Debian packages asterisk-core-sounds-{en,ru}-g722
(CC-BY-SA-3.0 and CC-BY-3.0, used for measuring only, not shipped); where the text is known, pocketsphinx
aligns it.

    python scripts/make_heldout_speech.py --out heldout --recordings /usr/share/asterisk/sounds
"""

import argparse
import json
import re
import wave
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from livetalk.synthetic.performance.visemes import PHONEMES, PhonemeEvent
from livetalk.synthetic.speech.corpus_builder import coloured_noise
from livetalk.synthetic.speech.synthesis import (
    SAMPLE_RATE,
    FliteSynthesiser,
    HibariSynthesiser,
    Synthesiser,
    shift_events,
)
from livetalk.synthetic.speech.voices import VoiceWarp

Samples = NDArray[np.float32]

TEXTS = (
    "Vivian happily baked fourteen muffins, then gave them to a parrot. What a lovely surprise!",
    "Please fetch some bread from the bakery. Both of the ovens were open, and it smelled superb.",
    "Hmm, I have a feeling that Joe would rather eat noodles. Wouldn't you? We could share a pot.",
    "Waves of wheat moved under a pale sky while six old ponies began to fall asleep.",
    "May I remind you that our train leaves platform five before noon? Bring warm boots.",
    "The weather map showed fog from the mountains to the bay, with more rain by Friday.",
    "Whoever wrote this poem must have been homesick. Every verse ends with the word river.",
    "Above all, be kind. People forget what you said, but they remember how you made them feel.",
    "My father mumbled something about pepper, mopped his brow, and vanished into the pantry.",
    "Two hundred bees swarmed around Martha's apricot tree. Nobody dared to pick a single one.",
    "It was a calm summer evening. We swam, we laughed, and we watched the fishing boats.",
    "Could you possibly fix the volume? The movie begins at eight, and Pam cannot hear it.",
    "Fresh paint, bare walls, five big boxes: moving house is never simple, but it is fun.",
    "The museum opens at nine. A famous Viking helmet is shown above the main staircase.",
    "Why do we whisper in libraries? Perhaps because books deserve a peaceful home.",
    "Amy bumped her elbow, wept for a moment, and then burst out laughing with the others.",
    "If both pumps fail, the basement will fill up with water. That would be most unfortunate.",
    "Oh, you two! Come over here, take off those wet shoes, and have a cup of cocoa.",
)

HIBARI_VOICES = (
    VoiceWarp(),
    VoiceWarp(0.84, 0.56, 0.9, 2.0, -1.0),
    VoiceWarp(0.80, 0.47, 0.8),
    VoiceWarp(1.10, 1.22, 1.2, 0.0, 1.0),
    VoiceWarp(0.94, 0.86, 1.1, 4.0),
    VoiceWarp(0.88, 0.66, 1.2, -2.0, 0.5),
    VoiceWarp(1.04, 1.02, 0.8, 3.0, -1.5),
    VoiceWarp(1.15, 1.36, 1.0),
)

RECORDED = (
    ("en_US_f_Allison", ("vm-intro",), 1.0,
     "please leave your message after the tone when done hang up or press the pound key"),
    ("en_US_f_Allison", ("ss-noservice",), 1.0,
     "the number you have dialed is not in service please check the number and try again"),
    ("en_US_f_Allison", ("conf-onlyperson", "tt-weasels"), 1.0,
     "you are currently the only person in this conference weasels have eaten our phone system"),
    ("en_US_f_Allison", ("demo-abouttotry",), 1.0, ""),
    ("en_US_f_Allison", ("demo-congrats",), 0.82, ""),
    ("ru_RU_f_IvrvoiceRU", ("demo-congrats",), 1.0, ""),
)  # fmt: skip
"""Folder, files, playing speed (below 1 imitates a man's voice), text if known."""

MAX_SECONDS = 7.0


@dataclass(frozen=True)
class HeldoutClip:
    """One held-out recording.

    Attributes:
        name: name of the WAV file, without extension.
        source: description of the voice.
        text: spoken text; empty if unknown.
        waveform: [samples], float32, 16 kHz.
        events: timed phonemes; None if unknown.
    """

    name: str
    source: str
    text: str
    waveform: Samples
    events: tuple[PhonemeEvent, ...] | None


def spoken_clip(
    name: str, source: str, speaker: Synthesiser, text: str, voice: VoiceWarp, seed: int
) -> HeldoutClip:
    """Synthesise a text, with 0.2 s of silence before and 0.4 s after it."""
    rng = np.random.default_rng((7, seed))
    speech = speaker.speak(text, float(rng.uniform(0.9, 1.1)), [voice], rng)
    waveform = np.pad(speech.waveforms[0], (SAMPLE_RATE // 5, 2 * SAMPLE_RATE // 5))
    return HeldoutClip(name, source, text, waveform, tuple(shift_events(speech.events, 0.2)))


def spoken_clips() -> list[HeldoutClip]:
    """Return eight warps of hibari, and five texts each of flite's awb and kal."""
    hibari = HibariSynthesiser()
    clips = [
        spoken_clip(f"hibari-{i}", f"hibari {asdict(voice)}", hibari, TEXTS[i], voice, i)
        for i, voice in enumerate(HIBARI_VOICES)
    ]
    for voice, first in (("awb", 8), ("kal16", 13)):
        speaker = FliteSynthesiser(voice)
        for i in range(5):
            text = TEXTS[first + i]
            clips.append(spoken_clip(f"{voice}-{i}", f"flite {voice}", speaker, text, VoiceWarp(), first + i))
    return clips


def recorded_clips(folder: Path) -> list[HeldoutClip]:
    """Return recordings of people, cut to 7 s."""
    clips = []
    for number, (speaker, names, speed, words) in enumerate(RECORDED):
        parts = [read_audio(folder / speaker / f"{name}.g722", speed) for name in names]
        waveform = np.concatenate([np.pad(part, (0, SAMPLE_RATE // 4)) for part in parts])
        waveform = waveform[: int(MAX_SECONDS * SAMPLE_RATE)]
        events = align(waveform, words) if words else None
        clips.append(HeldoutClip(f"human-{number}", f"{speaker} x{speed:g}", words, waveform, events))
    return clips


def silence_clips() -> list[HeldoutClip]:
    """Return digital silence, hiss, and speech with a pause of 2.5 s."""
    rng = np.random.default_rng(11)
    length = 4 * SAMPLE_RATE
    silence = np.zeros(length, np.float32)
    hiss = coloured_noise(length, rng) * np.float32(10.0 ** (-50.0 / 20.0))
    hibari = HibariSynthesiser()
    before = spoken_clip("", "", hibari, "Wait a moment, please.", VoiceWarp(), 20)
    after = spoken_clip("", "", hibari, "Thank you, now we may go on.", VoiceWarp(), 21)
    gap = np.zeros(5 * SAMPLE_RATE // 2, np.float32)
    late = (before.waveform.size + gap.size) / SAMPLE_RATE
    events = (*(before.events or ()), *shift_events(after.events or (), late))
    paused = np.concatenate((before.waveform, gap, after.waveform))
    return [
        HeldoutClip("silence-0", "digital silence", "", silence, ()),
        HeldoutClip("silence-1", "noise at -50 dBFS", "", hiss, ()),
        HeldoutClip(
            "silence-2", "hibari with 2.5 s of silence", f"{before.text} {after.text}", paused, events
        ),
    ]


def read_audio(path: Path, speed: float) -> Samples:
    """Decode a file to 16 kHz mono at `speed` times the original speed."""
    # Samples at a rate of 16 kHz / speed that are taken as 16 kHz play `speed` times as fast.
    resampler = AudioResampler("fltp", "mono", round(SAMPLE_RATE / speed))
    pieces: list[Samples] = []
    with av.open(str(path), format="g722") as container:
        for frame in container.decode(audio=0):
            pieces += [part.to_ndarray()[0] for part in resampler.resample(frame)]
        pieces += [part.to_ndarray()[0] for part in resampler.resample(None)]
    return np.concatenate(pieces).astype(np.float32)


def align(waveform: Samples, words: str) -> tuple[PhonemeEvent, ...]:
    """Align known text with pocketsphinx.

    Raises:
        SystemExit: the text does not match the recording.
    """
    from pocketsphinx import Decoder  # type: ignore[import-untyped]  # noqa: PLC0415  optional

    pcm = (np.clip(waveform, -1.0, 1.0) * 32_767.0).astype("<i2").tobytes()
    decoder = Decoder(samprate=SAMPLE_RATE, loglevel="FATAL", lm=None)
    decoder.set_align_text(re.sub(r"[^a-z' ]", " ", words))
    for second_pass in (False, True):
        if second_pass:
            decoder.set_alignment()
        decoder.start_utt()
        decoder.process_raw(pcm, full_utt=True)
        decoder.end_utt()
    phones = [phone for word in decoder.get_alignment() for phone in word]
    if not phones:
        raise SystemExit(f"cannot align {words!r}")
    names = (phone.name.lower() for phone in phones)
    return tuple(
        PhonemeEvent(name if name in PHONEMES else "pau", p.start / 100, (p.start + p.duration) / 100)
        for name, p in zip(names, phones, strict=True)
    )


def write_clips(clips: Sequence[HeldoutClip], out: Path) -> None:
    """Write one WAV per clip and `manifest.json`."""
    out.mkdir(parents=True, exist_ok=True)
    records = []
    for clip in clips:
        pcm = (np.clip(clip.waveform, -1.0, 1.0) * 32_767.0).astype("<i2")
        with wave.open(str(out / f"{clip.name}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE)
            file.writeframes(pcm.tobytes())
        events = None if clip.events is None else [_event_record(event) for event in clip.events]
        records.append(
            {
                "name": clip.name,
                "file": f"{clip.name}.wav",
                "source": clip.source,
                "text": clip.text,
                "seconds": round(clip.waveform.size / SAMPLE_RATE, 3),
                "events": events,
            }
        )
    (out / "manifest.json").write_text(json.dumps({"clips": records}, indent=1), encoding="utf-8")


def _event_record(event: PhonemeEvent) -> tuple[str, float, float]:
    return event.symbol, round(event.start_seconds, 3), round(event.end_seconds, 3)


def main() -> None:
    """Create and write all recordings."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recordings", type=Path, required=True, help="folder of the asterisk sounds")
    arguments = parser.parse_args()
    clips = [*spoken_clips(), *recorded_clips(arguments.recordings), *silence_clips()]
    write_clips(clips, arguments.out)


if __name__ == "__main__":
    main()
