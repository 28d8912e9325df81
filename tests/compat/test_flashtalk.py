"""The published functions: same names, same meaning, from anywhere, without their defects."""

import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from livetalk import Avatar, ModelSource, RunConfig
from livetalk.compat import flashtalk
from livetalk.compat.flashtalk import (
    FlashTalkPipeline,
    get_audio_embedding,
    get_base_data,
    get_pipeline,
    infer_params,
    run_pipeline,
)
from livetalk.compat.pipeline import default_params
from livetalk.errors import InputError
from livetalk.types import VideoChunk, to_levels
from media_files import voice
from synthetic_checkpoint import SyntheticCheckpoint, make_synthetic_checkpoint

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 36, 3), dtype=np.uint8)
SIDE = 16
CHUNK = 17_920


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> SyntheticCheckpoint:
    return make_synthetic_checkpoint(tmp_path_factory.mktemp("weights"), speech_format="bin")


@pytest.fixture(scope="module")
def pipeline(files: SyntheticCheckpoint) -> FlashTalkPipeline:
    return get_pipeline(world_size=1, ckpt_dir=str(files.model_dir), wav2vec_dir=str(files.wav2vec_dir))


@pytest.fixture(autouse=True)
def _small_pictures() -> Iterator[None]:
    infer_params.update(height=SIDE, width=SIDE, sample_steps=2)
    yield
    infer_params.clear()
    infer_params.update(default_params())


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "face.png"
    Image.fromarray(PIXELS).save(path)
    return str(path)


def published_loop(pipeline: FlashTalkPipeline, audio: np.ndarray) -> Iterator[Tensor]:  # type: ignore[type-arg]
    """Stream a sound the way programs on top of these functions do."""
    cached = infer_params["sample_rate"] * infer_params["cached_audio_duration"]
    end = infer_params["cached_audio_duration"] * infer_params["tgt_fps"]
    start = end - infer_params["frame_num"]
    cache = deque([0.0] * cached, maxlen=cached)
    for begin in range(0, len(audio), CHUNK):
        cache.extend(audio[begin : begin + CHUNK].tolist())
        yield run_pipeline(pipeline, get_audio_embedding(pipeline, np.array(cache), start, end))


def test_settings_have_their_published_names_and_values() -> None:
    published = {
        "frame_num": 33,
        "motion_frames_num": 5,
        "tgt_fps": 25,
        "sample_rate": 16_000,
        "sample_steps": 4,
        "sample_shift": 5,
        "color_correction_strength": 1.0,
        "cached_audio_duration": 8,
        "height": 768,
        "width": 448,
    }
    ours = {"loudness": "running", "keep_motion_frames": False}
    assert default_params() == published | ours


@pytest.mark.parametrize("picture", ["path", "picture"])
def test_a_loop_of_these_functions_is_a_stream(
    pipeline: FlashTalkPipeline, files: SyntheticCheckpoint, image: str, picture: str
) -> None:
    infer_params["loudness"] = "published"
    audio = voice(2 * CHUNK / 16_000)[0]
    reference = image if picture == "path" else Image.fromarray(PIXELS)
    get_base_data(pipeline, input_prompt="someone talks", cond_image=reference, base_seed=7)
    got = torch.cat(list(published_loop(pipeline, audio)))
    assert got.shape == (56, SIDE, SIDE, 3) and got.dtype is torch.float32
    avatar = Avatar.load(
        ModelSource(model=files.model_dir, wav2vec_dir=files.wav2vec_dir), RunConfig(device="cpu")
    )
    chunks: list[VideoChunk] = list(
        avatar.stream(
            PIXELS,
            [audio],
            seed=7,
            prompt="someone talks",
            size=f"{SIDE}x{SIDE}",
            num_steps=2,
            loudness="published",
        )
    )
    expected = torch.cat([to_levels(chunk.pixels) for chunk in chunks])
    assert torch.equal(got, expected)


def test_a_session_starts_over_and_a_negative_seed_is_the_usual_one(
    pipeline: FlashTalkPipeline, image: str
) -> None:
    audio = voice(CHUNK / 16_000)[0]
    runs = []
    for seed in (9999, -1, 3):
        get_base_data(pipeline, "someone talks", image, seed)
        runs.append(next(published_loop(pipeline, audio)))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_later_forks_get_whole_windows(files: SyntheticCheckpoint, image: str) -> None:
    audio = voice(CHUNK / 16_000)[0]
    windows = []
    for keep in (False, True):
        infer_params["keep_motion_frames"] = keep
        pipeline = get_pipeline(1, files.model_dir, files.wav2vec_dir, cpu_offload=keep)
        get_base_data(pipeline, "someone talks", image, 1)
        windows.append(next(published_loop(pipeline, audio)))
    assert [len(window) for window in windows] == [28, 33]
    assert torch.equal(windows[0], windows[1][5:])


def test_embeddings_have_the_published_form(pipeline: FlashTalkPipeline) -> None:
    infer_params["loudness"] = "off"
    audio = voice(2.0)[0]
    features = pipeline.preprocess_audio(audio, sr=16_000, fps=25)
    assert features.shape[0] == 50
    every = get_audio_embedding(pipeline, audio)
    assert every.shape == (1, 50, 5, *features.shape[1:])
    assert torch.equal(every[0, :, 2], features)
    assert torch.equal(every[0, 0, 0], features[0])
    # The last frame wanted is the last that is heard, also where the sound goes on.
    some = get_audio_embedding(pipeline, audio, 10, 43)
    assert some.shape == (1, 33, 5, *features.shape[1:])
    assert torch.equal(some[0, -1, 4], features[42])
    assert torch.equal(some[0, 0, 0], features[8])


@pytest.mark.parametrize("loudness", ["off", "running", "published"])
def test_any_audio_gives_an_embedding(pipeline: FlashTalkPipeline, loudness: str) -> None:
    infer_params["loudness"] = loudness
    for audio in (np.zeros(32_000), voice(0.1)[0], voice(0.1)[0].tolist(), np.zeros(0)):
        embedding = get_audio_embedding(pipeline, audio)
        assert embedding.shape[:2] == (1, len(audio) // 640)
        assert bool(embedding.isfinite().all())


def test_mistakes_are_named(pipeline: FlashTalkPipeline, files: SyntheticCheckpoint, image: str) -> None:
    with pytest.raises(InputError, match="world_size 8"):
        get_pipeline(8, files.model_dir, files.wav2vec_dir)
    with pytest.raises(InputError, match=r"frames 40\.\.60: the audio has 50"):
        get_audio_embedding(pipeline, voice(2.0)[0], 40, 60)
    with pytest.raises(InputError, match="only 16000 Hz"):
        pipeline.preprocess_audio(voice(0.5)[0], sr=8_000)
    get_base_data(pipeline, "someone talks", image, 1)
    with pytest.raises(InputError, match=r"a window needs \[1, 33"):
        run_pipeline(pipeline, get_audio_embedding(pipeline, voice(1.0)[0]))
    for name, value, message in (
        ("height", 100, "multiples of 16"),
        ("sample_steps", 0, "num_steps must be at least 1"),
        ("motion_frames_num", 6, "motion_frames must be"),
    ):
        infer_params.update({name: value})
        with pytest.raises(InputError, match=message):
            get_base_data(pipeline, "someone talks", image, 1)
        infer_params.update(height=SIDE, sample_steps=2, motion_frames_num=5)
    infer_params["loudness"] = "loud"
    with pytest.raises(InputError, match="loudness loud"):
        get_audio_embedding(pipeline, voice(1.0)[0])
    fresh = FlashTalkPipeline(pipeline._model)
    with pytest.raises(InputError, match="call get_base_data"):
        run_pipeline(fresh, torch.zeros(1, 33, 5, 2, 32))


def test_importing_it_anywhere_is_light(tmp_path: Path) -> None:
    script = (
        "import sys, livetalk.compat.flashtalk as module, torch\n"
        "heavy = {'tokenizers', 'sentencepiece', 'ftfy', 'transformers', 'huggingface_hub', 'mediapipe'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
        "assert not torch.cuda.is_initialized()\n"
        "print(module.infer_params['frame_num'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "33"
    assert list(tmp_path.iterdir()) == []


def test_everything_that_forks_import_is_there() -> None:
    names = {"get_pipeline", "get_base_data", "get_audio_embedding", "run_pipeline", "infer_params"}
    assert names <= vars(flashtalk).keys()
    methods = {"prepare_params", "preprocess_audio", "generate", "device"}
    assert methods <= vars(flashtalk.FlashTalkPipeline).keys()
