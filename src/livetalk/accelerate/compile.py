"""Compilation of the transformer, kept on disk so that the next start finds it done."""

from pathlib import Path

from livetalk.accelerate.fused_blocks import OpaqueFusedBlock
from livetalk.env import cache_folder, keep_compiled_code
from livetalk.models.dit import DiT


def default_compile_cache() -> Path:
    """Return where compiled code is kept unless another folder is named: `~/.cache/livetalk/compiled`."""
    return cache_folder() / "compiled"


def compile_transformer(dit: DiT, cache: Path | None = None) -> None:
    """Let the blocks of a transformer be compiled at their first use.

    All blocks are alike, so one is compiled and its code serves all, on every later start from the same files
    too; changed weights do not matter to it, other sizes and another version of PyTorch do. Comes last,
    after whatever alters the blocks.

    Args:
        dit: changed in place.
        cache: folder that the code is kept in, of this process from here on; None is
            `default_compile_cache`. A folder that the user's own settings of PyTorch and Triton name wins.
    """
    keep_compiled_code(cache or default_compile_cache())
    for layer in dit.blocks.layers:
        # Nothing of an opaque form is left to compile, and the compiler's guards cost time at each call.
        if not isinstance(layer.fast_form, OpaqueFusedBlock):
            layer.compile()
