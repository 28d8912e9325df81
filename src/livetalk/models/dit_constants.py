"""What stays the same for a session or for a chunk, made once instead of in every step.

The transformer runs the same lines with it and without it. Everything here is exact: the numbers differ from
the plain ones by rounding only.

Shapes: B batch · T latent frames · L video tokens · P tokens of a latent frame · S context tokens · N heads ·
E head width · D model width.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from livetalk.models.dit import DiT, StepInputs
from livetalk.models.dit_blocks import ContextBranch, DiTBlock
from livetalk.models.dit_context import BlockConditioning, Context, StackConditioning, WeightedTokens
from livetalk.models.dit_plan import ExecutionPlan, TokenShare
from livetalk.models.dit_speech import (
    SpeechContext,
    SpeechKeysValues,
    SpeechTokens,
    absorb_speech,
    can_absorb,
)
from livetalk.ops.rope import RopeTables, grid_positions, rope_tables

FOLDED_STEP = 64
"""Folded text has a multiple of so many rows: few lengths to compile for, and none that kernels dislike."""

FOLDING_KEYS = {torch.bfloat16: 4, torch.float16: 4}
"""How many keys stand for the padding together, its weight met to one part in a million; 1 elsewhere."""


class SessionConstants(NamedTuple):
    """What all steps of a session share.

    Attributes:
        grid: tokens of a window: latent frames, rows, columns.
        condition_patches: `[B, L, C' * patch]`.
        rope: rotary tables of the L tokens.
        frame_ids: `[L]` int64.
        timesteps: 0..1000, that `time` and `modulation` are of.
        time: `[len(timesteps), D]` float32.
        modulation: `[len(timesteps), 6, D]` float32.
        text: keys and values of each block, or tokens for a block that must do its work itself; None without
            a text branch.
        image: likewise.
    """

    grid: tuple[int, int, int]
    condition_patches: Tensor
    rope: RopeTables
    frame_ids: Tensor
    timesteps: tuple[float, ...]
    time: Tensor
    modulation: Tensor
    text: tuple[Context, ...] | None
    image: tuple[Context, ...] | None


class ChunkConstants(NamedTuple):
    """What all steps of a chunk share.

    Attributes:
        session: of the chunk.
        conditioning: of each block.
    """

    session: SessionConstants
    conditioning: StackConditioning

    def step(self, timestep: float) -> StepInputs:
        """Return the inputs of a step.

        Raises:
            ValueError: the session was not prepared for this timestep.
        """
        session = self.session
        if timestep not in session.timesteps:
            raise ValueError(f"timestep {timestep} is not one of {session.timesteps}")
        index = session.timesteps.index(timestep)
        return StepInputs(
            condition_patches=session.condition_patches,
            rope=session.rope,
            frame_ids=session.frame_ids,
            time=session.time[index : index + 1],
            modulation=session.modulation[index : index + 1],
            conditioning=self.conditioning,
        )


def prepare_session(
    dit: DiT,
    plan: ExecutionPlan,
    condition: Tensor,
    timesteps: Sequence[float],
    text_embeds: Tensor | None = None,
    image_embeds: Tensor | None = None,
) -> SessionConstants:
    """Make what all steps of a session share.

    Args:
        dit: the transformer, its weights and their form final.
        plan: how it will run.
        condition: `[B, C', T, H, W]`, on the transformer's device.
        timesteps: that the steps will be at, 0..1000.
        text_embeds: `[B, S, text_dim]` for a transformer with a text branch.
        image_embeds: `[B, S, image_dim]` for a transformer with an image branch.

    Raises:
        ValueError: a shape does not fit, or an embedding is missing or not wanted.
    """
    channels = dit.config.in_channels - condition.shape[1]
    latents = condition[:, :1].expand(-1, channels, -1, -1, -1)
    grid = dit.token_grid(latents, condition, text_embeds, image_embeds)
    positions = grid_positions(*grid, device=condition.device)
    time, modulation = _embed_timesteps(dit, timesteps, condition.device)
    return SessionConstants(
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


def with_timesteps(dit: DiT, session: SessionConstants, timesteps: Sequence[float]) -> SessionConstants:
    """Return the constants of a session for other timesteps; the same object for the same ones."""
    if tuple(timesteps) == session.timesteps:
        return session
    time, modulation = _embed_timesteps(dit, timesteps, session.time.device)
    return session._replace(timesteps=tuple(timesteps), time=time, modulation=modulation)


def prepare_chunk(dit: DiT, plan: ExecutionPlan, session: SessionConstants, audio: Tensor) -> ChunkConstants:
    """Make what all steps of a chunk share.

    Args:
        dit: that `session` was made with.
        plan: likewise.
        session: of the chunk.
        audio: speech tokens `[B, T, S, audio_dim]`, from `DiT.project_audio`.
    """
    num_frames, rows, columns = session.grid
    lengths = (rows * columns,) * num_frames
    frames = _own_frames(plan.tokens, num_frames, rows * columns)
    absorption = _absorption(dit, plan, audio[:, frames], rows * columns)
    layers = []
    for index, layer in enumerate(dit.blocks.layers):
        assert isinstance(layer, DiTBlock)
        prepare = _leave_speech if index in plan.offloaded else _prepare_speech
        layers.append(
            BlockConditioning(
                speech=prepare(layer, audio, frames, absorption),
                text=None if session.text is None else session.text[index],
                image=None if session.image is None else session.image[index],
                frame_lengths=lengths,
            )
        )
    return ChunkConstants(session, StackConditioning(tuple(layers)))


def prepare_step(
    dit: DiT,
    plan: ExecutionPlan,
    timesteps: Tensor,
    condition: Tensor,
    audio_context: Tensor,
    *embeds: Tensor | None,
) -> StepInputs:
    """Make everything for one step that stands alone, from the arguments of the transformer's `forward`.

    Args:
        dit: the transformer.
        plan: how it will run.
        timesteps: `[B]` float32, all the same.
        condition: `[B, C', T, H, W]`.
        audio_context: `[B, F, window, num_blocks, channels]`.
        embeds: of text and image, as far as there are branches.
    """
    timestep = timesteps[0].item()
    session = prepare_session(dit, plan, condition, [timestep], *embeds)
    return prepare_chunk(dit, plan, session, dit.project_audio(audio_context)).step(timestep)


def absorption_saves_work(*, frame_tokens: int, context_tokens: int, num_heads: int, dim: int) -> bool:
    """Tell whether audio attention takes fewer multiplications absorbed, even when absorbed in every step.

    Args:
        frame_tokens: P, video tokens of a latent frame.
        context_tokens: S, speech tokens of a latent frame.
        num_heads: N.
        dim: D.
    """
    plain = 2 * frame_tokens * dim * (dim + context_tokens)
    absorbed = 2 * frame_tokens * dim * num_heads * context_tokens + 2 * context_tokens * dim * dim
    return absorbed < plain


def fold_padding(embeds: Tensor, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Let a few keys stand for most of the padding of text embeddings.

    Equal keys share equal weight, so that n of them are one with log(n) added to its logits. That logarithm
    rounded to bfloat16 would be off by up to 3 %; the few keys have logarithms that `dtype` holds and whose
    exponentials add up to n.

    Args:
        embeds: `[B, S, text_dim]`; rows of zeros at its end count as padding.
        length: with the padding, S at least.
        dtype: of the attention.

    Returns:
        Embeddings with a multiple of `FOLDED_STEP` rows, zeros at their end, and what to add to their logits,
        `[1, S']` in `dtype`. Where that is no shorter, embeddings with all the padding, and None. Without
        numbers, on the meta device, zeros are not seen.
    """
    num_real = embeds.shape[1] if embeds.is_meta else _count_rows(embeds)
    num_keys = FOLDING_KEYS.get(dtype, 1)
    num_rows = -(-(num_real + num_keys) // FOLDED_STEP) * FOLDED_STEP
    if num_rows >= length:
        return F.pad(embeds, (0, 0, 0, length - embeds.shape[1])), None
    alone = num_rows - num_real - num_keys
    biases = [0.0] * (num_real + alone) + _split_logarithm(length - num_real - alone, num_keys, dtype)
    rows = F.pad(embeds[:, :num_real], (0, 0, 0, num_rows - num_real))
    return rows, torch.tensor([biases], dtype=dtype, device=embeds.device)


def _count_rows(embeds: Tensor) -> int:
    """Return the number of rows before the zeros at the end; waits for the device, once a session."""
    used = embeds.ne(0).any(dim=2).any(dim=0).nonzero()
    return int(used[-1]) + 1 if len(used) else 0


def _split_logarithm(total: int, num_parts: int, dtype: torch.dtype) -> list[float]:
    """Return numbers of `dtype` whose exponentials add up to `total`, the greatest first."""
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
    # One by one, as a plain step does: a product of several rows may round otherwise.
    rows = [dit.time_embedding(torch.tensor([timestep], device=device)) for timestep in timesteps]
    return torch.cat([time for time, _ in rows]), torch.cat([modulation for _, modulation in rows])


def _prepare_text(dit: DiT, plan: ExecutionPlan, embeds: Tensor) -> tuple[Context, ...]:
    rows, bias = fold_padding(embeds, dit.config.text_len, dit.dtype)
    return _project_in_blocks(dit, plan, "text", WeightedTokens(dit.project_text(rows), bias))


def _prepare_image(dit: DiT, plan: ExecutionPlan, embeds: Tensor) -> tuple[Context, ...]:
    return _project_in_blocks(dit, plan, "image", WeightedTokens(dit.project_image(embeds)))


def _project_in_blocks(
    dit: DiT, plan: ExecutionPlan, name: Literal["text", "image"], tokens: WeightedTokens
) -> tuple[Context, ...]:
    """Return each block's keys and values of one kind of context; the tokens, where it is offloaded."""
    context: list[Context] = []
    for index, layer in enumerate(dit.blocks.layers):
        assert isinstance(layer, DiTBlock) and layer.context_attention is not None
        branch = getattr(layer.context_attention, name)
        assert isinstance(branch, ContextBranch)
        context.append(tokens if index in plan.offloaded else branch(tokens))
    return tuple(context)


class _Absorption(NamedTuple):
    """What to do with the speech of a chunk: absorb it at all, and if so keep the products."""

    wanted: bool
    kept: bool


def _absorption(dit: DiT, plan: ExecutionPlan, audio: Tensor, frame_tokens: int) -> _Absorption:
    cfg = dit.config
    batch, num_frames, context_tokens = audio.shape[:3]
    wanted = plan.absorb_audio and absorption_saves_work(
        frame_tokens=frame_tokens, context_tokens=context_tokens, num_heads=cfg.num_heads, dim=cfg.dim
    )
    numbers = 2 * batch * num_frames * context_tokens * cfg.num_heads * cfg.dim
    return _Absorption(wanted, numbers * audio.element_size() <= plan.max_absorbed_bytes)


def _own_frames(tokens: TokenShare, num_frames: int, frame_tokens: int) -> slice:
    """Return the latent frames of the tokens that the blocks compute."""
    own = tokens.of(num_frames * frame_tokens)
    return slice(own.start // frame_tokens, -(-own.stop // frame_tokens))


def _leave_speech(layer: DiTBlock, audio: Tensor, frames: slice, absorption: _Absorption) -> SpeechContext:
    """Return the speech of a block whose weights are not here: it projects the tokens itself."""
    return SpeechTokens(audio, absorb=absorption.wanted and can_absorb(layer.audio_attention))


def _prepare_speech(layer: DiTBlock, audio: Tensor, frames: slice, absorption: _Absorption) -> SpeechContext:
    """Return the speech of a block with as much of its work done as there is room for."""
    attention = layer.audio_attention
    absorb = absorption.wanted and can_absorb(attention)
    speech = SpeechKeysValues(*attention.keys_values(audio), absorb=absorb)
    if not (absorb and absorption.kept):
        return speech
    absorbed = absorb_speech(attention, speech, frames)
    return absorbed._replace(output_bias=absorbed.output_bias.detach())
