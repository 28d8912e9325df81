"""A row of any width as parts whose lengths are powers of two, which is what Triton computes with.

One power of two would do, with lanes that have nothing to do: at 5,120 numbers 3 of 8, which cost registers
and instructions like the others.
"""

Parts = tuple[tuple[int, int], ...]
"""The first column and the columns of each part."""

MAX_PARTS = 4
LEAST_PART = 512
"""Columns; what is left and shorter is one part with lanes to spare."""


def split_width(width: int) -> Parts:
    """Return the parts of a row, the longest first; only the last may reach past the row's end.

    Args:
        width: of the row, at least 1.
    """
    parts: list[tuple[int, int]] = []
    start = 0
    while start < width:
        rest = width - start
        size = 1 << (rest.bit_length() - 1)
        if size < rest and (size <= LEAST_PART or len(parts) == MAX_PARTS - 1):
            size *= 2
        parts.append((start, size))
        start += size
    return tuple(parts)
