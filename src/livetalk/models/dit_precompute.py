"""Values that are constant over a stream or a chunk, computed once instead of in every step.

The transformer runs the same code with and without them; results differ by rounding only.

Shapes: B batch · T latent frames · L video tokens · S context tokens · N heads · D model width.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from livetalk.models.dit import DiT, StepInputs
from livetalk.models.dit_blocks import ContextBranch, DiTBlock
from livetalk.models.dit_context import BlockConditioning, Context, ContextTokens, StackConditioning
from livetalk.models.dit_plan import ExecutionPlan, TokenShare
from livetalk.models.dit_speech import (
    SpeechContext,
    SpeechKeysValues,
    SpeechTokens,
    absorb_speech,
    can_absorb,
)
from livetalk.ops.rope import RopeTables, grid_positions, rope_tables

# Row multiple of folded text: few lengths to compile for, all aligned for the kernels.
FOLDED_MULTIPLE = 64

# Keys that replace the padding, with a total weight that is exact to 1e-6; one is enough for other dtypes.
NUM_PADDING_KEYS = {torch.bfloat16: 4, torch.float16: 4}


class StreamConstants(NamedTuple):
    """Values that all steps of a stream share."""

    grid: tuple[int, int, int]  # tokens of a window by latent frames, rows, columns
    condition_patches: Tensor  # `[B, L, C' * patch]`
    rope: RopeTables
    frame_ids: Tensor  # `[L]` int64
    timesteps: tuple[float, ...]  # the timesteps of `time` and `modulation`, 0..1000
    time: Tensor  # `[len(timesteps), D]` float32
    modulation: Tensor  # `[len(timesteps), 6, D]` float32
    # For each block: keys and values, or tokens if the block is offloaded. None without the branch.
    text: tuple[Context, ...] | None
    image: tuple[Context, ...] | None

    def step(self, timestep: float, conditioning: StackConditioning) -> StepInputs:
        """Return the inputs of a step; `conditioning` of its chunk comes from `precompute_chunk`."""
        if timestep not in self.timesteps:
            raise ValueError(f"timestep {timestep} is not one of {self.timesteps}")
        index = self.timesteps.index(timestep)
        return StepInputs(
            condition_patches=self.condition_patches,
            rope=self.rope,
            frame_ids=self.frame_ids,
            time=self.time[index : index + 1],
            modulation=self.modulation[index : index + 1],
            conditioning=conditioning,
        )


def precompute_stream(
    dit: DiT,
    plan: ExecutionPlan,
    condition: Tensor,
    timesteps: Sequence[float],
    text_embeds: Tensor | None = None,
    image_embeds: Tensor | None = None,
) -> StreamConstants:
    """Compute the constants of a stream; the weights of `dit` must be final.

    `timesteps` are 0..1000; the other arguments are those of `DiT.forward`, and raise the same errors.
    """
    channels = dit.config.in_channels - condition.shape[1]
    latents = condition[:, :1].expand(-1, channels, -1, -1, -1)
    grid = dit.token_grid(latents, condition, text_embeds, image_embeds)
    positions = grid_positions(*grid, device=condition.device)
    time, modulation = _embed_timesteps(dit, timesteps, condition.device)
    return StreamConstants(
        grid=grid,
        condition_patches=dit.patchify(condition),
        rope=rope_tables(positions, dit.config.head_dim),
        frame_ids=positions[:, 0].contiguous(),
        timesteps=tuple(timesteps),
        time=time,
        modulation=modulation,
        text=None if text_embeds is None else _prepare_text(dit, plan, text_embeds),
        image=None if image_embeds is None else _prepare_image(dit, plan, image_embeds),
    )


def with_timesteps(dit: DiT, stream: StreamConstants, timesteps: Sequence[float]) -> StreamConstants:
    """Return the constants for other timesteps; the same object for equal ones."""
    if tuple(timesteps) == stream.timesteps:
        return stream
    time, modulation = _embed_timesteps(dit, timesteps, stream.time.device)
    return stream._replace(timesteps=tuple(timesteps), time=time, modulation=modulation)


def precompute_chunk(
    dit: DiT, plan: ExecutionPlan, stream: StreamConstants, audio: Tensor
) -> StackConditioning:
    """Compute the conditioning of all steps of a chunk from its speech tokens `[B, T, S, audio_dim]`."""
    num_frames, rows, columns = stream.grid
    lengths = (rows * columns,) * num_frames
    frames = _own_frames(plan.tokens, num_frames, rows * columns)
    absorption = _absorption(dit, plan, audio[:, frames], rows * columns)
    layers = []
    for index, layer in enumerate(dit.blocks.layers):
        assert isinstance(layer, DiTBlock)
        prepare = _keep_speech_tokens if index in plan.offloaded else _project_speech
        layers.append(
            BlockConditioning(
                speech=prepare(layer, audio, frames, absorption),
                text=None if stream.text is None else stream.text[index],
                image=None if stream.image is None else stream.image[index],
                frame_lengths=lengths,
            )
        )
    return StackConditioning(tuple(layers))


def precompute_step(
    dit: DiT,
    plan: ExecutionPlan,
    timesteps: Tensor,
    condition: Tensor,
    audio_context: Tensor,
    *embeds: Tensor | None,
) -> StepInputs:
    """Compute the inputs of a single step from the arguments of `DiT.forward`; all `timesteps` are equal."""
    timestep = timesteps[0].item()
    stream = precompute_stream(dit, plan, condition, [timestep], *embeds)
    conditioning = precompute_chunk(dit, plan, stream, dit.project_audio(audio_context))
    return stream.step(timestep, conditioning)


def absorption_saves_work(*, frame_tokens: int, context_tokens: int, num_heads: int, dim: int) -> bool:
    """Return whether absorbed audio attention needs fewer multiplications, even if absorbed in every step."""
    plain = 2 * frame_tokens * dim * (dim + context_tokens)
    absorbed = 2 * frame_tokens * dim * num_heads * context_tokens + 2 * context_tokens * dim * dim
    return absorbed < plain


def fold_padding(embeds: Tensor, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Replace most of the padding of text embeddings `[B, S, text_dim]` by a few keys.

    `length` is the number of rows with padding; rows of zeros at the end of `embeds` count as padding, too.
    Returns embeddings with a multiple of `FOLDED_MULTIPLE` rows, and the values to add to their logits,
    `[1, S']` in the attention's `dtype`. If folding saves nothing, returns all `length` rows and None.
    """
    # n equal keys equal one key with log(n) added to its logits. Rounded to bfloat16 this logarithm would be
    # off by up to 3 %, so several keys are used, with logarithms that `dtype` represents and exponentials
    # that add up to n. The number of real rows is unknown on the meta device.
    num_real = embeds.shape[1] if embeds.is_meta else _count_rows(embeds)
    num_keys = NUM_PADDING_KEYS.get(dtype, 1)
    num_rows = -(-(num_real + num_keys) // FOLDED_MULTIPLE) * FOLDED_MULTIPLE
    if num_rows >= length:
        return F.pad(embeds, (0, 0, 0, length - embeds.shape[1])), None
    alone = num_rows - num_real - num_keys
    biases = [0.0] * (num_real + alone) + _split_logarithm(length - num_real - alone, num_keys, dtype)
    rows = F.pad(embeds[:, :num_real], (0, 0, 0, num_rows - num_real))
    return rows, torch.tensor([biases], dtype=dtype, device=embeds.device)


def _count_rows(embeds: Tensor) -> int:
    # Reading the indices waits for the device, once per stream.
    used = embeds.ne(0).any(dim=2).any(dim=0).nonzero()
    return int(used[-1]) + 1 if len(used) else 0


def _split_logarithm(total: int, num_parts: int, dtype: torch.dtype) -> list[float]:
    # Values of `dtype` whose exponentials add up to `total`: each takes the largest part that fits.
    parts: list[float] = []
    rest = float(total)
    for _ in range(num_parts):
        if rest <= 0:
            parts.append(torch.finfo(dtype).min)
            continue
        part = torch.tensor(math.log(rest), dtype=torch.float64).to(dtype)
        if num_parts > 1 and math.exp(part.item()) > rest:
            part = torch.nextafter(part, torch.full_like(part, -math.inf))
        parts.append(part.item())
        rest -= math.exp(part.item())
    return parts


def _embed_timesteps(dit: DiT, timesteps: Sequence[float], device: torch.device) -> tuple[Tensor, Tensor]:
    # One by one, as in a plain step: a batched product may round differently.
    rows = [dit.time_embedding(torch.tensor([timestep], device=device)) for timestep in timesteps]
    return torch.cat([time for time, _ in rows]), torch.cat([modulation for _, modulation in rows])


def _prepare_text(dit: DiT, plan: ExecutionPlan, embeds: Tensor) -> tuple[Context, ...]:
    # Folding replaces up to `text_len` padding keys per block and step by a few.
    rows, bias = fold_padding(embeds, dit.config.text_len, dit.dtype)
    return _project_in_blocks(dit, plan, "text", ContextTokens(dit.project_text(rows), bias))


def _prepare_image(dit: DiT, plan: ExecutionPlan, embeds: Tensor) -> tuple[Context, ...]:
    return _project_in_blocks(dit, plan, "image", ContextTokens(dit.project_image(embeds)))


def _project_in_blocks(
    dit: DiT, plan: ExecutionPlan, name: Literal["text", "image"], tokens: ContextTokens
) -> tuple[Context, ...]:
    context: list[Context] = []
    for index, layer in enumerate(dit.blocks.layers):
        assert isinstance(layer, DiTBlock) and layer.context_attention is not None
        branch = getattr(layer.context_attention, name)
        assert isinstance(branch, ContextBranch)
        context.append(tokens if index in plan.offloaded else branch(tokens))
    return tuple(context)


class _Absorption(NamedTuple):
    wanted: bool
    stored: bool  # keep the products for all steps of the chunk


def _absorption(dit: DiT, plan: ExecutionPlan, audio: Tensor, frame_tokens: int) -> _Absorption:
    cfg = dit.config
    batch, num_frames, context_tokens = audio.shape[:3]
    wanted = plan.absorb_audio and absorption_saves_work(
        frame_tokens=frame_tokens, context_tokens=context_tokens, num_heads=cfg.num_heads, dim=cfg.dim
    )
    numbers = 2 * batch * num_frames * context_tokens * cfg.num_heads * cfg.dim
    return _Absorption(wanted, numbers * audio.element_size() <= plan.max_absorbed_bytes)


def _own_frames(tokens: TokenShare, num_frames: int, frame_tokens: int) -> slice:
    # The latent frames of the tokens that this rank computes; the first and the last may be shared.
    own = tokens.of(num_frames * frame_tokens)
    return slice(own.start // frame_tokens, -(-own.stop // frame_tokens))


def _keep_speech_tokens(
    layer: DiTBlock, audio: Tensor, frames: slice, absorption: _Absorption
) -> SpeechContext:
    # An offloaded block projects them itself, when its weights are on the device.
    return SpeechTokens(audio, absorb=absorption.wanted and can_absorb(layer.audio_attention))


def _project_speech(layer: DiTBlock, audio: Tensor, frames: slice, absorption: _Absorption) -> SpeechContext:
    attention = layer.audio_attention
    absorb = absorption.wanted and can_absorb(attention)
    speech = SpeechKeysValues(*attention.keys_values(audio), absorb=absorb)
    if not (absorb and absorption.stored):
        return speech
    absorbed = absorb_speech(attention, speech, frames)
    return absorbed._replace(output_bias=absorbed.output_bias.detach())
