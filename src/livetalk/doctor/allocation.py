"""Memory of a computation, measured by a dry run on the meta device, whose tensors have shapes and no data.

The dry run executes the code of real streams, so temporaries have the same lifetime as on a GPU.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GRANULE = 512
"""Allocation granularity of PyTorch's CUDA allocator in bytes."""

_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


class AllocationTracker(contextlib.ExitStack):
    """Counts the bytes of live tensors that are created inside its `with` block, on the meta device.

    Tensors from before the block, such as weights, are not counted. Operations that a GPU runs as one kernel
    are counted without intermediate results: attention without its score matrix, the root-mean-square norm
    without squares. Convolutions keep the memory layout of their input. Workspace inside library kernels is
    invisible.
    """

    def __init__(self) -> None:
        """Count from zero."""
        super().__init__()
        self.live_bytes = 0
        self.peak_bytes = 0
        # Weak references beside the ids, because an id is reused after its object is freed.
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __enter__(self) -> "AllocationTracker":
        """Start counting."""
        super().__enter__()
        self.enter_context(_StorageObserver(self._ignore, self._count))
        self.enter_context(FusedKernels())
        return self

    @contextlib.contextmanager
    def stage(self, peaks: dict[str, int], name: str) -> Iterator[None]:
        """Store the peak of a block in `peaks[name]`, including tensors from before; keep a higher value."""
        self.peak_bytes = self.live_bytes
        yield
        peaks[name] = max(peaks.get(name, 0), self.peak_bytes)

    def _ignore(self, tensor: Tensor) -> None:
        """Mark an input that was created before tracking as not counted."""
        storage = tensor.untyped_storage()
        if not self._knows(storage):
            self._known[id(storage)] = weakref.ref(storage)

    def _count(self, tensor: Tensor) -> None:
        """Count an output, unless it is a view of a known storage."""
        storage = tensor.untyped_storage()
        if self._knows(storage):
            return
        num_bytes = -(-storage.nbytes() // GRANULE) * GRANULE
        self._known[id(storage)] = weakref.ref(storage, self._forget(id(storage), num_bytes))
        self.live_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def _knows(self, storage: torch.UntypedStorage) -> bool:
        known = self._known.get(id(storage))
        return known is not None and known() is storage

    def _forget(self, key: int, num_bytes: int) -> Callable[[object], None]:
        def forget(reference: object) -> None:
            self.live_bytes -= num_bytes
            if self._known.get(key) is reference:
                del self._known[key]

        return forget


class _StorageObserver(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Passes the inputs and outputs of every operator to two callables."""

    def __init__(self, ignore: Callable[[Tensor], None], count: Callable[[Tensor], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._ignore = ignore
        self._count = count

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self._ignore(leaf)
        result = func(*args, **(kwargs or {}))
        # The meta device returns contiguous results, where cuDNN keeps the channels-last layout of its input.
        if func is torch.ops.aten.convolution.default:
            result = _in_layout_of(result, args[0])
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        return result


class FusedKernels(TorchFunctionMode):
    """Replaces functions that are decomposed on the meta device and are one kernel on a GPU."""

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            # Fused kernels return the layout of the queries. All values are as wide as their queries here.
            return torch.empty_like(args[0])
        if func is F.rms_norm:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


def _in_layout_of(result: Tensor, like: Tensor) -> Tensor:
    layout = _LAYOUTS.get(like.ndim)
    if layout is None or not like.is_contiguous(memory_format=layout):
        return result
    return torch.empty_like(result, memory_format=layout)
