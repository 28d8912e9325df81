from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from livetalk.accelerate.fused_blocks import FusedBlock, fuse_blocks
from livetalk.accelerate.fused_qkv import fuse_qkv
from livetalk.accelerate.selection import KERNEL_CHOICES, select_fused
from livetalk.models.dit import DiT, DiTConfig
from livetalk.models.dit_plan import ExecutionPlan
from livetalk.models.dit_precompute import precompute_chunk, precompute_stream
from livetalk.models.dit_speech import AbsorbedSpeech, SpeechKeysValues
from livetalk.ops.attention import AttentionCore
from livetalk.ops.backends import ATTENTION_KERNELS, KernelCore, apply_attention
from livetalk.ops.kernels.interface import Branch, HeadRange
from livetalk.ops.kernels.reference import TorchKernels
from livetalk.ops.low_precision import FLOAT8
from livetalk.ops.matmul import QuantizedRows
from livetalk.placement.float8 import Float8Linear, apply_float8
from tiny import AUDIO, DIT, DIT_WITH_PROMPT, dit_inputs, tiny_dit
from tolerance import assert_near, assert_same_network, expect, expect_narrow, relative

PROMPT = replace(DIT_WITH_PROMPT, dim=64, ffn_dim=128, num_heads=4, audio=replace(AUDIO, output_dim=16))
PLAIN = replace(PROMPT, text_dim=None, image_dim=None)
KERNELS = TorchKernels()
SPEECH_FORMS = {
    ExecutionPlan(absorb_audio=False): (SpeechKeysValues, False),
    ExecutionPlan(): (AbsorbedSpeech, None),
    ExecutionPlan(max_absorbed_bytes=0): (SpeechKeysValues, True),
}


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def fused_dit(config: DiTConfig, dtype: torch.dtype = torch.float32) -> DiT:
    dit = tiny_dit(config).to(dtype)
    assert fuse_blocks(dit, KERNELS) == config.num_layers
    return dit


@pytest.mark.parametrize("config", [DIT, DIT_WITH_PROMPT, PLAIN, PROMPT])
@pytest.mark.parametrize("qkv", [False, True])
def test_the_fused_network_equals_the_plain_one(config: DiTConfig, qkv: bool) -> None:
    plain = tiny_dit(config)
    fused = tiny_dit(config)
    if qkv:
        fuse_qkv(fused)
    fuse_blocks(fused, KERNELS)
    inputs = dit_inputs(config, batch=2)
    assert all(type(block.fast_form) is FusedBlock for block in fused.blocks.layers)
    assert_same_network(fused(*inputs), lambda: plain(*inputs), plain)


def test_the_state_dict_is_unchanged() -> None:
    plain = tiny_dit(PROMPT)
    before = {name: weight.data_ptr() for name, weight in plain.state_dict().items()}
    fuse_blocks(plain, KERNELS)
    assert {name: weight.data_ptr() for name, weight in plain.state_dict().items()} == before
    assert not plain.blocks.layers[0].training


def test_bfloat16_is_no_further_from_float32_than_the_plain_form() -> None:
    inputs = dit_inputs(PROMPT)
    exact = tiny_dit(PROMPT)(*inputs)
    plain = relative(tiny_dit(PROMPT).bfloat16()(*inputs), exact)
    fused = relative(fused_dit(PROMPT, torch.bfloat16)(*inputs), exact)
    assert 1e-3 < fused < 1.1 * plain


@pytest.mark.parametrize("qkv", [False, True])
@pytest.mark.parametrize("fused_first", [False, True])
def test_fp8_layers_read_rows_quantised_by_the_preceding_kernel(
    monkeypatch: pytest.MonkeyPatch, qkv: bool, fused_first: bool
) -> None:
    inputs = dit_inputs(PROMPT)
    exact = tiny_dit(PROMPT)(*inputs)
    unfused, fused = tiny_dit(PROMPT), tiny_dit(PROMPT)
    apply_float8(unfused, allow_reference=True)
    if qkv:
        fuse_qkv(fused)
    if fused_first:
        fuse_blocks(fused, KERNELS)
    apply_float8(fused, allow_reference=True)
    if not fused_first:
        fuse_blocks(fused, KERNELS)
    in_bytes = []
    multiply = Float8Linear._multiply

    def watch(
        layer: Float8Linear, x: torch.Tensor | QuantizedRows, bias: torch.Tensor | None
    ) -> torch.Tensor:
        in_bytes.append(isinstance(x, QuantizedRows))
        return multiply(layer, x, bias)

    monkeypatch.setattr(Float8Linear, "_multiply", watch)
    result = fused(*inputs)
    # Input and output projections of self-attention and context attention, and both feed-forward layers.
    assert sum(in_bytes) == PROMPT.num_layers * ((1 if qkv else 3) + 1 + 2 + 2)
    assert relative(result, exact) < 1.2 * relative(unfused(*inputs), exact)


@pytest.mark.parametrize("plan", list(SPEECH_FORMS))
def test_prepared_constants_pass_through(monkeypatch: pytest.MonkeyPatch, plan: ExecutionPlan) -> None:
    # Absorption does not save work at this size, so it is forced.
    monkeypatch.setattr("livetalk.models.dit_precompute.absorption_saves_work", lambda **sizes: True)
    plain, fused = tiny_dit(PROMPT), fused_dit(PROMPT)
    latents, _, condition, audio, text, image = dit_inputs(PROMPT)
    assert latents is not None and condition is not None and audio is not None
    stream = precompute_stream(fused, plan, condition, (750.0,), text, image)
    conditioning = precompute_chunk(fused, plan, stream, fused.project_audio(audio))
    speech = [layer.speech for layer in conditioning.layers]
    assert {(type(x), getattr(x, "absorb", None)) for x in speech} == {SPEECH_FORMS[plan]}
    prepared = stream.step(750.0, conditioning)
    timesteps = torch.tensor([750.0])
    result = fused(latents, timesteps, condition, audio, text, image, prepared=prepared)
    assert_same_network(result, lambda: plain(latents, timesteps, condition, audio, text, image), plain)


@pytest.mark.parametrize("name", ["math", "fp8-reference"])
def test_attention_runs_on_the_chosen_kernel(name: str) -> None:
    inputs = dit_inputs(PROMPT)
    plain, fused = tiny_dit(PROMPT), fused_dit(PROMPT)
    exact, limit = expect(lambda: plain(*inputs), plain)
    # Only queries, keys and values are rounded, not all factors of all products.
    _, narrow_limit = expect_narrow(lambda: plain(*inputs), FLOAT8, plain.blocks)
    for dit in (plain, fused):
        assert apply_attention(dit, ATTENTION_KERNELS[name], ("self_attention",)) == PROMPT.num_layers
    if name == "math":
        assert_near(fused(*inputs), exact, limit)
    else:
        assert 1e-4 < relative(fused(*inputs), exact) < narrow_limit
        assert relative(fused(*inputs), plain(*inputs)) < narrow_limit / 2


def test_a_core_of_another_class_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    class CountingCore(AttentionCore):
        calls = 0

        def forward(self, *qkv: torch.Tensor) -> torch.Tensor:
            CountingCore.calls += 1
            return super().forward(*qkv)

    inputs = dit_inputs(PROMPT)
    fused = fused_dit(PROMPT)
    for block in fused.blocks.layers:
        block.get_submodule("self_attention").core = CountingCore()
    plain = tiny_dit(PROMPT)
    assert_same_network(fused(*inputs), lambda: plain(*inputs), plain)
    assert CountingCore.calls == PROMPT.num_layers


def test_heads_from_other_ranks_are_rounded_by_the_kernels() -> None:
    measured = []

    class CountingKernels(TorchKernels):
        def measure_heads(self, x: torch.Tensor) -> HeadRange:
            measured.append(x.shape)
            return super().measure_heads(x)

    dit = tiny_dit(PROMPT)
    apply_attention(dit, ATTENTION_KERNELS["fp8-reference"], ("self_attention",))
    plain = dit.blocks.layers[0].get_submodule("self_attention.core")
    fuse_blocks(dit, CountingKernels())
    core = dit.blocks.layers[0].get_submodule("self_attention.core")
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 19, 4, 16, generator=rng) for _ in range(3))
    assert isinstance(plain, KernelCore) and isinstance(core, KernelCore)
    for result, expected in zip(core.with_lse(q, k + 3, v), plain.with_lse(q, k + 3, v), strict=True):
        # Both read the same levels, except for a few, and sum them in float32.
        assert_near(result, expected, torch.finfo(FLOAT8).eps / 19)
    assert len(measured) == 3


@pytest.mark.parametrize("attention", ["auto", "flash"])
def test_a_block_compiles_to_one_graph(attention: str) -> None:
    torch._dynamo.reset()
    inputs = dit_inputs(PROMPT)
    dit = fuse_qkv(tiny_dit(PROMPT))
    apply_float8(dit, allow_reference=True)
    if attention != "auto":
        apply_attention(dit, ATTENTION_KERNELS[attention], ("self_attention",))
    fuse_blocks(dit, KERNELS)
    plain = tiny_dit(PROMPT)
    _, limit = expect(lambda: plain(*inputs), plain)
    expected = dit(*inputs)
    for block in dit.blocks.layers:
        block.compile(backend="eager", fullgraph=True)
    assert_near(dit(*inputs), expected, limit)


def test_blocks_on_opaque_kernels_are_not_compiled() -> None:
    class OpaqueKernels(TorchKernels):
        name = "opaque"

        def add(self, x: torch.Tensor, branch: Branch) -> torch.Tensor:
            assert not torch.compiler.is_compiling()
            return super().add(x, branch)

    torch._dynamo.reset()
    inputs = dit_inputs(PROMPT)
    dit = tiny_dit(PROMPT)
    fuse_blocks(dit, OpaqueKernels())
    plain = tiny_dit(PROMPT)
    _, limit = expect(lambda: plain(*inputs), plain)
    expected = dit(*inputs)
    dit.compile(backend="eager")
    assert_near(dit(*inputs), expected, limit)


def test_hooks_of_blocks_are_kept() -> None:
    dit, calls = tiny_dit(PROMPT), []
    for when in ("before", "after"):
        dit.blocks.layers[1].register_forward_hook(lambda *_, when=when: calls.append(when))
        if when == "before":
            fuse_blocks(dit, KERNELS)
    assert torch.equal(dit(*dit_inputs(PROMPT)), fused_dit(PROMPT)(*dit_inputs(PROMPT)))
    assert calls == ["before", "after"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("float8", [False, True])
def test_triton_blocks_are_as_close_to_float32_as_plain_kernels_on_a_gpu(float8: bool) -> None:
    """Roundings may differ by one level of e4m3, so both forms are compared with float32."""
    device = torch.device("cuda")
    inputs = dit_inputs(PROMPT)
    plain = tiny_dit(PROMPT)
    # In bfloat16 all operations round; in FP8 the products of the blocks round further.
    exact, limit = expect_narrow(lambda: plain(*inputs), torch.bfloat16, plain)
    if float8:
        exact, limit = expect_narrow(lambda: plain(*inputs), FLOAT8, plain.blocks)
    on_gpu = [None if x is None else x.to(device) for x in inputs]
    errors = {}
    for choice in KERNEL_CHOICES[1:]:
        dit = tiny_dit(PROMPT).bfloat16().to(device)
        if float8:
            apply_float8(dit)
        fuse_blocks(dit, select_fused(choice, device))
        errors[choice] = relative(dit(*on_gpu).cpu(), exact)
    assert errors["triton"] < 1.2 * errors["torch"]
    assert errors["torch"] < limit
