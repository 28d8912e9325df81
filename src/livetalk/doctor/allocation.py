"""Memory that a computation needs, found by running it on the meta device: shapes only, no numbers.

The code that runs is the product's own, so its temporaries live exactly as long here as they do on a GPU.
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
"""CUDA's allocator hands out multiples of this many bytes."""

_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


class AllocationTracker(contextlib.ExitStack):
    """Counts the bytes of all tensors made inside its `with` block, for as long as each of them lives.

    Weights and whatever else was there before are left out. Use it around code that works on the meta
    device. Kernels that a GPU has in one piece are counted so: attention without its matrix of scores, the
    root-mean-square norm without its squares, convolutions in the layout of their input. Work space that
    libraries take inside a kernel is not seen.
    """

    def __init__(self) -> None:
        """Count from zero."""
        super().__init__()
        self.live_bytes = 0
        self.peak_bytes = 0
        # References, for an address is used again once its owner is gone.
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __enter__(self) -> "AllocationTracker":
        """Start counting."""
        super().__enter__()
        self.enter_context(_StorageWatch(self._meet, self._count))
        self.enter_context(FusedKernels())
        return self

    @contextlib.contextmanager
    def stage(self, peaks: dict[str, int], name: str) -> Iterator[None]:
        """Note the peak of a stretch of work, what lived before it included.

        Args:
            peaks: where to; a higher value that is already there stays.
            name: under which.
        """
        self.peak_bytes = self.live_bytes
        yield
        peaks[name] = max(peaks.get(name, 0), self.peak_bytes)

    def _meet(self, tensor: Tensor) -> None:
        """Leave out what an operator is given and nobody has seen being made: it was there before."""
        storage = tensor.untyped_storage()
        if not self._knows(storage):
            self._known[id(storage)] = weakref.ref(storage)

    def _count(self, tensor: Tensor) -> None:
        """Count what an operator returns, unless it only shows something known."""
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


class _StorageWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Shows what every operator is given and what it returns to two callables."""

    def __init__(self, meet: Callable[[Tensor], None], count: Callable[[Tensor], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._meet = meet
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
                self._meet(leaf)
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            result = _in_layout_of(result, args[0])
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        return result


class FusedKernels(TorchFunctionMode):
    """Replaces functions that the meta device takes apart and a GPU does not."""

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            # Fused kernels answer in the layout of the queries; heads are as wide as values throughout.
            return torch.empty_like(args[0])
        if func is F.rms_norm:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


def _in_layout_of(result: Tensor, like: Tensor) -> Tensor:
    """Return an empty tensor of the shape of `result` with channels last where those of `like` are."""
    layout = _LAYOUTS.get(like.ndim)
    if layout is None or not like.is_contiguous(memory_format=layout):
        return result
    return torch.empty_like(result, memory_format=layout)
