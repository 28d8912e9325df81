from dataclasses import replace

import pytest
import torch
from torch import Tensor

from livetalk.assembly.stages import Observer, StageInputs, run_stages
from livetalk.streaming.seams import SeamConfig
from livetalk.streaming.step import create_state, generate_chunk, normal_noise, prepare_conditioning
from livetalk.types import PromptEmbeds
from tiny import IMAGE_SIDE, tiny_models


class Notes(Observer):
    """Keeps what it sees."""

    def __init__(self) -> None:
        """Start with an empty page."""
        self.seen: list[tuple[str, Tensor]] = []

    def see(self, name: str, value: Tensor) -> None:
        """Keep a result."""
        self.seen.append((name, value))


@pytest.mark.parametrize("seam", [SeamConfig(), SeamConfig(color_frames=4, detail_frames=2)])
def test_the_stages_make_what_the_engine_makes(seam: SeamConfig) -> None:
    models = tiny_models()
    models = replace(models, config=replace(models.config, seam=seam))
    picture = torch.rand(3, IMAGE_SIDE, IMAGE_SIDE) * 2 - 1
    sounds = tuple(torch.randn(models.config.geometry.chunk_samples) * 0.1 for _ in range(3))
    conditioning = prepare_conditioning(models, picture)
    state = create_state(models, conditioning, seed=5)
    notes = Notes()
    inputs = StageInputs(
        picture=picture,
        prompt=PromptEmbeds(text_embeds=None, image_embeds=None),
        sounds=sounds,
        noise=normal_noise(torch.Generator().manual_seed(5)),
    )
    run_stages(models, inputs, notes)
    chunks = [value for name, value in notes.seen if name == "colour"]
    latents = [value for name, value in notes.seen if name == "encode"]
    assert len(chunks) == len(latents) == 3
    for sound, pixels, motion_latents in zip(sounds, chunks, latents, strict=True):
        chunk, state = generate_chunk(models, conditioning, sound, state)
        assert torch.equal(pixels, chunk.pixels)
        assert torch.equal(motion_latents, state.motion_latents)
    names = [name for name, _ in notes.seen]
    assert names == ["reference"] + ["speech", "latents", "colour", "encode"] * 3
