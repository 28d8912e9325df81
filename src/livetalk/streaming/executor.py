"""How the networks of a model are run."""

from dataclasses import dataclass, field

import torch

from livetalk.models.dit_plan import ExecutionPlan
from livetalk.streaming.color import MatchColor, match_color
from livetalk.streaming.networks import Networks


@dataclass(frozen=True, kw_only=True, slots=True)
class Executor:
    """Networks together with the choices of how they run; these change results by rounding only.

    Attributes:
        networks: weights.
        plan: how the transformer runs, which decides what it computes once for a session or a chunk; None
            leaves each step to itself, as gradients through the transformer need.
        match_color: gives frames the colours of the reference: `match_color` or a fused form of it.
    """

    networks: Networks
    plan: ExecutionPlan | None = field(default_factory=ExecutionPlan)
    match_color: MatchColor = match_color

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.networks.device
