"""The transformer at a tiny size: batches, branches, seams, gradients, precision, compilation."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from livetalk.models.dit import DiT, DiTConfig
from livetalk.models.dit_speech import AudioAttention, SpeechTokens
from livetalk.ops.norm import modulate
from tiny import DIT, DIT_WITH_PROMPT, dit_inputs, randomize, tiny_dit
from tolerance import assert_near, assert_same_network, expect, expect_narrow, relative

CONFIGS = [
    DIT,
    DIT_WITH_PROMPT,
    replace(DIT_WITH_PROMPT, image_dim=None),
    replace(DIT_WITH_PROMPT, text_dim=None),
]
NAMES = ["audio", "text and image", "text", "image"]


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_a_batch_of_two_is_two_batches_of_one(config: DiTConfig) -> None:
    dit, both = tiny_dit(config), dit_inputs(config, batch=2)
    with torch.no_grad():
        apart = [dit(*(None if x is None else x[i : i + 1] for x in both)) for i in range(2)]
    together, limit = expect(lambda: dit(*both), dit)
    assert together.shape == both[0].shape  # type: ignore[union-attr]
    assert_near(torch.cat(apart), together, limit)
    assert not torch.allclose(together[0], together[1])


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_branches_exist_as_configured(config: DiTConfig) -> None:
    keys = DiT(config).state_dict().keys()
    assert any(".context_attention.text." in key for key in keys) == (config.text_dim is not None)
    assert any(".context_attention.image." in key for key in keys) == (config.image_dim is not None)
    prompted = config.text_dim is not None or config.image_dim is not None
    assert any(".context_norm." in key for key in keys) == prompted
    assert any(key.startswith("text_projection") for key in keys) == (config.text_dim is not None)


@pytest.mark.parametrize("argument", range(6))
def test_every_input_matters(argument: int) -> None:
    dit, inputs = tiny_dit(DIT_WITH_PROMPT), list(dit_inputs(DIT_WITH_PROMPT))
    with torch.no_grad():
        before = dit(*inputs)
        inputs[argument] = inputs[argument].square()  # type: ignore[union-attr]
        assert (dit(*inputs) - before).abs().max() > 1e-3


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_gradients_reach_every_parameter(config: DiTConfig) -> None:
    dit = tiny_dit(config)
    torch.autograd.backward(dit(*dit_inputs(config, batch=2)).square().mean())
    missing = [name for name, p in dit.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert missing == []


def test_new_weights_predict_zero_and_train() -> None:
    torch.manual_seed(0)
    dit, inputs = DiT(DIT), dit_inputs(DIT, batch=2)
    assert torch.equal(dit(*inputs), torch.zeros_like(inputs[0]))  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(dit.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        loss = (dit(*inputs) - inputs[0]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)


def test_bfloat16_and_autocast_stay_close_to_float32() -> None:
    dit, inputs = tiny_dit(DIT_WITH_PROMPT), dit_inputs(DIT_WITH_PROMPT)
    exact, limit = expect_narrow(lambda: dit(*inputs), torch.bfloat16, dit)
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            autocast = dit(*inputs)
        rounded = tiny_dit(DIT_WITH_PROMPT).to(torch.bfloat16)(*inputs)
    for output in (autocast, rounded):
        assert output.dtype == torch.float32
        assert 0 < relative(output, exact) < limit


def test_gradients_under_autocast_are_finite() -> None:
    dit = tiny_dit(DIT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = dit(*dit_inputs(DIT, batch=2)).square().mean()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in dit.parameters() if p.grad is not None)


def test_compiles_without_graph_breaks() -> None:
    dit, inputs = tiny_dit(DIT_WITH_PROMPT), dit_inputs(DIT_WITH_PROMPT)
    compiled = torch.compile(dit, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert_same_network(compiled(*inputs), lambda: dit(*inputs), dit)


def test_block_stack_can_be_sliced_from_outside() -> None:
    """Sharding slices tokens, rope and frame ids; without self-attention the rest must not notice."""
    dit, inputs = tiny_dit(DIT), dit_inputs(DIT)
    for name, parameter in dit.named_parameters():
        if name.endswith("self_attention.out.weight"):
            parameter.data.zero_()
    seen: list[tuple[Tensor, ...]] = []
    dit.blocks.register_forward_pre_hook(lambda _m, args: seen.append(args))
    with torch.no_grad():
        dit(*inputs)
        tokens, rope, frame_ids, modulation, conditioning = seen[0]
        whole, limit = expect(
            lambda: dit.blocks(tokens, rope, frame_ids, modulation, conditioning), dit.blocks
        )
        length = tokens.shape[1]
        for start, stop in ((0, 7), (7, length)):
            cut = (type(rope)(*(table[start:stop] for table in rope)), frame_ids[start:stop])
            part = dit.blocks(tokens[:, start:stop], *cut, modulation, conditioning)
            assert_near(part, whole[:, start:stop], limit)


def test_audio_attention_reads_only_its_own_frame() -> None:
    attention = AudioAttention(dim=8, num_heads=2, audio_dim=6)
    randomize(attention)
    rng = torch.Generator().manual_seed(3)
    tokens, speech = torch.randn(2, 12, 8, generator=rng), torch.randn(2, 3, 4, 6, generator=rng)
    frame_ids = torch.arange(3).repeat_interleave(4)
    audio, changed = SpeechTokens(speech), SpeechTokens(speech.clone())
    changed.tokens[:, 1] += 1
    with torch.no_grad():
        difference = attention(tokens, frame_ids, changed) - attention(tokens, frame_ids, audio)
        masked = attention(tokens[:, 1:], frame_ids[1:], audio)
    assert_same_network(masked, lambda: attention(tokens, frame_ids, audio)[:, 1:], attention)
    assert difference.abs().amax(dim=(0, 2)).nonzero().flatten().tolist() == [4, 5, 6, 7]


def test_refuses_shapes_that_do_not_fit() -> None:
    dit = tiny_dit(DIT)
    latents, timesteps, condition, audio, *_ = dit_inputs(DIT)
    assert latents is not None and condition is not None
    with pytest.raises(ValueError, match="do not match"):
        dit(latents[:, :, :2], timesteps, condition, audio)
    with pytest.raises(ValueError, match="channels"):
        dit(latents[:, :2], timesteps, condition, audio)
    with pytest.raises(ValueError, match="multiple of the patch"):
        dit(latents[..., :5], timesteps, condition[..., :5], audio)
    with pytest.raises(ValueError, match="text_embeds"):
        dit(latents, timesteps, condition, audio, torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match="text_embeds"):
        tiny_dit(DIT_WITH_PROMPT)(latents, timesteps, condition, audio)


def test_refuses_widths_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="num_heads"):
        replace(DIT, num_heads=5)
    with pytest.raises(ValueError, match="head_dim"):
        replace(DIT, dim=22, num_heads=2)
    with pytest.raises(ValueError, match="freq_dim"):
        replace(DIT, freq_dim=15)


def test_attention_core_can_be_replaced() -> None:
    class Zero(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
            return torch.zeros_like(q)

    dit, inputs = tiny_dit(DIT), dit_inputs(DIT)
    with torch.no_grad():
        before = dit(*inputs)
        dit.get_submodule("blocks.layers.0.self_attention").core = Zero()
        assert (dit(*inputs) - before).abs().max() > 1e-4


def test_modulation_is_per_sample() -> None:
    x = torch.ones(2, 3, 4)
    scale = torch.tensor([0.0, 1.0]).view(2, 1, 1).expand(2, 1, 4)
    assert modulate(x, torch.zeros(2, 1, 4), scale).mean(dim=(1, 2)).tolist() == [1.0, 2.0]
