"""Load the published model from the files that its authors released."""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from livetalk.assembly.model import AvatarModel
from livetalk.assembly.spec import ModelSpec, PortraitConfig, StreamDefaults
from livetalk.checkpoints.layouts import PublishedFiles, find_published
from livetalk.checkpoints.published import (
    open_audio_encoder,
    open_dit,
    open_image_encoder,
    open_text_encoder,
    open_vae,
)
from livetalk.checkpoints.streaming_load import LoadProgress
from livetalk.errors import WeightsError
from livetalk.models.clip_vision import prepare_clip_pixels
from livetalk.models.dit import DiT
from livetalk.models.dit_plan import ExecutionPlan
from livetalk.models.text_tokenizer import load_text_tokenizer
from livetalk.placement.apply import DiTPlacement, EncoderPlacement, PlacementConfig
from livetalk.placement.linear import quantize_linears
from livetalk.streaming.executor import Executor
from livetalk.streaming.networks import Networks
from livetalk.streaming.settings import LoudnessMode, StreamSettings
from livetalk.tracing import span
from livetalk.types import PromptEmbeds

# Frame size, seed, framing and prompt of the published program.
PUBLISHED_PORTRAIT = PortraitConfig(height=768, width=448)
PUBLISHED_DEFAULTS = StreamDefaults(
    seed=9999,
    crop="published",
    prompt="A person is talking. Only the foreground characters are moving, the background remains static.",
)

# Those of the published program except for loudness, see docs/compatibility.md.
PUBLISHED_SETTINGS = StreamSettings(loudness=LoudnessMode.RUNNING)

PUBLISHED_VERSION = "published"

_BLOCKS = "blocks.layers."

# Upper bound on the device memory that an encoder needs besides its weights.
_ENCODER_SPARE_BYTES = 2 << 30


def read_published_spec(files: PublishedFiles) -> ModelSpec:
    """Read the specification of a published model; no weight is read.

    Raises:
        WeightsError: a file cannot be read, or two files belong to different models.
    """
    dit, text, image = (
        open_dit(files).config,
        open_text_encoder(files).config,
        open_image_encoder(files).config,
    )
    for origin, width, wanted in (
        (files.text_encoder, text.dim, dit.text_dim),
        (files.image_encoder, image.dim, dit.image_dim),
    ):
        if width != wanted:
            raise WeightsError(
                f"weights {origin}: embeddings are {width} wide but the transformer of {files.dit} reads "
                f"{wanted}; the two belong to different models"
            )
    return ModelSpec(
        name=files.name,
        dit=dit,
        vae=open_vae(files).config,
        speech=open_audio_encoder(files).config,
        text=text,
        image=image,
        settings=PUBLISHED_SETTINGS,
        portrait=PUBLISHED_PORTRAIT,
        any_size=True,
        defaults=PUBLISHED_DEFAULTS,
    )


def load_published(
    model_dir: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    placement: PlacementConfig,
    wav2vec_dir: Path | None = None,
    infinitetalk: Path | None = None,
    progress: LoadProgress | None = None,
) -> AvatarModel:
    """Load a published model; `dtype` is the precision of the transformer and the VAE.

    The text and the image encoder stay on disk until a stream needs them. None for `wav2vec_dir` and
    `infinitetalk` (audio weights for a base model) searches beside `model_dir`. `progress` is called with the
    bytes of the transformer that were read, and the total.

    Raises:
        WeightsError: files are missing, damaged or do not belong together; the message names them.
        LivetalkError: the package that reads the tokenizer is not installed.
    """
    files = find_published(model_dir, wav2vec_dir=wav2vec_dir, infinitetalk=infinitetalk)
    spec = read_published_spec(files)
    encoder = PublishedPromptEncoder(files, spec, device=device, dtype=dtype, place=placement.encoders)
    dit, offloaded = load_dit(files, device=device, dtype=dtype, placement=placement, progress=progress)
    vae = open_vae(files).load(device=device, dtype=dtype)
    vae.use_channels_last()
    speech = open_audio_encoder(files).load(device=device, dtype=torch.float32)
    return AvatarModel(
        spec=spec,
        version=PUBLISHED_VERSION if files.manifest is None else files.manifest.version,
        executor=Executor(
            networks=Networks(dit=dit, vae=vae, audio_encoder=speech), plan=ExecutionPlan(offloaded=offloaded)
        ),
        dtype=dtype,
        image_dtype=dtype,
        prompt_encoder=encoder,
    )


def load_dit(
    files: PublishedFiles,
    *,
    device: torch.device,
    dtype: torch.dtype,
    placement: PlacementConfig,
    progress: LoadProgress | None = None,
) -> tuple[DiT, frozenset[int]]:
    """Load the transformer, placing each block once its weights are read; return it and its offloaded blocks.

    Placement "full" keeps the stored form of the weights, float8 and int8 included.

    Raises:
        WeightsError: a file is damaged or does not fit.
    """
    network = open_dit(files)
    dit = network.build_empty()
    if placement.weights == "full" and network.byte_format is not None:
        placement = dataclasses.replace(placement, weights=network.byte_format)
    if placement.weights != "full":
        quantize_linears(dit, placement.weights)
    placing = DiTPlacement(dit, placement, device)

    def place(unit: str) -> None:
        if unit.startswith(_BLOCKS):
            placing.place_block(int(unit.removeprefix(_BLOCKS)))

    network.fill(dit, device=device, dtype=dtype, on_unit=place, progress=progress)
    return dit, placing.finish()


class PublishedPromptEncoder:
    """Text and image encoder of a published model, read from disk on demand.

    The last prompt's embeddings are cached: encoding the same prompt again does not load the text encoder.
    """

    def __init__(
        self,
        files: PublishedFiles,
        spec: ModelSpec,
        *,
        device: torch.device,
        dtype: torch.dtype,
        place: EncoderPlacement,
    ) -> None:
        """Read the tokenizer; `device` and `dtype` are the transformer's.

        "resident" keeps the encoders on the device, "cpu" on the host, "cpu-after-use" frees them after use
        and relies on the operating system's file cache for the next one.
        """
        self._files = files
        self._device = device
        self._dtype = dtype
        self._place = place
        self._tokenizer = load_text_tokenizer(files.tokenizer, spec.dit.text_len)
        assert spec.image is not None, "a published model has an image encoder"
        self._image_size = spec.image.image_size
        self._kept: dict[str, nn.Module] = {}
        self._texts: dict[str, Tensor] = {}

    @torch.no_grad()
    def encode(self, prompt: str, image: Tensor) -> PromptEmbeds:
        text_embeds = self._texts.get(prompt)
        if text_embeds is None:
            with span("assembly.encode_text"):
                text_embeds = self._encode_text(prompt).to(image.device)
            # One entry only: a service encodes an unbounded number of prompts.
            self._texts = {prompt: text_embeds}
        with span("assembly.encode_image"):
            image_embeds = self._encode_image(image).to(image.device)
        if self._place == "cpu-after-use" and self._device.type == "cuda":
            # Return the cached blocks that the encoders left: a stream's larger tensors do not fit in them.
            torch.cuda.empty_cache()
        return PromptEmbeds(text_embeds=text_embeds, image_embeds=image_embeds)

    def _encode_image(self, image: Tensor) -> Tensor:
        encoder = self._get("image_encoder")
        pixels = prepare_clip_pixels(image, self._image_size)
        embeds: Tensor = encoder(pixels.to(_device_of(encoder)))
        return embeds

    def _encode_text(self, prompt: str) -> Tensor:
        encoder = self._get("text_encoder")
        token_ids, mask = self._tokenizer(prompt)
        embeds: Tensor = encoder(token_ids.to(_device_of(encoder)), mask.to(_device_of(encoder)))
        return embeds

    def _get(self, part: str) -> nn.Module:
        # With "cpu-after-use" only the caller holds the encoder.
        if part in self._kept:
            return self._kept[part]
        encoder: nn.Module
        if part == "text_encoder":
            network = open_text_encoder(self._files)
            place = self._place_for(network.index.num_bytes)
            encoder = network.load(device=place, dtype=self._dtype)
        else:
            image = open_image_encoder(self._files)
            place = self._place_for(image.index.num_bytes)
            half = place.type == "cuda" and self._dtype is not torch.float32
            encoder = image.load(device=place, dtype=torch.float16 if half else torch.float32)
        if self._place != "cpu-after-use":
            self._kept[part] = encoder
        return encoder

    def _place_for(self, num_bytes: int) -> torch.device:
        if self._place == "cpu" or self._device.type != "cuda":
            return torch.device("cpu")
        free, _ = torch.cuda.mem_get_info(self._device)
        fits = self._place == "resident" or free > num_bytes + _ENCODER_SPARE_BYTES
        return self._device if fits else torch.device("cpu")


def _device_of(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
