import pytest

from livetalk.ops.kernels.parts import MAX_PARTS, MIN_PART, split_width


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (1, ((0, 1),)),
        (88, ((0, 128),)),
        (512, ((0, 512),)),
        (1624, ((0, 1024), (1024, 1024))),
        (5120, ((0, 4096), (4096, 1024))),
        (13_824, ((0, 8192), (8192, 4096), (12_288, 1024), (13_312, 512))),
        (100_000, ((0, 65_536), (65_536, 32_768), (98_304, 1024), (99_328, 1024))),
    ],
)
def test_rows_are_split_into_powers_of_two(width: int, expected: tuple[tuple[int, int], ...]) -> None:
    assert split_width(width) == expected


@pytest.mark.parametrize("width", [*range(1, 300), *range(511, 20_000, 997)])
def test_parts_cover_a_row_with_few_idle_lanes(width: int) -> None:
    parts = split_width(width)
    assert 1 <= len(parts) <= MAX_PARTS
    end = 0
    for start, size in parts:
        assert start == end < width and size & (size - 1) == 0
        end = start + size
    assert width <= end < 2 * width
    assert end - width < max(MIN_PART, parts[-1][1])
