"""The record of one measurement, as JSON that is parsed strictly."""

import dataclasses
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, get_type_hints

from livetalk.bench.spans import StageTiming
from livetalk.errors import UNSUITABLE_CONTENT, InputError
from livetalk.media.files import write_text_file

UNKNOWN_COMMIT = "unknown"
_COMMIT = re.compile(rf"[0-9a-f]{{40}}(-dirty)?|{UNKNOWN_COMMIT}")
_SIZE = re.compile(r"[1-9]\d*x[1-9]\d*")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRecord:
    """Results, hardware and settings of one measurement.

    Gigabytes are 10^9 bytes, of the first GPU, or of the process on a CPU.

    Attributes:
        first_frame_progressive_ms: from the same audio to the first decoded piece, median; None in records
            older than the field.
        peak_reserved_gb: reserved by the process on the GPU, including loading; None without a GPU.
    """

    model: str
    random_weights: bool
    gpu: str  # name of the GPU, or of the CPU if `num_gpus` is 0
    num_gpus: int
    num_workers: int  # processes per stream
    threads: int  # CPU threads of each process
    size: str  # HEIGHTxWIDTH
    precision: str  # of the transformer and the VAE
    weights: str  # storage of the transformer's weights
    attention: str
    options: tuple[str, ...]  # all other options, as on the command line
    steps: int
    window_frames: int
    chunk_frames: int
    chunks: int
    warm_up: int
    fps: float  # frames computed per second, over all measured chunks
    real_time_factor: float  # compute time divided by playing time; below 1 is live
    chunk_ms_median: float  # from one chunk's frames in host memory to the next chunk's
    chunk_ms_p95: float
    first_frame_ms: float  # from the audio of a stream's first chunk to its frames in host memory, median
    first_frame_progressive_ms: float | None = None
    stages: dict[str, StageTiming]
    peak_memory_gb: float  # during the measured chunks; without a GPU, since the start of the process
    peak_reserved_gb: float | None
    memory_growth_gb: float | None  # from the start to the end of the measured chunks; None without a GPU
    load_seconds: float
    system: dict[str, str]  # operating system, PyTorch, CUDA, driver and clocks, by name
    commit: str  # 40 hexadecimal digits, with the suffix "-dirty" if files were modified, or "unknown"
    date: str  # ISO 8601 with a time zone, to the second

    def __post_init__(self) -> None:
        """Raise `InputError` for impossible values, because the documentation quotes records."""
        require_commit(self.commit)
        if not _SIZE.fullmatch(self.size):
            raise InputError(f"bench record: size {self.size} is not HEIGHTxWIDTH")
        positive = [self.fps, self.chunk_ms_median, self.first_frame_ms, self.steps, self.chunks]
        if self.first_frame_progressive_ms is not None:
            positive.append(self.first_frame_progressive_ms)
        if min(positive) <= 0 or self.chunk_ms_p95 < self.chunk_ms_median or not self.stages:
            raise InputError("bench record: its times are impossible")
        when = datetime.fromisoformat(self.date)
        if when.utcoffset() is None:
            raise InputError(f"bench record: date {self.date} names no time zone")

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse the output of `to_json`; `InputError` for missing, unknown or impossible fields."""
        try:
            read = json.loads(text)
            hints = get_type_hints(cls)
            # Fields with a default were added after the first records were written.
            needed = {each.name for each in dataclasses.fields(cls) if each.default is dataclasses.MISSING}
            if not isinstance(read, dict) or not needed <= read.keys() <= hints.keys():
                raise InputError("bench record: its fields are not those of a record")
            read["options"] = tuple(read["options"])
            for name, value in read.items():
                _require_type(name, value, hints[name])
            read["stages"] = {name: _stage(value) for name, value in read["stages"].items()}
            return cls(**read)
        except UNSUITABLE_CONTENT as error:
            raise InputError(f"bench record: {error}") from error

    def save(self, path: Path, *, overwrite: bool = False) -> Path:
        """Write the record to a file, and create its folder; see `write_text_file`."""
        text = json.dumps(dataclasses.asdict(self), indent=2) + "\n"
        return write_text_file(path, text, overwrite=overwrite)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file written by `save`; `InputError` if that fails."""
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"bench record {path}: {error.strerror}") from error


def require_commit(commit: str) -> None:
    """Raise `InputError` unless a commit is 40 hexadecimal digits, maybe with "-dirty", or "unknown"."""
    if not _COMMIT.fullmatch(commit):
        raise InputError(f"commit {commit}: is not 40 hexadecimal digits")


def now() -> str:
    """Return the current UTC time in the format of `BenchRecord.date`."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _require_type(name: str, value: object, hint: Any) -> None:
    kinds = {float: (float, int), float | None: (float, int, type(None))}
    # JSON has no difference between 1 and 1.0, and a bool is an int in Python.
    wanted = kinds.get(hint) or (getattr(hint, "__origin__", hint),)
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        raise InputError(f"bench record: {name} cannot be {value!r}")


def _stage(value: dict[str, Any]) -> StageTiming:
    stage = StageTiming(**value)
    if not 0 <= stage.median_ms <= stage.p95_ms or stage.per_chunk < 1 or stage.chunk_ms < 0:
        raise InputError("bench record: the times of a stage are impossible")
    return stage
