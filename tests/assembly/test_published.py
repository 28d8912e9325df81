"""A published model from its files: complete, in its form and place, of exact length in both audio modes."""

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from livetalk import Avatar, ModelSource, RunConfig
from livetalk.assembly.published import PUBLISHED_DEFAULTS, PublishedPromptEncoder, read_published_spec
from livetalk.assembly.spec import PortraitConfig
from livetalk.avatar import NOISE_NOTICE
from livetalk.checkpoints.layouts import find_published
from livetalk.cli.main import main
from livetalk.errors import InputError, WeightsError
from livetalk.media.audio import open_audio
from livetalk.media.image import image_to_tensor, resize_and_center_crop
from livetalk.placement.apply import ENCODER_PLACEMENTS, PlacementConfig
from livetalk.placement.linear import QuantizedLinear
from livetalk.streaming.chunk import create_state, generate_chunk
from livetalk.streaming.conditioning import prepare_stream
from livetalk.streaming.settings import AudioMode, LoudnessMode, SamplerKind
from media_files import read_frames, voice, write_audio
from synthetic_checkpoint import SyntheticCheckpoint, make_synthetic_checkpoint

PICTURE = np.random.default_rng(0).integers(0, 256, (80, 60, 3), dtype=np.uint8)
SIZE = "16x16"
MODES = [mode.value for mode in AudioMode]
CHUNK_SECONDS = 28 / 25


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> SyntheticCheckpoint:
    return make_synthetic_checkpoint(tmp_path_factory.mktemp("weights"))


RUN = RunConfig(device="cpu", precision="float32")


def load(files: SyntheticCheckpoint, placement: PlacementConfig | None = None) -> Avatar:
    return Avatar.load(files.model_dir, dataclasses.replace(RUN, placement=placement or PlacementConfig()))


@pytest.fixture(scope="module")
def avatar(files: SyntheticCheckpoint) -> Avatar:
    return load(files)


def first_chunk(avatar: Avatar, **options: str) -> Tensor:
    chosen = {"size": SIZE, **options}
    return next(avatar.stream(PICTURE, [voice(0.3)[0]], **chosen)).pixels  # type: ignore[arg-type]


def test_the_settings_are_the_published_ones(avatar: Avatar) -> None:
    model = avatar.model
    config = model.settings
    assert (config.geometry.window_frames, config.geometry.motion_frames) == (33, 5)
    assert (config.sampler.num_steps, config.sampler.shift) == (4, 5.0)
    assert (config.sampler.kind, config.sampler.color_strength) == (SamplerKind.RENOISE, 1.0)
    assert (config.audio.buffer_seconds, config.audio.lookahead_frames) == (8, 0)
    assert (avatar.fps, avatar.sample_rate) == (25, 16_000)
    assert (model.spec.portrait.height, model.spec.portrait.width) == (768, 448)
    assert model.spec.any_size and not model.random_weights
    assert (model.spec.defaults.seed, model.spec.defaults.crop) == (9999, "published")
    assert model.settings.loudness is LoudnessMode.RUNNING
    assert model.name == "SoulX-FlashTalk-14B"


def test_a_session_is_the_published_loop(avatar: Avatar) -> None:
    audio = torch.from_numpy(voice(2 * CHUNK_SECONDS)[0])
    executor = avatar.model.executor
    settings = replace(avatar.model.settings, loudness=LoudnessMode.OFF)
    image = image_to_tensor(resize_and_center_crop(PICTURE, 16, 16))
    assert avatar.model.prompt_encoder is not None
    embeds = avatar.model.prompt_encoder.encode(PUBLISHED_DEFAULTS.prompt, image[None])
    prepared = prepare_stream(executor, settings, image, embeds)
    state = create_state(executor, settings, prepared, 9999)
    chunks = avatar.stream(PICTURE, [audio.numpy()], size=SIZE, loudness="off")
    for start, streamed in zip((0, 17_920), chunks, strict=True):
        chunk, state = generate_chunk(executor, settings, prepared, audio[start : start + 17_920], state)
        assert torch.equal(chunk.pixels, streamed.pixels)


@pytest.mark.parametrize("audio_mode", MODES)
@pytest.mark.parametrize(
    ("num_samples", "num_frames"),
    [
        (1_600, 3),
        (8_000, 13),
        (17_919, 28),
        (17_920, 28),
        (17_921, 29),
        (53_920, 85),
        (178_080, 279),
        pytest.param(976_000, 1_525, marks=pytest.mark.slow),
    ],
)
def test_lengths_are_exact(
    avatar: Avatar, tmp_path: Path, audio_mode: str, num_samples: int, num_frames: int
) -> None:
    samples = voice(num_samples / 16_000)
    assert samples.shape == (1, num_samples)
    audio = write_audio(tmp_path / "voice.wav", samples, 16_000)
    result = avatar.generate(
        PICTURE, audio, tmp_path / "out.mp4", size=SIZE, audio_mode=audio_mode, num_steps=1
    )
    assert result.num_frames == num_frames
    assert len(read_frames(result.path)) == num_frames
    reader = open_audio(result.path)
    assert reader.num_samples == num_samples
    heard = np.concatenate(list(reader.native_blocks()), axis=1)[0]
    assert lag(samples[0], heard) == 0
    with av.open(str(result.path)) as container:
        assert [stream.start_time for stream in container.streams] == [0, 0]
        made = json.loads(container.metadata["comment"])
    assert (made["audio_mode"], made["size"], made["loudness"]) == (audio_mode, SIZE, "running")
    assert "notice" not in made


def lag(audio: np.ndarray, heard: np.ndarray) -> int:  # type: ignore[type-arg]
    """Return by how many samples a sound is late."""
    length = 2 * len(audio)
    both = np.fft.irfft(np.fft.rfft(heard, length) * np.fft.rfft(audio, length).conj(), length)
    late = int(both.argmax())
    return late if late < len(audio) else late - length


def test_modes_differ_in_what_is_heard_only(avatar: Avatar) -> None:
    audio = voice(1.5)[0]
    runs = [list(avatar.stream(PICTURE, [audio], size=SIZE, audio_mode=mode)) for mode in MODES]
    assert [chunk.first_frame for chunk in runs[0]] == [chunk.first_frame for chunk in runs[1]] == [0, 28]
    assert [chunk.pixels.shape for chunk in runs[0]] == [chunk.pixels.shape for chunk in runs[1]]
    assert not torch.equal(runs[0][0].pixels, runs[1][0].pixels)


def test_prompt_portrait_seed_and_size_matter(avatar: Avatar) -> None:
    plain = first_chunk(avatar)
    assert torch.equal(plain, first_chunk(avatar))
    assert not torch.equal(plain, first_chunk(avatar, prompt="a cat"))
    assert first_chunk(avatar, prompt="").shape == plain.shape
    with pytest.raises(InputError, match="must be multiples of 16"):
        first_chunk(avatar, size="40x16")
    wide = next(avatar.stream(PICTURE, [voice(0.3)[0]], size="16x32", seed=1))
    assert wide.pixels.shape == (3, 8, 16, 32)


def test_whole_blocks_in_host_memory_change_nothing(files: SyntheticCheckpoint, avatar: Avatar) -> None:
    spread = load(files, PlacementConfig(resident_blocks=0))
    assert torch.equal(first_chunk(avatar), first_chunk(spread))


@pytest.mark.parametrize("resident_blocks", [None, 1])
def test_bytes_for_weights_change_little(
    files: SyntheticCheckpoint, avatar: Avatar, resident_blocks: int | None
) -> None:
    small = load(files, PlacementConfig(weights="float8", resident_blocks=resident_blocks))
    layers = [
        module
        for module in small.model.executor.networks.dit.modules()
        if isinstance(module, QuantizedLinear)
    ]
    assert len(layers) > 20
    exact, rounded = first_chunk(avatar), first_chunk(small)
    error = (rounded - exact).norm() / exact.norm()
    assert 0 < error < 0.3


@pytest.mark.parametrize("place", ENCODER_PLACEMENTS)
def test_encoders_read_the_same_wherever_they_live(files: SyntheticCheckpoint, place: str) -> None:
    found = find_published(files.model_dir)
    configs = read_published_spec(found)
    encoder = PublishedPromptEncoder(
        found,
        configs,
        device=torch.device("cpu"),
        dtype=torch.float32,
        place=place,  # type: ignore[arg-type]
    )
    image = torch.rand(1, 3, 48, 32) * 2 - 1
    first, again = (encoder.encode("someone talks", image) for _ in range(2))
    assert first.text_embeds is not None and first.image_embeds is not None
    assert first.text_embeds.shape == (1, 512, configs.dit.text_dim)
    assert first.image_embeds.shape == (1, configs.image.num_tokens, configs.dit.image_dim)
    # Letters, one space, and the end token; the rest is padding.
    assert int(first.text_embeds.abs().sum(2).count_nonzero()) == len("_someone_talks") + 1
    assert again.image_embeds is not None
    assert torch.equal(first.image_embeds, again.image_embeds)
    assert again.text_embeds is first.text_embeds


def test_half_precision_runs(files: SyntheticCheckpoint) -> None:
    avatar = Avatar.load(files.model_dir, RunConfig(device="cpu", precision="bfloat16"))
    assert avatar.model.executor.networks.dit.patch_embedding.weight.dtype is torch.bfloat16
    assert avatar.model.executor.networks.audio_encoder.feature_projection.weight.dtype is torch.float32  # type: ignore[attr-defined]
    chunk = first_chunk(avatar)
    assert chunk.dtype is torch.float32 and bool(chunk.isfinite().all())


def test_progress_of_loading_ends_at_all_of_it(files: SyntheticCheckpoint) -> None:
    seen: list[tuple[int, int]] = []
    Avatar.load(
        files.model_dir, RunConfig(device="cpu"), progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1][0] == seen[-1][1] > 0
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_infinitetalk_weights_are_laid_over_a_base_model(tmp_path: Path) -> None:
    files = make_synthetic_checkpoint(tmp_path, layout="infinitetalk", speech_format="bin")
    avatar = Avatar.load(ModelSource(model=files.model_dir, infinitetalk=files.infinitetalk), RUN)
    assert "infinitetalk" in avatar.model.name
    assert first_chunk(avatar).isfinite().all()
    assert files.infinitetalk is not None
    files.infinitetalk.unlink()
    with pytest.raises(WeightsError, match="no audio weights"):
        Avatar.load(files.model_dir, RunConfig(device="cpu"))


def test_parts_of_published_models_do_not_fit_our_own() -> None:
    with pytest.raises(InputError, match="embedded includes every network"):
        Avatar.load(ModelSource(wav2vec_dir=Path("somewhere")), RunConfig(device="cpu"))


def test_noise_says_that_it_is_noise(tmp_path: Path) -> None:
    avatar = Avatar.with_random_weights("tiny", RUN)
    audio = write_audio(tmp_path / "voice.wav", voice(0.2), 16_000)
    marked = avatar.generate(PICTURE, audio, tmp_path / "noise.mp4")
    with av.open(str(marked.path)) as container:
        assert json.loads(container.metadata["comment"])["notice"] == NOISE_NOTICE
    plain = Avatar(dataclasses.replace(avatar.model, random_weights=False))
    unmarked = plain.generate(PICTURE, audio, tmp_path / "plain.mp4")
    for with_band, without in zip(read_frames(marked.path), read_frames(unmarked.path), strict=True):
        middle = slice(with_band.shape[0] * 7 // 16, with_band.shape[0] * 9 // 16)
        assert with_band[middle].mean() < 0.5 * without[middle].mean()


@pytest.mark.parametrize("storage", ["bfloat16", "float8"])
def test_exports_load_like_their_originals(
    files: SyntheticCheckpoint, avatar: Avatar, tmp_path: Path, storage: str
) -> None:
    assert main(["export", str(files.model_dir), str(tmp_path / "mine"), "--storage", storage]) == 0
    exported = Avatar.load(tmp_path / "mine", RUN)
    assert exported.model.name == avatar.model.name
    small = [
        module
        for module in exported.model.executor.networks.dit.modules()
        if isinstance(module, QuantizedLinear)
    ]
    assert bool(small) is (storage == "float8")
    stored = storage if storage != "bfloat16" else "full"
    expected = load(files, PlacementConfig(weights=stored))  # type: ignore[arg-type]
    assert torch.equal(first_chunk(exported), first_chunk(expected))


def test_warming_up_changes_no_result(
    files: SyntheticCheckpoint, avatar: Avatar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("livetalk.assembly.published.PUBLISHED_PORTRAIT", PortraitConfig(height=16, width=16))
    warm = Avatar.load(files.model_dir, RUN, warm_up=True)
    assert torch.equal(first_chunk(avatar), first_chunk(warm))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("audio_mode", MODES)
@pytest.mark.parametrize("loudness", [mode.value for mode in LoudnessMode])
def test_a_gpu_runs_it_wherever_the_weights_are(
    files: SyntheticCheckpoint, audio_mode: str, loudness: str
) -> None:
    chunks = []
    for placement in (
        PlacementConfig(),
        PlacementConfig(resident_blocks=0, encoders="cpu"),
        PlacementConfig(resident_blocks=1, encoders="resident"),
    ):
        avatar = Avatar.load(files.model_dir, RunConfig(device="cuda", placement=placement))
        chunks.append(first_chunk(avatar, audio_mode=audio_mode, loudness=loudness))
    assert all(chunk.device.type == "cuda" and bool(chunk.isfinite().all()) for chunk in chunks)
    # Encoders on the CPU round differently; blocks in host memory do not.
    assert torch.equal(chunks[0], chunks[2])
