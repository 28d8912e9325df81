"""The published model, assembled from the files that its owners have."""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from livetalk.assembly.model import AvatarModel
from livetalk.assembly.spec import ModelSpec, PortraitConfig, SessionDefaults
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

PUBLISHED_PORTRAIT = PortraitConfig(height=768, width=448)
PUBLISHED_DEFAULTS = SessionDefaults(
    seed=9999,
    crop="published",
    prompt="A person is talking. Only the foreground characters are moving, the background remains static.",
)
"""Seed, framing and prompt of the published program."""

PUBLISHED_SETTINGS = StreamSettings(loudness=LoudnessMode.RUNNING)
"""The published program's, but for the loudness, see docs/compatibility.md."""

PUBLISHED_VERSION = "published"

_BLOCKS = "blocks.layers."

_ROOM_BYTES = 2 << 30
"""Device memory that an encoder needs besides its weights, generously."""


def read_published_spec(files: PublishedFiles) -> ModelSpec:
    """Read what a published model is; no weight is read.

    Raises:
        WeightsError: a file cannot be read, or two of them do not belong together.
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
    """Load a published model, or one exported to our format.

    The text and the image encoder stay on disk until a session needs them.

    Args:
        model_dir: folder of the model.
        device: where to.
        dtype: precision of the transformer and the VAE.
        placement: how the transformer's weights are stored and spread, and where the encoders live.
        wav2vec_dir: folder of the speech encoder, or None to look for it beside the model.
        infinitetalk: audio weights to lay over the model, or None to look for them where they are needed.
        progress: is told the bytes of the transformer read so far and the bytes to read.

    Raises:
        WeightsError: files are missing, damaged or do not belong together; the message names them.
        LivetalkError: a package that reads the tokenizer is not installed.
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
    """Load the transformer; each block goes to its form and place as soon as its weights have arrived.

    Weights that are stored as bytes stay bytes: "full" means as they are stored.

    Returns:
        The transformer, and which of its blocks wait in host memory.

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
    """Text and image encoder of a published model, read from disk when a session needs them.

    A prompt is encoded once; another session with the same prompt needs no text encoder.
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
        """Read the tokenizer; no weight is read.

        Args:
            files: of the model.
            spec: of the model.
            device: of the transformer.
            dtype: of the transformer.
            place: "resident" keeps the encoders on the device, "cpu" on the host; "cpu-after-use" forgets
                them after each session, for the system keeps files that were read in memory it can spare.
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
        """Encode a prompt and a portrait `[1, 3, H, W]`, -1..1; see `PromptEncoder`."""
        text_embeds = self._texts.get(prompt)
        if text_embeds is None:
            with span("assembly.encode_text"):
                text_embeds = self._encode_text(prompt).to(image.device)
            # One prompt only: a service may see any number of them.
            self._texts = {prompt: text_embeds}
        with span("assembly.encode_image"):
            image_embeds = self._encode_image(image).to(image.device)
        if self._place == "cpu-after-use" and self._device.type == "cuda":
            # The encoders lay in pieces that the larger tensors of a stream cannot use.
            torch.cuda.empty_cache()
        return PromptEmbeds(text_embeds=text_embeds, image_embeds=image_embeds)

    def _encode_image(self, image: Tensor) -> Tensor:
        encoder = self._borrow("image_encoder")
        pixels = prepare_clip_pixels(image, self._image_size)
        embeds: Tensor = encoder(pixels.to(_device_of(encoder)))
        return embeds

    def _encode_text(self, prompt: str) -> Tensor:
        encoder = self._borrow("text_encoder")
        token_ids, mask = self._tokenizer(prompt)
        embeds: Tensor = encoder(token_ids.to(_device_of(encoder)), mask.to(_device_of(encoder)))
        return embeds

    def _borrow(self, part: str) -> nn.Module:
        """Return an encoder, from memory or from disk; only the caller keeps it unless it shall stay."""
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
        """Return the device, or the host where the device is too full for so many bytes of weights."""
        if self._place == "cpu" or self._device.type != "cuda":
            return torch.device("cpu")
        free, _ = torch.cuda.mem_get_info(self._device)
        fits = self._place == "resident" or free > num_bytes + _ROOM_BYTES
        return self._device if fits else torch.device("cpu")


def _device_of(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
