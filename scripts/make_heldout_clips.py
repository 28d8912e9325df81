"""Create held-out clips for `livetalk evaluate`: people and voices that are not in the training data.

`render` creates a new person for each held-out voice: a portrait and, where phonemes are known, the truth as
a rendered video and as the lip opening of the mesh. `generate` generates a video for each portrait with its
audio and a control with the audio of the next portrait, and writes the manifest:

    python scripts/make_heldout_speech.py --out speech --recordings /usr/share/asterisk/sounds
    python scripts/make_heldout_clips.py render speech heldout --device cuda
    python scripts/make_heldout_clips.py generate heldout --model embedded
    livetalk evaluate heldout --probe --json heldout/measures.json
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from livetalk import Avatar, RunConfig
from livetalk.cli.avatar import render_portrait
from livetalk.media.audio import AudioReader, open_audio
from livetalk.media.image import save_png
from livetalk.media.video import VideoWriter
from livetalk.synthetic.people.identity import sample_identity
from livetalk.synthetic.performance.motion import build_performance
from livetalk.synthetic.performance.visemes import PhonemeEvent
from livetalk.synthetic.rendering.renderer import Renderer

FPS = 25
RESOLUTION = 256
PORTRAIT_SIZE = 512


@dataclass(frozen=True)
class Voice:
    """One held-out voice; `events` are None if its phonemes are unknown or inexact."""

    name: str
    path: Path
    events: tuple[PhonemeEvent, ...] | None
    is_synthetic: bool


def read_voices(folder: Path) -> Iterator[Voice]:
    """Yield the voices in the output of `make_heldout_speech.py`."""
    content = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for record in content["clips"]:
        events = record["events"]
        known = None if events is None else tuple(PhonemeEvent(*event) for event in events)
        is_synthetic = not record["name"].startswith("human")
        yield Voice(record["name"], folder / record["file"], known, is_synthetic)


def render_truth(voice: Voice, folder: Path, seed: int, renderer: Renderer) -> None:
    """Render the person of `seed` speaking this audio: `reference.mp4` and `truth.npy`."""
    recording = open_audio(voice.path)
    samples = np.concatenate(list(recording.mono_blocks()))
    performance = build_performance(voice.events or (), samples, recording.num_frames(FPS), seed)
    subject = renderer.prepare(sample_identity(seed))
    np.save(folder / "truth.npy", renderer.lip_opening(subject, performance))
    write_video(folder / "reference.mp4", renderer.render(subject, performance).cpu().numpy(), recording)


def write_video(path: Path, frames: NDArray[np.uint8], recording: AudioReader) -> None:
    """Write frames [F, H, W, 3], uint8, with audio."""
    height, width = frames.shape[1:3]
    with VideoWriter(path, width=width, height=height, fps=FPS, audio=recording) as writer:
        writer.write(frames)
        writer.finish()


def render(args: argparse.Namespace) -> None:
    """Write one folder per voice: voice.wav, portrait.png, events.json, and the truth if it is known."""
    renderer = Renderer(args.device, RESOLUTION)
    for number, voice in enumerate(read_voices(args.speech)):
        folder = args.out / voice.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(voice.path, folder / "voice.wav")
        seed = args.seed + number
        save_png(folder / "portrait.png", render_portrait(seed, PORTRAIT_SIZE, args.device))
        if voice.events is not None:
            events = [(event.symbol, event.start_seconds, event.end_seconds) for event in voice.events]
            (folder / "events.json").write_text(json.dumps(events), encoding="utf-8")
        if voice.is_synthetic:
            render_truth(voice, folder, seed, renderer)
        print(f"{voice.name}: rendered", flush=True)


def generate(args: argparse.Namespace) -> None:
    """Generate every clip and its control, and write the manifest."""
    avatar = Avatar.load(args.model, RunConfig(device=args.device, threads=args.threads))
    folders = sorted(path.parent for path in args.out.glob("*/portrait.png"))
    speaking = [folder for folder in folders if not folder.name.startswith("silence")]
    other_voice = dict(zip(speaking, [*speaking[1:], *speaking[:1]], strict=True))
    entries = []
    for folder in folders:
        voices = {"generated": folder} | ({"control": other_voice[folder]} if folder in other_voice else {})
        for name, voice in voices.items():
            video = folder / f"{name}.mp4"
            recording = voice / "voice.wav"
            avatar.generate(folder / "portrait.png", recording, video, seed=args.seed, overwrite=True)
            entries.append(describe(folder, video, is_control=name == "control"))
        print(f"{folder.name}: generated", flush=True)
    manifest = json.dumps({"clips": entries}, indent=1)
    (args.out / "manifest.json").write_text(manifest, encoding="utf-8")


def describe(folder: Path, video: Path, is_control: bool) -> dict[str, object]:
    """Return the manifest entry of a video; a control is scored against the sentence of its own folder."""
    known = {
        "audio": "voice.wav",
        "events": "events.json",
        "truth": "truth.npy",
        "reference_video": "reference.mp4",
        "portrait": "portrait.png",
    }
    return {
        "name": folder.name,
        "video": f"{folder.name}/{video.name}",
        "is_control": is_control,
        **{key: f"{folder.name}/{name}" for key, name in known.items() if (folder / name).exists()},
    }


def main() -> int:
    """Run one of the two stages."""
    parser = argparse.ArgumentParser(description="Create held-out clips for `livetalk evaluate`.")
    stages = parser.add_subparsers(required=True)
    first = stages.add_parser("render", help="portraits and truths for held-out voices")
    first.add_argument("speech", type=Path, help="folder of make_heldout_speech.py")
    first.add_argument("out", type=Path)
    first.add_argument("--seed", type=int, default=424_000_000, help="of the first person")
    first.add_argument("--device", default="cpu")
    first.set_defaults(stage=render)
    second = stages.add_parser("generate", help="videos of a model, and the manifest")
    second.add_argument("out", type=Path)
    second.add_argument("--model", default="embedded")
    second.add_argument("--seed", type=int, default=0)
    second.add_argument("--device", default="auto")
    second.add_argument("--threads", type=int)
    second.set_defaults(stage=generate)
    args = parser.parse_args()
    args.stage(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
