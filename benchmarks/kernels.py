"""Time matrix products, fused kernels, attention and a transformer block, each beside its plain form.

    python benchmarks/kernels.py                             # the published sizes, on a GPU
    python benchmarks/kernels.py --sections gemm,attention
    python benchmarks/kernels.py --compile                   # also the forms after torch.compile
    python benchmarks/kernels.py --sizes tiny --repeats 1    # functional test; CPU times are meaningless

Prints medians as tables, then one line of JSON. If torchao is installed, its FP8 products are timed, too.
"""

# ruff: noqa: T201  a program that measures and prints

import argparse
import importlib.metadata
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import torch
from kernel_block import time_block
from kernel_timing import Bench, quantize_with_torchao, relative, sizes_of
from torch import Tensor, nn

from livetalk.accelerate.fused_color import match_color_fused
from livetalk.accelerate.selection import select_attention, triton_problem
from livetalk.ops.attention import attention
from livetalk.ops.attention_lse import reference_attention_with_lse
from livetalk.ops.backends import ATTENTION_KERNELS, AttentionSpec, KernelCore
from livetalk.ops.kernels.interface import Affine, Branch, FusedKernels, HeadNorm, HeadRange
from livetalk.ops.kernels.reference import TorchKernels
from livetalk.ops.matmul import QuantizedRows, quantize_rows
from livetalk.ops.rope import grid_positions, rope_tables
from livetalk.placement.float8 import Float8Linear
from livetalk.streaming.color import match_color, measure_color

PLAIN_FORMS = ("math", "fp8-reference")
"""Forms that store all logits, which at the published size need tens of gigabytes."""


def time_products(bench: Bench) -> None:
    """Time the linear layers of a block, for a whole window and for half of it, as on two GPUs."""
    config = bench.sizes.config
    shapes = {
        "qkv": (config.dim, 3 * config.dim),
        "out": (config.dim, config.dim),
        "ffn widen": (config.dim, config.ffn_dim),
        "ffn narrow": (config.ffn_dim, config.dim),
    }
    for tokens in (bench.sizes.tokens, bench.sizes.tokens // 2):
        for name, (width, out) in shapes.items():
            label = f"{name} {tokens}x{width}x{out}"
            linear = nn.Linear(width, out, device=bench.device, dtype=bench.dtype)
            time_product(bench, label, linear, bench.draw(tokens, width))


def time_product(bench: Bench, label: str, linear: nn.Linear, x: Tensor) -> None:
    """Time one layer: bf16, FP8 with and without the rounding of activations, torchao."""
    flop = 2.0 * x.numel() * linear.out_features
    layer, rows, exact = Float8Linear.from_linear(linear), quantize_rows(x), linear(x)
    error = relative(layer(x), exact)
    bench.add("gemm", label, "bf16", partial(linear, x), flop=flop)
    bench.add("gemm", label, "fp8, rows given", partial(layer.without_bias, rows), flop=flop, error=error)
    bench.add("gemm", label, "fp8, rows given, bias", partial(layer, rows), flop=flop)
    bench.add("gemm", label, "fp8", partial(layer, x), flop=flop)
    if not bench.compiled:
        return
    bench.add("gemm", label, "fp8 compiled", partial(torch.compile(layer), x), flop=flop)
    if bench.has_torchao:
        network = nn.Sequential(linear)
        quantize_with_torchao(network, ["0"])
        compiled = torch.compile(network)
        error = relative(compiled(x), exact)
        bench.add("gemm", label, "torchao compiled", partial(compiled, x), flop=flop, error=error)


def token_calls(bench: Bench) -> Iterator[tuple[str, Callable[[FusedKernels], object], float]]:
    """Yield (name, call, bytes of memory traffic) of the fused operations on rows of tokens."""
    config, tokens = bench.sizes.config, bench.sizes.tokens
    x, y, wide = (bench.draw(1, tokens, width) for width in (config.dim, config.dim, config.ffn_dim))
    gate, weight, shift = (bench.draw(1, 1, config.dim, dtype=torch.float32) for _ in range(3))
    affine, branch = Affine(weight, shift), Branch(y, bench.draw(config.dim), gate)
    bias, eps = bench.draw(config.ffn_dim), config.eps
    for quantize, tail in ((False, ""), (True, " -> fp8")):
        out = 1 if quantize else 2
        yield (
            f"layer norm + modulation{tail}",
            lambda k, q=quantize: k.layer_norm(x, affine, eps, quantize=q),
            x.numel() * (2.0 + out),
        )
        yield (
            f"gate + residual + norm{tail}",
            lambda k, q=quantize: k.add_layer_norm(x, branch, affine, eps, quantize=q),
            x.numel() * (6.0 + out),
        )
        yield (
            f"bias + gelu{tail}",
            lambda k, q=quantize: k.gelu(wide, bias, quantize=q),
            wide.numel() * (2.0 + out),
        )
    heads, others = (part.unflatten(-1, (config.num_heads, -1)) for part in (x, y))
    yield "gate + residual", lambda k: k.add(x, branch), x.numel() * 6.0
    yield "attention -> fp8", lambda k: k.quantize_rows(heads), x.numel() * 3.0
    yield "text + image -> fp8", lambda k: k.quantize_rows(heads, others), x.numel() * 5.0
    frames, width = bench.sizes.latents[0], config.num_heads * config.audio.context_tokens
    products = bench.draw(1, frames, tokens // frames, width)
    speech_bias = bench.draw(1, frames, 1, width, dtype=torch.float32)
    yield (
        "speech softmax",
        lambda k: k.softmax_heads(products, speech_bias, 0.1, config.num_heads),
        products.numel() * 4.0,
    )


def head_calls(bench: Bench) -> Iterator[tuple[str, Callable[[FusedKernels], object], float]]:
    """Yield (name, call, bytes) of the fused operations between a projection and attention."""
    config = bench.sizes.config
    x = bench.draw(1, bench.sizes.tokens, 3 * config.dim).chunk(3, -1)[0]
    bias, norm = bench.draw(config.dim), HeadNorm(bench.draw(config.dim), config.eps)
    rope = rope_tables(grid_positions(*bench.sizes.grid, bench.device), config.head_dim)
    heads = (config.num_heads, 1)
    split, found = TorchKernels().split_heads(x, bias, norm, rope, heads, measure=True)
    head_range = cast(HeadRange, found)
    size = x.numel() * 4.0
    yield "q: bias + norm + rope", lambda k: k.split_heads(x, bias, norm, rope, heads), size
    yield (
        "k: bias + norm + rope, measured",
        lambda k: k.split_heads(x, bias, norm, rope, heads, measure=True),
        size,
    )
    yield "v: bias, measured", lambda k: k.split_heads(x, bias, None, None, heads, measure=True), size
    yield "k: centred -> fp8", lambda k: k.quantize_heads(split[0], head_range, centre=True), x.numel() * 3.0


def pixel_calls(bench: Bench) -> Iterator[tuple[str, Callable[[FusedKernels], object], float]]:
    """Yield (name, call, bytes) of the fused operations between the convolutions of the VAE."""
    for shape in bench.sizes.pixels:
        x = bench.draw(1, *shape).contiguous(memory_format=torch.channels_last_3d)
        weight = bench.draw(shape[0])
        yield (
            f"vae norm + silu {'x'.join(map(str, shape))}",
            lambda k, x=x, weight=weight: k.channel_norm(x, weight, silu=True, bias=weight),
            x.numel() * 4.0,
        )
        yield (
            f"vae bias + shortcut {'x'.join(map(str, shape))}",
            lambda k, x=x, weight=weight: k.add_channels(x, weight, x),
            x.numel() * 6.0,
        )


def time_elementwise(bench: Bench) -> None:
    """Time every fused operation: the plain twin, the compiled twin, and Triton."""
    plain, *others = bench.kernel_sets()
    for calls in (token_calls, head_calls, pixel_calls):
        for name, call, size in calls(bench):
            bench.add("elementwise", name, "torch", partial(call, plain), bytes=size)
            if bench.compiled:
                compiled = torch.compile(partial(call, plain))
                bench.add("elementwise", name, "torch compiled", compiled, bytes=size)
            for kernels in others:
                error = largest_error(call(kernels), call(plain))
                run = partial(call, kernels)
                bench.add("elementwise", name, kernels.name, run, bytes=size, error=error)
    time_color(bench)


def time_color(bench: Bench) -> None:
    """Time colour matching of a window: the plain form, and the fused form if Triton runs."""
    _, frames, rows, columns = bench.sizes.pixels[-1]
    pixels = bench.draw(1, 3, frames, rows, columns).clamp(-1, 1)
    pixels = pixels.contiguous(memory_format=torch.channels_last_3d)
    reference = measure_color(pixels[:, :, :1].flip(3) * 0.8)
    size, label = pixels.numel() * 6.0, f"colour {frames}x{rows}x{columns}"
    bench.add("elementwise", label, "torch", partial(match_color, pixels, reference), bytes=size)
    if bench.compiled:
        compiled = partial(torch.compile(match_color), pixels, reference)
        bench.add("elementwise", label, "torch compiled", compiled, bytes=size)
    if triton_problem(bench.device) is None:
        error = relative(match_color_fused(pixels, reference), match_color(pixels, reference))
        fused = partial(match_color_fused, pixels, reference)
        bench.add("elementwise", label, "triton", fused, bytes=size, error=error)


def largest_error(result: object, expected: object) -> float:
    """Return the largest relative error over the parts of a result."""
    if isinstance(expected, QuantizedRows):
        assert isinstance(result, QuantizedRows)
        return relative(result.dequantize(), expected.dequantize())
    if isinstance(expected, Tensor):
        assert isinstance(result, Tensor)
        return relative(result.float(), expected.float())
    if isinstance(expected, tuple):
        assert isinstance(result, tuple)
        return max((largest_error(a, b) for a, b in zip(result, expected, strict=True)), default=0.0)
    return 0.0


def time_attention(bench: Bench) -> None:
    """Time every available attention kernel, with all heads and with half of them, as on two GPUs."""
    config, tokens = bench.sizes.config, bench.sizes.tokens
    for num_heads in (config.num_heads, config.num_heads // 2):
        work = AttentionSpec(bench.device, bench.dtype, config.head_dim, num_heads)
        qkv = [bench.draw(1, tokens, num_heads, config.head_dim) for _ in range(3)]
        exact = reference_attention_with_lse(*(x[:, :, :1] for x in qkv))[0]
        flop = 4.0 * tokens * tokens * config.head_dim * num_heads
        label = f"{tokens} tokens, {num_heads} heads of {config.head_dim}"
        bench.add("attention", label, "PyTorch's choice", partial(attention, *qkv), flop=flop)
        for name, kernel in ATTENTION_KERNELS.items():
            problem = kernel.problem(work)
            if problem is None and bench.device.type == "cuda" and name in PLAIN_FORMS:
                problem = "the plain form"
            if problem is not None:
                print(f"{label:40}{name:24}left out: {problem}")
                continue
            core = KernelCore(select_attention(name, work))
            error = relative(core(*qkv)[:, :, :1], exact)
            bench.add("attention", label, name, partial(core, *qkv), flop=flop, error=error)


SECTIONS: dict[str, Callable[[Bench], None]] = {
    "gemm": time_products,
    "elementwise": time_elementwise,
    "attention": time_attention,
    "block": time_block,
}


def version_of(package: str) -> str | None:
    """Return the version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    """Parse the command line, time, print."""
    parser = argparse.ArgumentParser(description="Time kernels beside their plain forms.")
    parser.add_argument("--sizes", choices=("published", "tiny"), default="published")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="default: %(default)s")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--compile", action="store_true", help="also time compiled forms")
    args = parser.parse_args()
    sections = args.sections.split(",")
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}: choose from {', '.join(SECTIONS)}")
    device = torch.device(args.device)
    bench = Bench(device, sizes_of(args.sizes), args.repeats, compiled=args.compile)
    with torch.no_grad():
        for section in sections:
            print(f"\n{section}")
            SECTIONS[section](bench)
    environment = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "sizes": args.sizes,
        "repeats": args.repeats,
        **{package: version_of(package) for package in ("torch", "triton", "fa3-fwd", "torchao")},
    }
    print(json.dumps({"environment": environment, "sections": bench.rows}))


if __name__ == "__main__":
    main()
