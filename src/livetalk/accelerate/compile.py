"""Compilation of the transformer's blocks, cached on disk across processes."""

from pathlib import Path

from livetalk.accelerate.fused_blocks import OpaqueFusedBlock
from livetalk.env import cache_folder, keep_compiled_code
from livetalk.models.dit import DiT


def default_compile_cache() -> Path:
    """Return the default folder for compiled code, in `livetalk.env.cache_folder`."""
    return cache_folder() / "compiled"


def compile_transformer(dit: DiT, cache: Path | None = None) -> None:
    """Compile the blocks of a transformer at their first use; call this after all other changes to them.

    All blocks share one compiled graph, which later processes load from `cache` (None:
    `default_compile_cache`). Cache folders in the user's PyTorch and Triton environment variables take
    precedence.
    """
    keep_compiled_code(cache or default_compile_cache())
    for layer in dit.blocks.layers:
        # An opaque form has no operations to compile, and the compiler's guards cost time per call.
        if not isinstance(layer.fast_form, OpaqueFusedBlock):
            layer.compile()
