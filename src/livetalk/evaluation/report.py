"""Results as JSON and as tables."""

import math
from collections.abc import Mapping, Sequence

from livetalk.evaluation.measure import Column
from livetalk.evaluation.suite import ClipResult, SuiteResult

Json = dict[str, object]


def clip_to_json(result: ClipResult) -> Json:
    """Return name, video and values of one clip; unknown values are null."""
    return {
        "name": result.inputs.name,
        "video": str(result.inputs.video),
        "is_control": result.inputs.is_control,
        **{name: _plain(value) for name, value in result.values.items()},
    }


def suite_to_json(suite: SuiteResult) -> Json:
    """Return the values of all clips and the statistics across them."""
    return {
        "medians": {key: _plain(value) for key, value in suite.medians.items()},
        "control_correlation": _plain(suite.control_correlation),
        "crossed_correlation": _plain(suite.crossed_correlation),
        "across_identities": _plain(suite.across_identities),
        "failures": list(suite.failures),
        "clips": [clip_to_json(result) for result in suite.clips],
    }


def format_clip(result: ClipResult) -> str:
    """Return one line per known value."""
    known = {name: _plain(value) for name, value in result.values.items()}
    return "\n".join(f"{key:28}{value}" for key, value in known.items() if value is not None)


def format_suite(suite: SuiteResult) -> str:
    """Return a Markdown table of all clips and their medians, followed by the statistics across clips."""
    columns = {
        value.name: value.column
        for measure in suite.measures
        for value in measure.values
        if value.column is not None
    }
    rows = [["clip", *(column.heading for column in columns.values())]]
    for result in suite.clips:
        name = result.inputs.name + (" (control)" if result.inputs.is_control else "")
        rows.append([name, *_cells(columns, result.values)])
    rows.append(["median", *_cells(columns, suite.medians)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [_line(row, widths) for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    across = {
        "control correlation": suite.control_correlation,
        "crossed correlation": suite.crossed_correlation,
        "5th percentile across identities": suite.across_identities,
    }
    lines += ["", *(f"{key}: {_cell(value, '.2f')}" for key, value in across.items())]
    lines += [f"not measured: {failure}" for failure in suite.failures]
    return "\n".join(lines)


def _cells(columns: Mapping[str, Column], values: Mapping[str, float]) -> list[str]:
    return [_cell(values[name], column.form) for name, column in columns.items()]


def _cell(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (
        cell.ljust(width) if column == 0 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "| " + " | ".join([first, *rest]) + " |"


def _plain(value: float) -> float | int | None:
    if isinstance(value, int):
        return value
    # JSON has no NaN and no infinity.
    return round(value, 4) if math.isfinite(value) else None
