"""What a measure is: a name, what it needs, the values that it gives, and the function that finds them.

A measure is one module of `measures/` with a constant `MEASURE`, listed once in `registry.py`. The suite, the
reports and the table in docs/evaluation.md take everything else from that constant.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from livetalk.evaluation.clip import Clip, Need
from livetalk.evaluation.signals import Signal

COUNT = "count"
"""Unit of a value that says how many things were looked at; reports list these values first."""


@dataclass(frozen=True, slots=True)
class Column:
    """How a value appears in the table of a suite.

    Attributes:
        heading: a short word.
        form: format specification, such as ".2f".
    """

    heading: str
    form: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One number that a measure gives.

    Attributes:
        name: key in JSON and in every report; unique among all measures.
        unit: of the number, in words; `COUNT` for a number of things.
        meaning: one phrase in Markdown, for docs/evaluation.md.
        good: what a good video has, likewise; empty where nothing is good by itself.
        column: of the suite's table; None leaves the value out of it.
    """

    name: str
    unit: str
    meaning: str
    good: str = ""
    column: Column | None = None

    @property
    def unknown(self) -> float:
        """What stands for the value where the clip lacks what the measure needs: NaN, or no things at all."""
        return 0 if self.unit == COUNT else float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A way to judge a clip.

    Attributes:
        name: unique, for people.
        values: what it gives, in the order of reports.
        find: returns each value by name; NaN for one that is unknown.
        needs: what a clip must provide; where something is missing, `find` is not called.
        signals: what it reads from `Clip.track.signals`.
    """

    name: str
    values: tuple[Value, ...]
    find: Callable[[Clip], Mapping[str, float]]
    needs: frozenset[Need] = frozenset()
    signals: tuple[Signal, ...] = ()

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
    """Return the signals that several measures read, each once."""
    return list(dict.fromkeys(signal for measure in measures for signal in measure.signals))
