"""What an engine does next, on a clock that only work moves."""

import numpy as np
import pytest
from numpy.typing import NDArray

from livetalk.engine.double import DoubleBackend, DoubleConfig, read_mark
from livetalk.engine.messages import (
    CloseStream,
    CutStream,
    EndAudio,
    FramesTaken,
    OpenStream,
    PushAudio,
    StopEngine,
    StreamClosed,
    StreamCut,
    StreamEnded,
    TakeSnapshot,
)
from livetalk.engine.scheduler import FramesMade, Output, Prepared, Scheduler, StreamRaised
from livetalk.errors import PeerLostError
from livetalk.streaming.spec import StreamSpec

CONFIG = DoubleConfig(chunk_frames=10, piece_frames=5, prepare_seconds=0.0, real_time_factor=0.5)
FRAME = 640
IMAGE = np.ones((64, 64, 3), np.uint8)


class Drive:
    """A scheduler over a double, with a clock of its own."""

    def __init__(self, config: DoubleConfig = CONFIG) -> None:
        self.now = 0.0
        self.backend = DoubleBackend(config, self.pass_time)
        self.scheduler: Scheduler[NDArray[np.uint8]] = Scheduler(self.backend, lambda: self.now)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def open(self, stream: int, num_frames: int = 0, **spec: object) -> None:
        """Open a stream and push audio."""
        request = OpenStream(stream=stream, image=IMAGE, spec=StreamSpec(**spec))  # type: ignore[arg-type]
        self.scheduler.submit(request)
        self.scheduler.submit(Prepared(stream, self.backend.prepare(request)))
        self.push(stream, num_frames)

    def push(self, stream: int, num_frames: int, epoch: int = 0) -> None:
        samples = np.zeros(num_frames * FRAME, np.float32)
        self.scheduler.submit(PushAudio(stream=stream, epoch=epoch, samples=samples))

    def run(self, max_steps: int = 1000, *, take: bool = True) -> list[Output[NDArray[np.uint8]]]:
        """Step until there is nothing to do, and return all outputs."""
        outputs = []
        for _ in range(max_steps):
            worked = self.scheduler.has_work
            new = self.scheduler.step()
            outputs += new
            for output in new:
                if take and isinstance(output, FramesMade):
                    self.scheduler.submit(
                        FramesTaken(stream=output.stream, epoch=output.epoch, num_frames=output.num_frames)
                    )
            if not worked:
                break
        return outputs


def frames(outputs: list[Output[NDArray[np.uint8]]]) -> list[tuple[int, int, int]]:
    """Return stream, first frame and number of everything that was made."""
    return [(o.stream, o.first_frame, o.num_frames) for o in outputs if isinstance(o, FramesMade)]


def test_the_stream_whose_viewer_runs_out_first_goes_first() -> None:
    drive = Drive()
    drive.open(1, 100)
    drive.run(4)
    # Three chunks of the first were delivered: it can be shown for 0.8 s more, the newcomers not at all.
    drive.open(2, 100)
    drive.open(3, 100)
    made = frames(drive.run(6))
    assert [stream for stream, _, _ in made] == [2, 3, 2, 1]


def test_streams_take_turns_between_pieces() -> None:
    drive = Drive()
    for stream in (1, 2):
        drive.open(stream, 20, progressive=True)
    made = frames(drive.run())
    assert [stream for stream, _, _ in made[:4]] == [1, 2, 1, 2]
    assert [m for m in made if m[0] == 1] == [(1, 0, 5), (1, 5, 5), (1, 10, 5), (1, 15, 5)]


def test_a_stream_that_waited_for_audio_is_late_only_since_then() -> None:
    drive = Drive()
    drive.open(1, 10)
    drive.run()
    drive.now += 100.0
    drive.open(2, 10)
    drive.push(1, 10)
    # The viewer of the first has waited long, and is due no later than that of the newcomer.
    assert [stream for stream, _, _ in frames(drive.run())] == [1, 2]
    drive.push(1, 20)
    drive.push(2, 20)
    # Its long wait is over: one chunk later it is nobody's turn twice.
    assert [stream for stream, _, _ in frames(drive.run())] == [1, 2, 1, 2]


def test_a_stream_that_is_not_read_stops_at_its_limit() -> None:
    drive = Drive()
    drive.open(1, 100)
    assert sum(n for _, _, n in frames(drive.run(take=False))) == 10
    drive.scheduler.submit(FramesTaken(stream=1, epoch=0, num_frames=1))
    assert sum(n for _, _, n in frames(drive.run(take=False))) == 10
    assert not drive.scheduler.has_work


def test_a_cut_comes_before_frames_and_forgets_those_that_wait() -> None:
    drive = Drive()
    drive.open(1, 100, progressive=True)
    drive.open(2, 100)
    drive.run(4, take=False)
    drive.scheduler.submit(CutStream(stream=1, epoch=1, num_frames=3))
    drive.push(1, 4, epoch=0)
    drive.push(1, 4, epoch=1)
    drive.scheduler.submit(EndAudio(stream=1, epoch=1))
    outputs = drive.run()
    assert isinstance(outputs[0], StreamCut) and outputs[0].num_samples == 3 * FRAME
    made = [o for o in outputs if isinstance(o, FramesMade) and o.stream == 1]
    assert [read_mark(frame) for o in made for frame in o.frames] == [(n, 1) for n in range(3, 7)]
    assert [o for o in outputs if isinstance(o, StreamEnded)] == [
        StreamEnded(stream=1, epoch=1, num_frames=7)
    ]


@pytest.mark.parametrize("cut", [(1, 11), (2, 5), (1, -1)])
def test_an_impossible_cut_fails_the_stream(cut: tuple[int, int]) -> None:
    drive = Drive()
    drive.open(1, 10)
    drive.run()
    drive.scheduler.submit(CutStream(stream=1, epoch=cut[0], num_frames=cut[1]))
    assert isinstance(drive.run()[0], StreamRaised) and drive.scheduler.streams == ()


def test_a_snapshot_waits_for_the_end_of_the_chunk() -> None:
    drive = Drive()
    drive.open(1, 20, progressive=True)
    outputs = drive.run(2)
    drive.scheduler.submit(TakeSnapshot(stream=1))
    outputs = drive.run()
    kinds = [type(o).__name__ for o in outputs]
    assert kinds == ["FramesMade", "SnapshotTaken", "FramesMade", "FramesMade"]


def test_requests_for_streams_that_are_gone_have_no_effect() -> None:
    drive = Drive()
    drive.open(1, 10)
    drive.scheduler.submit(CloseStream(stream=1))
    drive.push(1, 10)
    for request in (
        CloseStream(stream=1),
        TakeSnapshot(stream=1),
        CutStream(stream=1, epoch=1, num_frames=0),
        FramesTaken(stream=1, epoch=0, num_frames=1),
    ):
        drive.scheduler.submit(request)
    assert [type(o) for o in drive.run()][1:] == [StreamClosed]


def test_what_is_no_request_about_a_stream_is_refused() -> None:
    drive = Drive()
    drive.open(1)
    with pytest.raises(ValueError, match="open already"):
        drive.open(1)
    with pytest.raises(ValueError, match="only a loop"):
        drive.scheduler.submit(StopEngine())


def test_the_loss_of_the_backend_is_not_the_failure_of_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    drive = Drive()
    drive.open(1, 10)

    def lose(*_: object) -> None:
        raise PeerLostError("gone")

    monkeypatch.setattr(drive.backend, "advance", lose)
    with pytest.raises(PeerLostError):
        drive.run()
