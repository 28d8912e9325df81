"""What a sampler calls: the transformer with all but the latents settled, and made once where it can be.

Shapes: B batch · C channels · F frames · T latent frames · h w latent height, width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from torch import Tensor

from livetalk.diffusion.flow import timesteps_from_sigma
from livetalk.diffusion.samplers import PredictVelocity
from livetalk.models.dit import DiT
from livetalk.models.dit_constants import SessionConstants, prepare_chunk, prepare_session, with_timesteps
from livetalk.models.dit_plan import ExecutionPlan
from livetalk.ops.transfer import to_device
from livetalk.streaming.hearing import Speech
from livetalk.tracing import span
from livetalk.types import Conditioning


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedConditioning(Conditioning):
    """Conditioning with what the transformer makes of it, which is the same in every step of a stream.

    Attributes:
        dit: that the constants are of; another makes its own in every chunk.
        constants: of the other fields.
    """

    dit: DiT
    constants: SessionConstants


def prepare_constants(
    dit: DiT, plan: ExecutionPlan, conditioning: Conditioning, sigmas: Tensor
) -> PreparedConditioning:
    """Let the transformer make, once, what it makes of a stream's conditioning.

    Args:
        dit: the transformer.
        plan: how it runs.
        conditioning: on the transformer's device.
        sigmas: of the sampler, `[num_steps + 1]` on the CPU.
    """
    given = {field.name: getattr(conditioning, field.name) for field in fields(Conditioning)}
    constants = _session_constants(dit, plan, conditioning, _timesteps(sigmas))
    return PreparedConditioning(**given, dit=dit, constants=constants)


def make_predictor(
    dit: DiT, conditioning: Conditioning, speech: Speech, sigmas: Tensor, prepare: ExecutionPlan | None
) -> PredictVelocity:
    """Return the velocity of one window as a function of latents and sigma.

    Args:
        dit: the transformer.
        conditioning: of the stream.
        speech: of the window, its tokens made if anything is to be made once.
        sigmas: `[num_steps + 1]` on the CPU; the function takes these but the last, and finds what belongs to
            one without asking the device.
        prepare: how the transformer runs, for what is computed before the first step; None leaves each step
            to itself.
    """
    timesteps = _timesteps(sigmas)
    on_device = to_device(timesteps_from_sigma(sigmas), speech.context.device)
    places = {float(sigma): index for index, sigma in enumerate(sigmas[:-1])}
    chunk = None
    if prepare is not None:
        assert speech.tokens is not None
        with span("step.prepare"):
            session = _usable_constants(dit, prepare, conditioning, timesteps)
            chunk = prepare_chunk(dit, prepare, session, speech.tokens)

    def predict_velocity(latents: Tensor, sigma: Tensor) -> Tensor:
        index = places[float(sigma)]
        with span("step.transformer"):
            velocity: Tensor = dit(
                latents,
                on_device[index].expand(latents.shape[0]),
                conditioning.condition,
                speech.context,
                conditioning.text_embeds,
                conditioning.image_embeds,
                prepared=None if chunk is None else chunk.step(timesteps[index]),
            )
        return velocity

    return predict_velocity


def _timesteps(sigmas: Tensor) -> tuple[float, ...]:
    return tuple(timesteps_from_sigma(sigmas[:-1]).tolist())


def _usable_constants(
    dit: DiT, plan: ExecutionPlan, conditioning: Conditioning, timesteps: Sequence[float]
) -> SessionConstants:
    if isinstance(conditioning, PreparedConditioning) and conditioning.dit is dit:
        return with_timesteps(dit, conditioning.constants, timesteps)
    return _session_constants(dit, plan, conditioning, timesteps)


def _session_constants(
    dit: DiT, plan: ExecutionPlan, conditioning: Conditioning, timesteps: Sequence[float]
) -> SessionConstants:
    return prepare_session(
        dit, plan, conditioning.condition, timesteps, conditioning.text_embeds, conditioning.image_embeds
    )
