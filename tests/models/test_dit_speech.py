"""Layout and cost of absorbed speech."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from livetalk.models.dit_plan import ExecutionPlan
from livetalk.models.dit_precompute import absorption_saves_work, precompute_chunk, precompute_stream
from livetalk.models.dit_speech import AbsorbedSpeech, attend_absorbed
from livetalk.models.dit_tokens import frame_runs
from tiny import DIT_WITH_PROMPT, dit_inputs, tiny_dit
from tolerance import assert_near, rounding

PLAN = ExecutionPlan()


class LargestCopy(TorchDispatchMode):
    """Records the number of elements of the largest copy."""

    size = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        if function in (torch.ops.aten.clone.default, torch.ops.aten._to_copy.default):
            self.size = max(self.size, out.numel())
        return out


def test_absorbed_speech_is_not_copied_on_a_gpu() -> None:
    # The meta device takes the code path of a GPU.
    dit = tiny_dit(DIT_WITH_PROMPT).to("meta")
    inputs = tuple(None if x is None else x.to("meta") for x in dit_inputs(DIT_WITH_PROMPT, batch=1))
    _, _, condition, audio, text, image = inputs
    stream = precompute_stream(dit, PLAN, condition, [600.0], text, image)
    with LargestCopy() as copies:
        chunk = precompute_chunk(dit, PLAN, stream, dit.project_audio(audio))
    absorbed = chunk.layers[0].speech
    assert isinstance(absorbed, AbsorbedSpeech)
    for weight in (absorbed.logit_weight, absorbed.output_weight):
        assert weight.stride(-1) == 1 and copies.size < weight.numel()


def test_rows_of_absorbed_speech_may_be_strided() -> None:
    dit, inputs = tiny_dit(DIT_WITH_PROMPT), dit_inputs(DIT_WITH_PROMPT)
    stream = precompute_stream(dit, PLAN, inputs[2], [600.0], *inputs[4:])
    chunk = precompute_chunk(dit, PLAN, stream, dit.project_audio(inputs[3]))
    x = torch.randn(2, 18, DIT_WITH_PROMPT.dim, generator=torch.Generator().manual_seed(0))
    runs = frame_runs((6, 6, 6), 18)
    assert runs is not None
    for layer in chunk.layers:
        speech = layer.speech
        assert isinstance(speech, AbsorbedSpeech)
        strided = speech._replace(
            logit_weight=interleave_frames(speech.logit_weight),
            output_weight=interleave_frames(speech.output_weight),
        )
        assert strided.logit_weight.stride() != speech.logit_weight.stride()
        found, expected = (attend_absorbed(form, x, runs) for form in (strided, speech))
        # Products with the width of the tokens, a softmax over the keys, products with them.
        limit = rounding(DIT_WITH_PROMPT.dim + 2 * speech.output_weight.shape[-2])
        assert_near(found, expected, limit)


def interleave_frames(weight: Tensor) -> Tensor:
    """Lay out `[B, T, N * S, D]` with rows outermost in memory, as on a GPU."""
    return weight.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)


def test_absorption_is_chosen_if_it_saves_work() -> None:
    published = {"context_tokens": 32, "num_heads": 40, "dim": 5120}
    assert absorption_saves_work(frame_tokens=1170, **published)
    assert not absorption_saves_work(frame_tokens=16, **published)
    assert absorption_saves_work(frame_tokens=64, context_tokens=8, num_heads=7, dim=448)
    assert not absorption_saves_work(frame_tokens=1000, context_tokens=64, num_heads=12, dim=512)
