"""Options of a stream: completed with a model's defaults, refused in one plain line."""

import dataclasses

import pytest
import torch

from livetalk.assembly.model import AvatarModel
from livetalk.assembly.random_model import random_spec
from livetalk.assembly.spec import ModelSpec, PortraitConfig, StreamDefaults
from livetalk.assembly.stream_plan import StreamPlan, plan_stream
from livetalk.errors import InputError
from livetalk.models.audio_encoder import SpeechEncoderConfig
from livetalk.streaming.settings import AudioMode, LoudnessMode
from livetalk.streaming.spec import SIDE_MULTIPLE, SIZES, StreamOptions, StreamSpec, parse_size
from tiny import DIT_WITH_PROMPT, tiny_model

TINY = tiny_model()
PLAIN = AvatarModel(
    spec=ModelSpec(
        name="plain",
        dit=TINY.executor.networks.dit.config,
        vae=TINY.executor.networks.vae.config,
        speech=SpeechEncoderConfig(),
        settings=TINY.settings,
        portrait=PortraitConfig(height=48, width=32),
    ),
    version="1",
    executor=TINY.executor,
    dtype=torch.float32,
)
PROMPTED = dataclasses.replace(
    PLAIN,
    spec=dataclasses.replace(
        PLAIN.spec,
        name="prompted",
        dit=DIT_WITH_PROMPT,
        settings=dataclasses.replace(TINY.settings, loudness=LoudnessMode.RUNNING),
        any_size=True,
        defaults=StreamDefaults(seed=9, crop="published", prompt="someone talks"),
    ),
    executor=tiny_model(dit=DIT_WITH_PROMPT).executor,
)


def plan(model: AvatarModel, options: StreamOptions) -> StreamPlan:
    return plan_stream(model, StreamSpec.from_options(options))


def test_what_is_left_out_is_the_models_choice() -> None:
    for options in (StreamOptions(), StreamOptions(seed=None, crop=None, prompt=None, size=None)):
        found = plan(PROMPTED, options)
        assert (found.seed, found.crop, found.prompt) == (9, "published", "someone talks")
        assert found.portrait == PROMPTED.spec.portrait
        assert found.audio_mode is AudioMode.STREAM
        assert found.settings.loudness is LoudnessMode.RUNNING
    plain = plan(PLAIN, StreamOptions())
    assert (plain.seed, plain.settings.loudness) == (0, LoudnessMode.OFF)


def test_what_is_asked_for_is_taken() -> None:
    options = StreamOptions(
        seed=3,
        crop="none",
        num_steps=7,
        size="64x16",
        prompt="a cat",
        audio_mode="whole",
        loudness="published",
        latents_per_decode=2,
    )
    found = plan(PROMPTED, options)
    assert found.settings.sampler.num_steps == 7
    assert PROMPTED.settings.sampler.num_steps == 2
    assert found.settings.latents_per_decode == 2
    assert PROMPTED.settings.latents_per_decode is None
    assert found.portrait == PortraitConfig(height=64, width=16)
    assert found.describe() == {
        "seed": 3,
        "num_steps": 7,
        "crop": "none",
        "size": "64x16",
        "audio_mode": "whole",
        "loudness": "published",
        "prompt": "a cat",
    }


def test_zero_is_a_seed_and_an_empty_prompt_a_prompt() -> None:
    found = plan(PROMPTED, StreamOptions(seed=0, prompt=""))
    assert (found.seed, found.prompt) == (0, "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed -1: must be 0 or more"),
        ({"crop": "middle"}, "crop middle: is not one of"),
        ({"num_steps": 0}, "steps 0: at least 1"),
        ({"latents_per_decode": 0}, "latents per decode 0: at least 1"),
        ({"size": "720"}, "neither HEIGHTxWIDTH nor one of portrait"),
        ({"size": "x"}, "neither HEIGHTxWIDTH"),
        ({"size": "0x16"}, "must be multiples of 16; the nearest is 16x16"),
        ({"size": "99984x16"}, "at most 4096x4096 pixels"),
        ({"size": "100x60"}, "must be multiples of 16; the nearest is 96x64"),
        ({"audio_mode": "once"}, "audio mode once: is not one of stream, whole"),
        ({"loudness": "loud"}, "loudness loud: is not one of off, running, published"),
    ],
)
def test_what_cannot_be_used_is_one_line(options: StreamOptions, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        plan(PROMPTED, options)
    assert "\n" not in str(raised.value)


def test_a_model_of_one_size_without_a_prompt_says_so() -> None:
    assert plan(PLAIN, StreamOptions(size="48x32")).portrait == PLAIN.spec.portrait
    with pytest.raises(InputError, match="plain generates 48x32 only"):
        plan(PLAIN, StreamOptions(size="64x64"))
    with pytest.raises(InputError, match="plain takes none"):
        plan(PLAIN, StreamOptions(prompt="a cat"))


def test_sizes_have_names_and_spellings() -> None:
    assert parse_size("portrait") == (768, 448)
    for spelling in ("720x416", "720*416", "720X416", " 720 x 416 "):
        assert parse_size(spelling) == SIZES["portrait-small"]
    assert all(side % 16 == 0 for size in SIZES.values() for side in size)


def test_published_tokens_are_as_wide_as_sides_are_multiples() -> None:
    config = random_spec("flashtalk-14b")
    assert config.vae.spatial_stride * max(config.dit.patch_size) == SIDE_MULTIPLE
