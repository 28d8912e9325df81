"""One stream from start to end, driven in its caller's thread."""

from collections.abc import Generator, Iterable
from typing import TypeVar

from numpy.typing import ArrayLike

from livetalk.engine.backend import Backend
from livetalk.engine.messages import EndAudio, FramesTaken, OpenStream, PushAudio, StreamEnded
from livetalk.engine.scheduler import FramesMade, Prepared, Scheduler, StreamRaised
from livetalk.media.samples import to_samples

F = TypeVar("F")


def run_stream(
    backend: Backend[F], request: OpenStream, blocks: Iterable[ArrayLike]
) -> Generator[F, None, None]:
    """Generate a stream until its audio ends or the caller closes the generator.

    Yields frames in the backend's own form; the backend must have no other user meanwhile. `blocks` is audio
    `[n]` of any length, read on demand. `InputError` if the portrait, an option or the audio cannot be used.
    """
    number = request.stream
    scheduler = Scheduler(backend)
    scheduler.submit(request)
    scheduler.submit(Prepared(number, backend.prepare(request)))
    source = iter(blocks)
    try:
        while True:
            for output in scheduler.step():
                if isinstance(output, FramesMade):
                    # Yielded before they count as read, so that a slow caller delays the next chunk.
                    yield output.frames
                    scheduler.submit(FramesTaken(stream=number, epoch=0, num_frames=output.num_frames))
                elif isinstance(output, StreamRaised):
                    raise output.error
                elif isinstance(output, StreamEnded):
                    return
            if not scheduler.has_work:
                block = next(source, None)
                if block is None:
                    scheduler.submit(EndAudio(stream=number, epoch=0))
                else:
                    scheduler.submit(PushAudio(stream=number, epoch=0, samples=to_samples(block)))
    finally:
        backend.close(number)
