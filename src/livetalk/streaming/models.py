"""What all streams of a model share."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from livetalk.diffusion.schedule import sigmas_from_steps
from livetalk.models.dit import DiT
from livetalk.models.dit_plan import ExecutionPlan
from livetalk.models.speech import AudioEncoder
from livetalk.models.vae import CausalVideoVAE
from livetalk.ops.lanes import Lane
from livetalk.streaming.color import MatchColor, match_color
from livetalk.streaming.config import StreamConfig
from livetalk.streaming.loudness import LoudnessMode


@dataclass(frozen=True, kw_only=True, slots=True)
class Models:
    """Networks and settings that all streams share; all networks on one device.

    Attributes:
        dit: the transformer.
        vae: the VAE.
        audio_encoder: the speech encoder.
        config: what the model is besides its weights.
        loudness: what is done to the level of the sound.
        prepare: how the transformer runs, which decides what it computes once for a stream or a chunk instead
            of in every step; the numbers differ by rounding. None leaves each step to itself.
        match_color: gives frames the colours of the reference; a faster form may stand here.
        lane: where sound is heard; a stream's state belongs to the lane that it was created on.
    """

    dit: DiT
    vae: CausalVideoVAE
    audio_encoder: AudioEncoder
    config: StreamConfig = field(default_factory=StreamConfig)
    loudness: LoudnessMode = LoudnessMode.OFF
    prepare: ExecutionPlan | None = field(default_factory=ExecutionPlan)
    match_color: MatchColor = match_color
    lane: Lane = field(default_factory=Lane)

    @property
    def sigmas(self) -> Tensor:
        """Noise levels of the sampler, `[num_steps + 1]` on the CPU: scalars for any device."""
        return sigmas_from_steps(self.config.sampler.num_steps, self.config.sampler.shift)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.dit.patch_embedding.weight.device
