import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from livetalk import Avatar
from livetalk.assembly.model import AvatarModel
from livetalk.assembly.random_model import (
    RANDOM_MODELS,
    RANDOM_VERSION,
    build_random_model,
    flashtalk_14b_spec,
    random_spec,
)
from livetalk.assembly.spec import PortraitConfig
from livetalk.engine import table
from livetalk.errors import InputError
from livetalk.media.image import image_to_tensor
from livetalk.models.dit import DiT
from livetalk.models.vae import CausalVideoVAE
from livetalk.ops.low_precision import FLOAT8
from livetalk.placement.apply import ENCODER_PLACEMENTS, EncoderPlacement, PlacementConfig
from livetalk.streaming.chunk import create_state, generate_chunk
from livetalk.streaming.conditioning import prepare_stream
from tiny import dit_inputs
from tolerance import expect_narrow, relative

CPU = torch.device("cpu")


def build(dtype: torch.dtype = torch.float32, seed: int = 0) -> AvatarModel:
    """Build the tiny model."""
    return build_random_model("tiny", device=CPU, dtype=dtype, seed=seed)


def test_two_chunks_are_alive_and_of_the_size_of_pictures() -> None:
    model = build()
    portrait = torch.rand(3, model.spec.portrait.height, model.spec.portrait.width) * 2 - 1
    assert model.prompt_encoder is not None
    prompt = model.prompt_encoder.encode("a person talks", portrait[None])
    run = model.executor, model.settings
    prepared = prepare_stream(*run, portrait, prompt)
    state = create_state(*run, prepared, seed=0)
    velocities: list[torch.Tensor] = []
    model.executor.networks.dit.register_forward_hook(lambda module, args, output: velocities.append(output))
    for _ in range(2):
        audio = torch.randn(model.settings.geometry.chunk_samples) * 0.1
        chunk, state = generate_chunk(*run, prepared, audio, state)
        assert chunk.pixels.shape == (3, model.settings.geometry.chunk_frames, 64, 48)
        assert 0.05 < chunk.pixels.std() < 0.95, "neither one colour nor clamped everywhere"
    # A trained network's velocity (noise - x0) has a deviation of about 1.4.
    assert all(0.3 < velocity.std() < 3 for velocity in velocities)


def test_weights_repeat_with_the_seed_and_are_the_same_numbers_in_every_precision() -> None:
    first, half, other = build(), build(torch.bfloat16), build(seed=1)
    for name, weight in first.executor.networks.dit.state_dict().items():
        assert torch.equal(weight, half.executor.networks.dit.state_dict()[name].float()), name
    assert not torch.equal(
        first.executor.networks.dit.patch_embedding.weight, other.executor.networks.dit.patch_embedding.weight
    )


def test_placed_weights_are_the_same_numbers() -> None:
    whole, offloaded, small = (
        build_random_model("tiny", device=CPU, dtype=torch.float32, placement=placement).executor.networks.dit
        for placement in (None, PlacementConfig(resident_blocks=1), PlacementConfig(weights="float8"))
    )
    inputs = dit_inputs(whole.config)
    expected, limit = expect_narrow(lambda: whole(*inputs), FLOAT8, whole.blocks)
    with torch.no_grad():
        assert torch.equal(offloaded(*inputs), expected)
        assert 0 < relative(small(*inputs), expected) < limit


def test_no_weight_is_left_without_memory_or_with_a_gradient() -> None:
    model = build()
    for network in (model.executor.networks.dit, model.executor.networks.vae):
        for name, parameter in network.named_parameters():
            assert not parameter.is_meta and not parameter.requires_grad, name
        assert not network.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pixels_are_scaled_in_the_precision_of_a_published_model(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def watch(pixels: NDArray[np.uint8], dtype: torch.dtype) -> torch.Tensor:
        seen.append(image_to_tensor(pixels, dtype))
        return seen[-1]

    monkeypatch.setattr(table, "image_to_tensor", watch)
    picture = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    next(Avatar(build(dtype)).stream(picture, [np.zeros(17_920, np.float32)]))
    assert torch.equal(seen[0], image_to_tensor(picture, dtype)) and seen[0].dtype == dtype


def test_the_portrait_can_be_of_another_size() -> None:
    model = build_random_model(
        "tiny", device=CPU, dtype=torch.float32, portrait=PortraitConfig(height=32, width=32)
    )
    assert (model.spec.portrait.height, model.version) == (32, RANDOM_VERSION)
    assert model.random_weights, "results must be able to say that they are noise"


def test_the_published_graph_has_its_number_of_parameters() -> None:
    config = flashtalk_14b_spec()
    with torch.device("meta"):
        assert sum(p.numel() for p in DiT(config.dit).parameters()) == 18_882_046_784
        assert sum(p.numel() for p in CausalVideoVAE(config.vae).parameters()) == 126_892_531


def test_unknown_names_are_refused_in_one_line() -> None:
    with pytest.raises(InputError, match="is not one of flashtalk-14b, tiny"):
        random_spec("flashtalk")
    assert set(RANDOM_MODELS) == {"flashtalk-14b", "tiny"}


@pytest.mark.parametrize("place", ENCODER_PLACEMENTS)
def test_encoders_with_random_weights_answer_like_real_ones(place: EncoderPlacement) -> None:
    model = build_random_model(
        "tiny",
        device=CPU,
        dtype=torch.float32,
        placement=PlacementConfig(encoders=place),
        with_encoders=True,
    )
    picture = torch.rand(1, 3, 64, 48) * 2 - 1
    assert model.prompt_encoder is not None
    embeds = model.prompt_encoder.encode("", picture)
    again, other = model.prompt_encoder.encode("", picture), model.prompt_encoder.encode("", -picture)
    assert embeds.text_embeds is not None and embeds.image_embeds is not None
    assert again.image_embeds is not None and other.image_embeds is not None
    config = model.executor.networks.dit.config
    assert embeds.text_embeds.shape == (1, config.text_len, config.text_dim)
    assert embeds.image_embeds.shape == (1, 5, config.image_dim)
    assert torch.equal(embeds.image_embeds, again.image_embeds)
    assert not torch.equal(embeds.image_embeds, other.image_embeds), "the portrait is really looked at"
    prepare_stream(model.executor, model.settings, picture[0], embeds)
