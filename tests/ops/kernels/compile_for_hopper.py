"""Compile every Triton kernel for Hopper, without a GPU; print the resources of each as JSON lines.

    python tests/ops/kernels/compile_for_hopper.py

The pointers and strides are those of the published model: 5120 wide, 40 heads, bfloat16.
"""

# ruff: noqa: T201

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from livetalk.ops.kernels import color, heads, pixels, ranges, rows
from livetalk.ops.kernels.parts import split_width

HOPPER = GPUTarget("cuda", 90, 32)
BF16, F32, F8, INT = "*bf16", "*fp32", "*fp8e4nv", "i32"
SPACE, LINE = tuple(float(index) for index in range(9)), (0.008856, 7.787, 0.138)
WIDE_LOAD = re.compile(r"ld\.global\S*\.v4\.b32|cp\.async\.cg\S+ .*, 0x10")
"""Vectorised loads to registers or to shared memory."""

GPUS = 2
"""GPUs that heads are written to and read from."""

FRAMES = {"frames": INT, **{f"{name}_stride": INT for name in ("batch", "channel", "frame", "pixel")}}


def row(width: int) -> dict[str, Any]:
    """Return the constants of a row."""
    return {"WIDTH": width, "PARTS": split_width(width)}


def cases() -> list[tuple[Any, dict[str, Any], dict[str, Any], int]]:
    """List (kernel, types of its arguments, constants, warps); several pointers are one argument."""
    found = []
    for quantize in (False, True):
        out = F8 if quantize else BF16
        tokens = {name: BF16 for name in ("x", "branch", "branch_bias", "total")}
        tokens |= {name: F32 for name in ("gate", "weight", "bias", "out_scale")} | {
            "out": out,
            "eps": "fp32",
        }
        tokens |= {name: INT for name in ("num_tokens", "gate_stride", "affine_stride")}
        flags = dict.fromkeys(("HAS_BRANCH", "HAS_BRANCH_BIAS", "HAS_GATE", "NORM"), True)
        found.append((rows._tokens_kernel, tokens, {**row(5120), **flags, "QUANTIZE": quantize}, rows.WARPS))
        gelu = {"x": BF16, "bias": BF16, "out": out, "out_scale": F32}
        found.append(
            (
                rows._gelu_kernel,
                gelu,
                {**row(13824), "HAS_BIAS": True, "QUANTIZE": quantize},
                rows.WIDE_WARPS,
            )
        )
    rounding = {"x": (BF16,) * GPUS, "other": BF16, "out": F8, "out_scale": F32, "num_tokens": INT}
    rounding |= {f"{name}_{part}_stride": INT for name in ("x", "other") for part in ("batch", "row", "head")}
    sizes = {**row(5120), "HEAD": 128, "GROUP": 5120 // GPUS, "HAS_OTHER": True}
    found.append((rows._quantize_rows_kernel, rounding, sizes, rows.WARPS))
    softmax = {"x": BF16, "bias": F32, "out": BF16, "rows_of_a_bias": INT, "scale": "fp32"}
    sizes = {"HEADS": 40, "KEYS": 32, "HEADS_BLOCK": 64, "KEYS_BLOCK": 32}
    found.append((rows._softmax_heads_kernel, softmax, sizes, 4))
    found += head_cases()
    norm = {"x": BF16, "bias": BF16, "weight": BF16, "out": BF16, "num_pixels": INT, "root": "fp32"}
    strides = {"x_batch_stride": INT, "x_pixel_stride": INT, "out_batch_stride": INT}
    for channels in (96, 192, 384):
        block = triton.next_power_of_2(channels)
        sizes = {"CHANNELS": channels, "BLOCK": block, "PIXELS": pixels.VALUES // block}
        found.append(
            (pixels._channel_norm_kernel, norm | strides, sizes | {"HAS_BIAS": True, "SILU": True}, 8)
        )
        add = {"x": BF16, "bias": BF16, "skip": BF16, "out": BF16, "num_pixels": INT}
        found.append((pixels._add_channels_kernel, add | strides, sizes, 8))
        phases = {"phases": BF16, "bias": BF16, "out": BF16, "height": INT, "width": "i32"}
        found.append((pixels._join_phases_kernel, phases, sizes, 8))
    lab = {"SPACE": SPACE, "LINE": LINE, "PIXELS": color.PIXELS}
    measure = {"x": BF16, "moments": F32, "num_pixels": INT, **FRAMES}
    found.append((color._measure_kernel, measure, lab, 4))
    mapping = {"x": BF16, "gain": F32, "offset": F32, "out": F32, "num_pixels": INT, "strength": "fp32"}
    found.append((color._map_kernel, mapping | FRAMES, lab | {"BACK": SPACE}, 4))
    return found


def head_cases() -> list[tuple[Any, dict[str, Any], dict[str, Any], int]]:
    """List the kernels between a projection and attention."""
    found = []
    split = {name: BF16 for name in ("x", "bias", "weight")} | {name: F32 for name in ("cos", "sin")}
    split |= {name: INT for name in ("x_batch_stride", "x_row_stride")}
    split |= {"out_batch_stride": INT, "out_row_stride": INT, "eps": "fp32"}
    levels = {"x": BF16, "inverse": F32, "bounds": F32, "num_tokens": INT}
    levels |= {name: INT for name in ("x_batch_stride", "x_row_stride", "out_batch_stride", "out_row_stride")}
    flags = {"HAS_BIAS": True, "NORM": True, "ROPE": True}
    sizes = {**row(5120), "GROUP": 5120 // GPUS}
    types = split | {"out": (BF16,) * GPUS}
    found.append((heads._split_heads_kernel, types, sizes | flags | {"PAIRS": 64}, heads.SPLIT_WARPS))
    ways = {"HEAD": 128, "CENTRE": True}
    types = levels | {"out": (F8,) * GPUS}
    found.append((heads._quantize_heads_kernel, types, sizes | ways, heads.ROUND_WARPS))
    join = {"ranges": F32, "joined": F32, "sample_stride": INT, "part_stride": INT, "divisor": "i32"}
    sizes = {
        "NUM_PARTS": 83,
        "WIDTH": 5120,
        "BLOCK": ranges.JOINED_COLUMNS,
        "PARTS": ranges.JOINED_PARTS,
    }
    found.append((ranges._join_ranges_kernel, join, sizes, 8))
    strides = ("x_batch_stride", "x_row_stride", "out_batch_stride", "out_row_stride", "ranges_stride")
    note = {"x": BF16, "bias": BF16, "out": BF16, "ranges": F32, "num_tokens": INT} | dict.fromkeys(
        strides, INT
    )
    tile = {name: getattr(ranges, name) for name in ("TOKENS", "COLUMNS", "TILES", "STAGES")}
    for written in (False, True):
        sizes = {"WIDTH": 5120, "HAS_BIAS": written, "STORE": written, **tile}
        found.append((ranges._note_ranges_kernel, note, sizes, ranges.WARPS))
    scale = {"bounds": F32, "scale": F32, "inverse": F32}
    found.append((heads._head_scale_kernel, scale, {"HEAD": 128, "BLOCK": 128, "CENTRE": True}, 1))
    return found


def compile_kernel(
    kernel: Any, types: dict[str, Any], constants: dict[str, Any], warps: int
) -> dict[str, Any]:
    """Compile one kernel down to machine code."""
    names = kernel.arg_names
    # The alignment and divisibility that a launch would derive from its arguments.
    aligned = []
    for name, kind in types.items():
        if isinstance(kind, tuple):
            aligned += [(names.index(name), index) for index in range(len(kind))]
        elif kind[0] == "*" or name == "width" or "stride" in name:
            aligned.append((names.index(name),))
    source = ASTSource(
        kernel,
        {name: types.get(name, "constexpr") for name in names},
        {(names.index(name),): value for name, value in constants.items()},
        {place: [["tt.divisibility", 16]] for place in aligned},
    )
    compiled = triton.compile(source, target=HOPPER, options={"num_warps": warps})
    reader = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder) / "kernel.cubin"
        code.write_bytes(compiled.asm["cubin"])
        command = [str(reader), "--dump-resource-usage", str(code)]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", report)}
    return {
        "kernel": kernel.__name__,
        "warps": warps,
        "registers": used["REG"],
        "spilled_bytes": used["STACK"] + used["LOCAL"],
        "shared_bytes": compiled.metadata.shared,
        "wide_loads": bool(WIDE_LOAD.search(compiled.asm["ptx"])),
        "wide_stores": bool(re.search(r"st\.global\S*\.v4\.b32", compiled.asm["ptx"])),
    }


if __name__ == "__main__":
    for case in cases():
        print(json.dumps(compile_kernel(*case)))
    sys.exit(0)
