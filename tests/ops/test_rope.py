"""Properties of rotary positions, and equality of both forms of the rotation."""

import pytest
import torch

from livetalk.ops.rope import (
    apply_rope,
    axis_widths,
    grid_positions,
    rope_tables,
    rotate_complex,
    rotate_real,
)
from tolerance import assert_near, rounding


@pytest.mark.parametrize(
    ("head_dim", "widths"), [(128, (44, 42, 42)), (64, (24, 20, 20)), (32, (12, 10, 10))]
)
def test_axis_widths(head_dim: int, widths: tuple[int, int, int]) -> None:
    assert axis_widths(head_dim) == widths


@pytest.mark.parametrize("head_dim", [63, 4, 0])
def test_axis_widths_refuses(head_dim: int) -> None:
    with pytest.raises(ValueError, match="head_dim"):
        axis_widths(head_dim)


def test_grid_positions_run_over_columns_first() -> None:
    positions = grid_positions(2, 2, 3)
    assert positions.shape == (12, 3)
    assert positions[:4].tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0]]
    assert positions[-1].tolist() == [1, 1, 2]


def test_scores_depend_on_position_differences_only() -> None:
    q, k = torch.randn(2, 1, 1, 1, 16, generator=torch.Generator().manual_seed(0))

    def score(a: list[int], b: list[int]) -> torch.Tensor:
        tables = [rope_tables(torch.tensor([p]), 16) for p in (a, b)]
        return (apply_rope(q, tables[0]) * apply_rope(k, tables[1])).sum()

    near, far = score([1, 2, 3], [2, 5, 1]), score([101, 52, 33], [102, 55, 31])
    # Rotations are rounded by a share of the vectors, and so is the sum of their products.
    limit = rounding(16) * float(q.norm() * k.norm())
    assert (near - far).abs() < limit
    assert (near - score([1, 2, 3], [2, 6, 1])).abs() > 100 * limit


def test_every_axis_rotates_its_own_pairs() -> None:
    widths = axis_widths(32)
    starts = [0, widths[0], widths[0] + widths[1]]
    for axis in range(3):
        position = torch.zeros(1, 3, dtype=torch.int64)
        position[0, axis] = 5
        changed = apply_rope(torch.ones(1, 1, 1, 32), rope_tables(position, 32)).flatten() != 1
        inside = torch.zeros(32, dtype=torch.bool)
        inside[starts[axis] : starts[axis] + widths[axis]] = True
        assert torch.equal(changed, inside)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_rotations_agree(dtype: torch.dtype) -> None:
    x = torch.randn(2, 12, 3, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    rope = rope_tables(grid_positions(2, 2, 3), 32)
    real, complex_ = rotate_real(x, rope), rotate_complex(x, rope)
    assert real.dtype == complex_.dtype == torch.float32
    assert_near(real, complex_, rounding(2))
