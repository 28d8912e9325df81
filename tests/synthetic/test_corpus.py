"""The speech corpus: building with a fake voice, storing, loading, degrading."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from livetalk.cli import data as data_cli
from livetalk.errors import InputError, OutputError
from livetalk.synthetic.augment import augment_log_mel
from livetalk.synthetic.performance.visemes import PHONEMES, PhonemeEvent
from livetalk.synthetic.speech.corpus import (
    LOWEST_DECADE,
    NUM_BINS,
    NUM_FRAMES,
    NUM_MELS,
    CorpusClip,
    decode_log_mel,
    encode_log_mel,
    load_corpus,
    save_corpus,
)
from livetalk.synthetic.speech.corpus_builder import SILENT_SHARE, CorpusBuilder, coloured_noise, record
from livetalk.synthetic.speech.sentences import SentenceGenerator
from livetalk.synthetic.speech.synthesis import (
    IPA_TO_PHONEME,
    Speech,
    end_with_sound,
    hibari_events,
    shift_events,
)
from livetalk.synthetic.speech.voices import VoiceWarp, draw_voice, warp_pitch, warp_rows, warp_waveform

Samples = NDArray[np.float32]


class BuzzSpeaker:
    """Says /m aa/ for every word: a hum, then a buzz."""

    def speak(self, text: str, speed: float, voices: Sequence[VoiceWarp], rng: np.random.Generator) -> Speech:
        words = len(text.split())
        time = np.arange(int(words * 0.3 / speed * 16_000)) / 16_000
        loud = np.where((time * speed) % 0.3 < 0.1, 0.2, 1.0)
        waveforms = []
        for voice in voices:
            phase = 2 * np.pi * 150 * voice.pitch_scale * time
            tone = sum(np.sin(k * phase) / k for k in range(1, 12)) * loud
            waveforms.append((0.5 * tone / np.abs(tone).max()).astype(np.float32))
        events = []
        for k in range(words):
            start, middle, end = (0.3 * k / speed, (0.3 * k + 0.1) / speed, (0.3 * k + 0.3) / speed)
            events += [PhonemeEvent("m", start, middle), PhonemeEvent("aa", middle, end)]
        return Speech(tuple(waveforms), tuple(events))


def builder(seed: int = 3) -> CorpusBuilder:
    return CorpusBuilder({"buzz": BuzzSpeaker()}, {"buzz": 1.0}, seed)


@pytest.fixture(scope="module")
def clips() -> list[CorpusClip]:
    torch.set_num_threads(1)
    return builder().build(2)


def test_building_is_repeatable_and_clips_differ(clips: list[CorpusClip]) -> None:
    again = builder().clip(1)
    assert again.events == clips[1].events and again.info == clips[1].info
    assert all(np.array_equal(a, b) for a, b in zip(again.log_mels, clips[1].log_mels, strict=True))
    assert clips[0].info.text != clips[1].info.text
    assert builder(4).clip(1).info.text != clips[1].info.text


def test_clips_have_two_voices_of_one_timing(clips: list[CorpusClip]) -> None:
    for clip in clips:
        assert [mel.shape for mel in clip.log_mels] == [(NUM_MELS, NUM_BINS)] * 2
        first, second = (mel.mean(1) for mel in clip.log_mels)
        assert np.corrcoef(first, second)[0, 1] > 0.5
        assert not np.allclose(clip.log_mels[0], clip.log_mels[1], atol=0.1)
        assert clip.prosody.energy_db.shape == (NUM_FRAMES,)


def test_silent_clips_occur_and_have_no_phonemes() -> None:
    # The first draw of a clip decides.
    index = next(i for i in range(300) if np.random.default_rng((9, i)).random() < SILENT_SHARE)
    silent = builder(9).clip(index)
    assert silent.info.source == "silence"
    assert silent.events == () and silent.info.text == ""
    assert silent.prosody.energy_db.max() == -90.0
    assert silent.log_mels[0].max() <= LOWEST_DECADE < silent.log_mels[1].max()


def test_round_trip(clips: list[CorpusClip], tmp_path: Path) -> None:
    save_corpus(tmp_path, clips, seed=3, clips_per_shard=1)
    corpus = load_corpus(tmp_path)
    assert corpus.num_clips == 2 and corpus.num_frames == NUM_FRAMES
    assert len(list(tmp_path.glob("mel-*.xz"))) == 2
    for index, clip in enumerate(clips):
        assert corpus.info(index) == clip.info
        assert corpus.num_variants(index) == 6
        for event, stored in zip(clip.events, corpus.events(index), strict=True):
            assert stored.symbol == event.symbol
            assert stored.start_seconds == pytest.approx(event.start_seconds, abs=6e-4)
            assert stored.end_seconds == pytest.approx(event.end_seconds, abs=6e-4)
        for variant, exact in enumerate(clip.log_mels):
            stored_mel = corpus.log_mel(index, variant)
            assert stored_mel.shape == (NUM_MELS, NUM_BINS) and stored_mel.dtype == torch.float32
            error = stored_mel.numpy() - np.maximum(exact, LOWEST_DECADE)
            assert float(np.sqrt(np.mean(error**2))) < 0.2
        assert np.abs(corpus.prosody(index).energy_db - clip.prosody.energy_db).max() <= 0.5
        assert np.abs(corpus.prosody(index).pitch_hz - clip.prosody.pitch_hz).max() <= 0.5


def test_variants_are_fixed_and_performances_fit(clips: list[CorpusClip], tmp_path: Path) -> None:
    save_corpus(tmp_path, clips, seed=3)
    corpus = load_corpus(tmp_path)
    assert torch.equal(corpus.log_mel(0, 4), load_corpus(tmp_path).log_mel(0, 4))
    assert not torch.equal(corpus.log_mel(0, 4), corpus.log_mel(0, 0))
    assert not torch.equal(corpus.log_mel(0, 4), corpus.log_mel(0, 2))
    with pytest.raises(IndexError, match="6 variants"):
        corpus.log_mel(0, 6)
    performance = corpus.performance(0, seed=5)
    assert performance.num_frames == NUM_FRAMES
    assert np.array_equal(performance.units, corpus.performance(0, seed=5).units)


def test_missing_and_damaged_corpora_are_named(clips: list[CorpusClip], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no speech corpus here"):
        load_corpus(tmp_path)
    save_corpus(tmp_path, clips, seed=3)
    shard = tmp_path / "mel-000.xz"
    shard.write_bytes(shard.read_bytes()[:-50])
    with pytest.raises(InputError, match="damaged"):
        load_corpus(tmp_path)
    shard.unlink()
    with pytest.raises(InputError, match="damaged"):
        load_corpus(tmp_path)


def test_clips_of_one_corpus_have_equally_many_voices(clips: list[CorpusClip], tmp_path: Path) -> None:
    odd = replace(clips[1], log_mels=clips[1].log_mels[:1])
    with pytest.raises(ValueError, match="same number of voices"):
        save_corpus(tmp_path, [clips[0], odd], seed=0)


def test_quantisation_keeps_silence_silent_and_loud_loud() -> None:
    silence = np.full((NUM_MELS, NUM_BINS), -10.0, np.float32)
    assert decode_log_mel(encode_log_mel(silence)).max() < -7.1
    loud = np.full((NUM_MELS, NUM_BINS), 2.5, np.float32)
    assert np.allclose(decode_log_mel(encode_log_mel(loud)), 2.5, atol=0.1)


def test_augmentation_degrades_but_keeps_the_rhythm() -> None:
    rng = np.random.default_rng(0)
    burst = np.full((NUM_MELS, NUM_BINS), -7.0, np.float32)
    for start in range(50, 750, 100):
        burst[start : start + 50] = rng.normal(0.0, 0.5, (50, NUM_BINS))
    pattern = burst.mean(1)
    changed = [augment_log_mel(burst, np.random.default_rng(seed)) for seed in range(20)]
    for one in changed:
        assert one.dtype == np.float32 and np.isfinite(one).all() and one.min() >= LOWEST_DECADE
        assert np.corrcoef(pattern, one.mean(1))[0, 1] > 0.5
    levels = [one.max() for one in changed]
    assert max(levels) - min(levels) > 0.8
    assert np.std([one[5:45].mean() for one in changed]) > 0.5
    assert np.array_equal(changed[3], augment_log_mel(burst, np.random.default_rng(3)))


def test_recording_faults_keep_length_and_stay_finite() -> None:
    rng = np.random.default_rng(1)
    tone = np.sin(np.arange(16_000) * 0.1).astype(np.float32) * 0.5
    worse = [record(tone, rng) for _ in range(12)]
    assert all(one.shape == tone.shape and one.dtype == np.float32 for one in worse)
    assert all(np.isfinite(one).all() for one in worse)
    assert np.mean([not np.allclose(one, tone, atol=1e-3) for one in worse]) > 0.6
    assert coloured_noise(8000, rng).std() == pytest.approx(1.0, abs=0.01)


def test_hibari_labels_become_events() -> None:
    symbols = ["", "\u02c8", "b", "\u0251", "\u02d0", " ", "m", "I", ".", ""]
    ends = np.array([0.2, 0.225, 0.3, 0.4, 0.45, 0.5, 0.6, 0.8, 1.0, 1.1])
    events = hibari_events(symbols, ends, offset=-0.06)
    assert [event.symbol for event in events] == ["pau", "b", "aa", "m", "ay", "pau", "pau"]
    b, aa, m = events[1:4]
    assert (b.start_seconds, b.end_seconds) == pytest.approx((0.14, 0.24))
    assert (aa.start_seconds, aa.end_seconds) == pytest.approx((0.24, 0.415))
    assert (m.start_seconds, m.end_seconds) == pytest.approx((0.415, 0.54))
    assert set(IPA_TO_PHONEME.values()) <= PHONEMES


def test_phonemes_end_with_their_sound() -> None:
    waveform = np.zeros(16_000, np.float32)
    waveform[3200:6400] = 0.5 * np.sin(np.arange(3200) * 0.3)
    events = [
        PhonemeEvent("pau", 0.0, 0.2),
        PhonemeEvent("t", 0.2, 0.3),
        PhonemeEvent("ow", 0.3, 0.7),
        PhonemeEvent("pau", 0.7, 1.0),
    ]
    pause, consonant, vowel, after = end_with_sound(events, waveform, 16_000)
    assert (pause, consonant, after) == (events[0], events[1], events[3])
    assert vowel.end_seconds == pytest.approx(0.4, abs=0.011)
    assert shift_events([vowel], 1.0)[0].start_seconds == pytest.approx(1.3)


def test_voice_warps() -> None:
    ramp = np.zeros((100, 3), np.float32)
    ramp[40] = 1.0
    assert warp_rows(ramp, 1.25)[50, 0] == pytest.approx(1.0)
    pitch = np.array([0.0, 100.0, 200.0, 100.0], np.float32)
    scaled = warp_pitch(pitch, VoiceWarp(pitch_scale=0.5, pitch_range=2.0))
    assert scaled[0] == 0.0 and scaled[1] == 50.0 and scaled[2] == pytest.approx(200.0)
    noise = np.random.default_rng(0).normal(0.0, 0.1, 8000).astype(np.float32)
    assert np.allclose(warp_waveform(noise, VoiceWarp(), 16_000), noise, atol=0.01)
    darker = warp_waveform(noise, VoiceWarp(tilt_db_per_octave=-3.0), 16_000)
    assert np.abs(np.diff(darker)).mean() < 0.8 * np.abs(np.diff(noise)).mean()
    voices = {draw_voice(np.random.default_rng(seed)) for seed in range(20)}
    assert len(voices) > 12


def test_sentences_are_many_and_repeatable() -> None:
    drawn = [SentenceGenerator(1).draw() for _ in range(2)]
    generator = SentenceGenerator(1)
    many = [generator.draw() for _ in range(1000)]
    assert drawn[0] == drawn[1] == many[0]
    assert len(set(many)) > 800
    assert all(sentence[0].isupper() and sentence[-1] in ".?!" for sentence in many)
    assert sum(sentence.endswith("?") for sentence in many) > 80


def test_command_line_refuses_a_used_folder(tmp_path: Path) -> None:
    (tmp_path / "something").write_text("here")
    with pytest.raises(OutputError, match="already exists; choose another name"):
        data_cli.run(argparse.Namespace(out=tmp_path, clips=1, seed=0))
