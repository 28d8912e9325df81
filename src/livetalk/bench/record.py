"""The record of one measurement, as it is kept in a file: complete, dated, read back strictly."""

import dataclasses
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, get_type_hints

from livetalk.bench.spans import StageTiming
from livetalk.errors import InputError

UNKNOWN_COMMIT = "unknown"
_COMMIT = re.compile(rf"[0-9a-f]{{40}}(-dirty)?|{UNKNOWN_COMMIT}")
_SIZE = re.compile(r"[1-9]\d*x[1-9]\d*")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRecord:
    """What was measured, on what, and how.

    Times are milliseconds; gigabytes are 10^9 bytes, of the first GPU, or of the process where there is none.

    Attributes:
        model: its name.
        random_weights: the weights were random numbers.
        gpu: name of the GPU, or of the processor where `num_gpus` is 0.
        num_gpus: GPUs that shared the stream.
        num_workers: processes that shared it.
        threads: CPU threads of a process.
        size: of the picture, HEIGHTxWIDTH.
        precision: of the transformer and the VAE.
        weights: form of the transformer's weights.
        attention: kernel of the self-attention.
        options: everything else that was asked for, as on the command line.
        steps: denoising steps.
        window_frames: frames of a window.
        chunk_frames: new frames of a chunk.
        chunks: chunks that were measured, after `warm_up` others.
        warm_up: chunks before them.
        fps: frames made in a second, over all measured chunks.
        real_time_factor: time of computing over time of playing; below 1 is live.
        chunk_ms_median: from frames in host memory to the next chunk's frames in host memory.
        chunk_ms_p95: 19 of 20 chunks take no longer.
        first_frame_ms: from the sound of a stream's first chunk in hand to its frames in host memory, median.
        first_frame_progressive_ms: likewise, to the first of them where they leave as they are decoded; None
            in records that are older than this.
        stages: of a single call each.
        peak_memory_gb: at the peak of the measured chunks; without a GPU of the process's whole life.
        peak_reserved_gb: that the process took from the GPU, loading included; None without one.
        memory_growth_gb: more at the end of the measured chunks than at their start; None without a GPU.
        load_seconds: to build the model.
        system: operating system, PyTorch, CUDA, driver, clocks, by name.
        commit: of the source, 40 hexadecimal digits, "-dirty" behind them where files were changed, or
            "unknown".
        date: UTC, to the second.
    """

    model: str
    random_weights: bool
    gpu: str
    num_gpus: int
    num_workers: int
    threads: int
    size: str
    precision: str
    weights: str
    attention: str
    options: tuple[str, ...]
    steps: int
    window_frames: int
    chunk_frames: int
    chunks: int
    warm_up: int
    fps: float
    real_time_factor: float
    chunk_ms_median: float
    chunk_ms_p95: float
    first_frame_ms: float
    first_frame_progressive_ms: float | None = None
    stages: dict[str, StageTiming]
    peak_memory_gb: float
    peak_reserved_gb: float | None
    memory_growth_gb: float | None
    load_seconds: float
    system: dict[str, str]
    commit: str
    date: str

    def __post_init__(self) -> None:
        """Refuse what cannot be: it would be quoted."""
        require_commit(self.commit)
        if not _SIZE.fullmatch(self.size):
            raise InputError(f"bench record: size {self.size} is not HEIGHTxWIDTH")
        positive = [self.fps, self.chunk_ms_median, self.first_frame_ms, self.steps, self.chunks]
        if self.first_frame_progressive_ms is not None:
            positive.append(self.first_frame_progressive_ms)
        if min(positive) <= 0 or self.chunk_ms_p95 < self.chunk_ms_median or not self.stages:
            raise InputError("bench record: its times cannot be")
        when = datetime.fromisoformat(self.date)
        if when.utcoffset() is None:
            raise InputError(f"bench record: date {self.date} names no time zone")

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            InputError: a field is missing, unknown, of another type, or cannot be.
        """
        try:
            read = json.loads(text)
            hints = get_type_hints(cls)
            # A field that has a default came later than the first records.
            needed = {each.name for each in dataclasses.fields(cls) if each.default is dataclasses.MISSING}
            if not isinstance(read, dict) or not needed <= read.keys() <= hints.keys():
                raise InputError("bench record: its fields are not those of a record")
            read["options"] = tuple(read["options"])
            for name, value in read.items():
                _require_type(name, value, hints[name])
            read["stages"] = {name: _stage(value) for name, value in read["stages"].items()}
            return cls(**read)
        except (ValueError, TypeError) as error:
            raise InputError(f"bench record: {error}") from error

    def save(self, path: Path) -> None:
        """Write the record, and nothing else, to a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file that `save` wrote.

        Raises:
            InputError: it cannot be read, or is no record.
        """
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"bench record {path}: {error.strerror}") from error


def require_commit(commit: str) -> None:
    """Refuse what is not 40 hexadecimal digits, with or without "-dirty" behind them, or "unknown".

    Raises:
        InputError: it is not.
    """
    if not _COMMIT.fullmatch(commit):
        raise InputError(f"commit {commit}: is not one, 40 hexadecimal digits")


def now() -> str:
    """Return the time as a record's date."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _require_type(name: str, value: object, hint: Any) -> None:
    """Refuse a value that is not what a field of a record holds."""
    kinds = {float: (float, int), float | None: (float, int, type(None))}
    wanted = kinds.get(hint) or (getattr(hint, "__origin__", hint),)
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        raise InputError(f"bench record: {name} cannot be {value!r}")


def _stage(value: dict[str, Any]) -> StageTiming:
    stage = StageTiming(**value)
    if not 0 <= stage.median_ms <= stage.p95_ms or stage.per_chunk < 1 or stage.chunk_ms < 0:
        raise InputError("bench record: the times of a stage cannot be")
    return stage
