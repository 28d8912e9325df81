"""The weights of a model: one copy in a process, whatever the number of streams."""

from dataclasses import dataclass

import torch

from livetalk.models.dit import DiT
from livetalk.models.speech import AudioEncoder
from livetalk.models.vae import CausalVideoVAE


@dataclass(frozen=True, kw_only=True, slots=True)
class Networks:
    """The networks that every stream of a model shares, all on one device.

    Attributes:
        dit: the transformer.
        vae: the VAE.
        audio_encoder: the speech encoder.
    """

    dit: DiT
    vae: CausalVideoVAE
    audio_encoder: AudioEncoder

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.dit.patch_embedding.weight.device
