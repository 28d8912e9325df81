"""Options of a session: completed by the model's own choices, refused in one plain line."""

import dataclasses

import pytest
import torch

from livetalk.assembly.model import AvatarModel
from livetalk.assembly.random_model import random_spec
from livetalk.assembly.session import SIDE_MULTIPLE, SIZES, SessionOptions, parse_size, plan_session
from livetalk.assembly.spec import ModelSpec, PortraitConfig, SessionDefaults
from livetalk.errors import InputError
from livetalk.models.audio_encoder import SpeechEncoderConfig
from livetalk.streaming.settings import AudioMode, LoudnessMode
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
        defaults=SessionDefaults(seed=9, crop="published", prompt="someone talks"),
    ),
    executor=tiny_model(dit=DIT_WITH_PROMPT).executor,
)


def test_what_is_left_out_is_the_models_choice() -> None:
    for options in (SessionOptions(), SessionOptions(seed=None, crop=None, prompt=None, size=None)):
        session = plan_session(PROMPTED, options)
        assert (session.seed, session.crop, session.prompt) == (9, "published", "someone talks")
        assert session.portrait == PROMPTED.spec.portrait
        assert session.audio_mode is AudioMode.STREAM
        assert session.settings.loudness is LoudnessMode.RUNNING
    plain = plan_session(PLAIN, SessionOptions())
    assert (plain.seed, plain.settings.loudness) == (0, LoudnessMode.OFF)


def test_what_is_asked_for_is_taken() -> None:
    options = SessionOptions(
        seed=3,
        crop="none",
        num_steps=7,
        size="64x16",
        prompt="a cat",
        audio_mode="whole",
        loudness="published",
        latents_per_decode=2,
    )
    session = plan_session(PROMPTED, options)
    assert session.settings.sampler.num_steps == 7
    assert PROMPTED.settings.sampler.num_steps == 2
    assert session.settings.latents_per_decode == 2
    assert PROMPTED.settings.latents_per_decode is None
    assert session.portrait == PortraitConfig(height=64, width=16)
    assert session.describe() == {
        "seed": 3,
        "num_steps": 7,
        "crop": "none",
        "size": "64x16",
        "audio_mode": "whole",
        "loudness": "published",
        "prompt": "a cat",
    }


def test_zero_is_a_seed_and_an_empty_prompt_a_prompt() -> None:
    session = plan_session(PROMPTED, SessionOptions(seed=0, prompt=""))
    assert (session.seed, session.prompt) == (0, "")


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
def test_what_cannot_be_used_is_one_line(options: SessionOptions, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        plan_session(PROMPTED, options)
    assert "\n" not in str(raised.value)


def test_a_model_of_one_size_without_a_prompt_says_so() -> None:
    assert plan_session(PLAIN, SessionOptions(size="48x32")).portrait == PLAIN.spec.portrait
    with pytest.raises(InputError, match="plain generates 48x32 only"):
        plan_session(PLAIN, SessionOptions(size="64x64"))
    with pytest.raises(InputError, match="plain takes none"):
        plan_session(PLAIN, SessionOptions(prompt="a cat"))


def test_sizes_have_names_and_spellings() -> None:
    assert parse_size("portrait") == PortraitConfig(height=768, width=448)
    for spelling in ("720x416", "720*416", "720X416", " 720 x 416 "):
        assert parse_size(spelling) == SIZES["portrait-small"]
    assert all(size.height % 16 == size.width % 16 == 0 for size in SIZES.values())


def test_published_tokens_are_as_wide_as_sides_are_multiples() -> None:
    config = random_spec("flashtalk-14b")
    assert config.vae.spatial_stride * max(config.dit.patch_size) == SIDE_MULTIPLE
