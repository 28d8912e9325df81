"""The definition of a measure: its name, needs and values, and the function that computes them.

A measure is one module of `measures/` with a constant `MEASURE`, listed once in `registry.py`. The suite, the
reports and the table in docs/evaluation.md derive everything from that constant.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from livetalk.evaluation.clip import Clip, Need
from livetalk.evaluation.signals import Signal

COUNT = "count"
"""Unit of a value that counts measured things; reports list such values first."""


@dataclass(frozen=True, slots=True)
class Column:
    """Column of a value in a suite's table: a short heading and a format specification, such as ".2f"."""

    heading: str
    form: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One number that a measure returns."""

    name: str  # key in JSON and in every report; unique among all measures
    unit: str  # of the number, in words; `COUNT` for a number of things
    meaning: str  # one phrase in Markdown, for docs/evaluation.md
    good: str = ""  # a good video's value, as a phrase; empty if no value is good by itself
    column: Column | None = None  # in the suite's table; None leaves the value out

    @property
    def unknown(self) -> float:
        """The value for a clip that lacks what the measure needs: NaN, or 0 for a count."""
        return 0 if self.unit == COUNT else float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A way to judge a clip.

    Attributes:
        find: returns each value by name, NaN if unknown; called only for clips that provide `needs`.
        signals: entries of `Clip.track.signals` that it reads.
    """

    name: str
    values: tuple[Value, ...]
    find: Callable[[Clip], Mapping[str, float]]  # returns each value by name; NaN if it is unknown
    needs: frozenset[Need] = frozenset()
    signals: tuple[Signal, ...] = ()  # entries of `Clip.track.signals` that it reads

    def take(self, clip: Clip) -> dict[str, float]:
        """Measure a clip.

        Raises:
            InputError: a file of the clip is missing or unusable.
            ValueError: `find` returns other values than the declared ones.
        """
        if not all(clip.provides(need) for need in self.needs):
            return {value.name: value.unknown for value in self.values}
        found = self.find(clip)
        if found.keys() != {value.name for value in self.values}:
            raise ValueError(f"measure {self.name} returned {sorted(found)}")
        return {value.name: found[value.name] for value in self.values}


def list_values(measures: Sequence[Measure]) -> list[Value]:
    """Return the values of several measures in the order of reports: counts first."""
    values = [value for measure in measures for value in measure.values]
    return sorted(values, key=lambda value: value.unit != COUNT)


def list_signals(measures: Sequence[Measure]) -> list[Signal]:
    """Return the signals that several measures read, without duplicates."""
    return list(dict.fromkeys(signal for measure in measures for signal in measure.signals))
