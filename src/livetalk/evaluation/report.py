"""Results as JSON for machines and as a table for people."""

import math
from collections.abc import Sequence
from dataclasses import asdict

from livetalk.evaluation.clip import ClipMeasures, ClipResult
from livetalk.evaluation.suite import SuiteResult

Json = dict[str, object]

_COLUMNS = (
    ("correlation", "corr", ".2f"),
    ("best_lag", "lag", "+.0f"),
    ("relative_correlation", "/truth", ".2f"),
    ("closure_recall", "closed", ".2f"),
    ("closure_chance", "luck", ".2f"),
    ("silence_opening", "silence", ".2f"),
    ("identity_distance", "id", ".2f"),
    ("identity_distance_max", "id max", ".2f"),
    ("seam_ratio", "seam", ".2f"),
    ("seam_z_score", "seam z", "+.1f"),
    ("blinks_per_minute", "blinks", ".0f"),
    ("sharpness", "sharp", ".0f"),
    ("face_psnr", "psnr", ".1f"),
)
"""Measure, heading and format of the table's columns."""


def clip_to_json(result: ClipResult) -> Json:
    """Return name, video and measures of one clip; what is not known is null."""
    known = {key: _plain(value) for key, value in asdict(result.measures).items()}
    return {
        "name": result.inputs.name,
        "video": str(result.inputs.video),
        "is_control": result.inputs.is_control,
        **known,
    }


def suite_to_json(suite: SuiteResult) -> Json:
    """Return the measures of all clips and what was found across them."""
    return {
        "medians": {key: _plain(value) for key, value in suite.medians.items()},
        "control_correlation": _plain(suite.control_correlation),
        "crossed_correlation": _plain(suite.crossed_correlation),
        "across_identities": _plain(suite.across_identities),
        "failures": list(suite.failures),
        "clips": [clip_to_json(result) for result in suite.clips],
    }


def format_clip(measures: ClipMeasures) -> str:
    """Return one line per measure that is known."""
    known = {key: _plain(value) for key, value in asdict(measures).items()}
    return "\n".join(f"{key:28}{value}" for key, value in known.items() if value is not None)


def format_suite(suite: SuiteResult) -> str:
    """Return a Markdown table of all clips, their medians and the numbers across them."""
    rows = [["clip", *(heading for _, heading, _ in _COLUMNS)]]
    for result in suite.clips:
        name = result.inputs.name + (" (control)" if result.inputs.is_control else "")
        rows.append([name, *_cells(asdict(result.measures))])
    rows.append(["median", *_cells(suite.medians)])
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


def _cells(measures: dict[str, float]) -> list[str]:
    return [_cell(measures[key], form) for key, _, form in _COLUMNS]


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
    return round(value, 4) if math.isfinite(value) else None
