"""The weights of a model: one copy per process, shared by all streams."""

from dataclasses import dataclass

import torch

from livetalk.models.dit import DiT
from livetalk.models.speech import AudioEncoder
from livetalk.models.vae import CausalVideoVAE


@dataclass(frozen=True, kw_only=True, slots=True)
class Networks:
    """Transformer, VAE and speech encoder, all on one device."""

    dit: DiT
    vae: CausalVideoVAE
    audio_encoder: AudioEncoder

    @property
    def device(self) -> torch.device:
        return self.dit.patch_embedding.weight.device
