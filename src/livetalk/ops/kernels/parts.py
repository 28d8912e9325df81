"""Partition of a row into parts whose lengths are powers of two, as Triton's blocks require.

A single power of two would leave lanes idle (3 of 8 at a width of 5,120), which cost registers and
instructions like the others.
"""

Parts = tuple[tuple[int, int], ...]
"""First column and length of each part."""

MAX_PARTS = 4
MIN_PART = 512
"""Length below which the rest of a row becomes one part with idle lanes."""


def split_width(width: int) -> Parts:
    """Return the parts of a row, the longest first; only the last may extend past the end of the row."""
    parts: list[tuple[int, int]] = []
    start = 0
    while start < width:
        rest = width - start
        size = 1 << (rest.bit_length() - 1)
        if size < rest and (size <= MIN_PART or len(parts) == MAX_PARTS - 1):
            size *= 2
        parts.append((start, size))
        start += size
    return tuple(parts)
