"""How the networks of a model are run."""

from dataclasses import dataclass, field

import torch

from livetalk.models.dit_plan import ExecutionPlan
from livetalk.streaming.color import MatchColor, match_color
from livetalk.streaming.networks import Networks


@dataclass(frozen=True, kw_only=True, slots=True)
class Executor:
    """Networks and the choices of how they run, which change results by rounding only."""

    networks: Networks
    # What is precomputed per stream and per chunk. None computes everything in each step, which gradients
    # through the transformer require.
    plan: ExecutionPlan | None = field(default_factory=ExecutionPlan)
    match_color: MatchColor = match_color  # `match_color` or a fused form of it

    @property
    def device(self) -> torch.device:
        return self.networks.device
