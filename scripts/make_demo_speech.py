"""Synthesise the sentences in the package (`src/livetalk/assets/speech/`), as FLAC at 24 kHz.

The voice is hibari-tts 0.2.1 (Apache-2.0), natural or warped; the sentences are our own.

    python scripts/make_demo_speech.py --out src/livetalk/assets/speech
"""

import argparse
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from livetalk.synthetic.speech.synthesis import HibariSynthesiser
from livetalk.synthetic.speech.voices import VoiceWarp

SAMPLE_RATE = 24_000
MAN = VoiceWarp(formant_scale=0.85, pitch_scale=0.57, pitch_range=0.95, breath_db=1.0)

SENTENCES = (
    ("hello", None,
     "Hello! I am a livetalk avatar. Give me a portrait and a voice, and I will talk for you."),
    ("hello_male", MAN, "Hi there. My face was a single picture, and now my lips move with this voice."),
    ("question", None, "What would you like to talk about today?"),
    ("lips", MAN, "Bob put the blue paper map below my purple umbrella."),
)  # fmt: skip
"""File name, warp of the voice (None: natural), text."""


def main() -> None:
    """Synthesise and write all sentences."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    speaker = HibariSynthesiser(SAMPLE_RATE)
    for name, voice, text in SENTENCES:
        speech = speaker.speak(text, 1.0, [voice or VoiceWarp()], np.random.default_rng(0))
        write_flac(out / f"{name}.flac", speech.waveforms[0])


def write_flac(path: Path, waveform: NDArray[np.float32]) -> None:
    """Write samples [samples], -1..1, as 16-bit mono."""
    pcm = (np.clip(waveform, -1.0, 1.0) * 32_767.0).astype(np.int16)[None]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE, layout="mono")
        stream.codec_context.format = "s16"
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)


if __name__ == "__main__":
    main()
