"""The product in one class: a portrait and a voice in, a talking avatar out, as a file or as a stream."""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, Unpack

import numpy as np
from numpy.typing import NDArray

from livetalk import __version__
from livetalk.assembly.build import build_model
from livetalk.assembly.model import AvatarModel
from livetalk.assembly.run import RunConfig
from livetalk.assembly.source import ModelSource
from livetalk.assembly.stream_plan import StreamPlan, plan_stream
from livetalk.checkpoints.streaming_load import LoadProgress
from livetalk.engine.backend import Backend, HostFrames
from livetalk.engine.messages import OpenStream
from livetalk.engine.offline import run_stream
from livetalk.engine.table import StreamTable
from livetalk.errors import InputError, PeerLostError
from livetalk.log import get_logger
from livetalk.media.audio import AudioReader, open_audio
from livetalk.media.files import require_distinct_files, require_output_file
from livetalk.media.framing import frame_portrait
from livetalk.media.image import Stamp, contact_sheet, load_image, save_png
from livetalk.media.preview import PreviewSampler
from livetalk.media.video import VideoWriter
from livetalk.streaming.spec import StreamOptions, StreamSpec
from livetalk.types import VideoChunk

Image = str | os.PathLike[str] | NDArray[np.uint8]
Progress = Callable[[int, int], None]

NOISE_NOTICE = "RANDOM WEIGHTS: THIS IS NOISE"
"""Written across every picture of a model without real weights."""

_logger = get_logger(__name__)


class GenerationInterrupted(KeyboardInterrupt):
    """Ctrl-C during generation; the message says what was saved.

    Attributes:
        partial: the playable video of what was finished, or None when there was nothing yet.
        num_frames: frames in it.
    """

    def __init__(self, partial: Path | None, num_frames: int, fps: int) -> None:
        """Describe what was saved."""
        saved = "nothing was finished yet"
        if partial is not None:
            saved = f"the first {num_frames / fps:.2f} s are in {partial}"
        super().__init__(f"interrupted; {saved}")
        self.partial = partial
        self.num_frames = num_frames


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateResult:
    """The result of `Avatar.generate`."""

    path: Path  # the video
    num_frames: int  # its frames
    fps: int  # its frames per second
    duration_seconds: float  # length of the sound
    preview: Path | None  # the contact sheet, if one was asked for


class Avatar:
    """A loaded model. It holds no stream's state: any number of streams may use it, one step at a time."""

    def __init__(self, model: AvatarModel, backend: Backend[VideoChunk] | None = None) -> None:
        """Wrap a model from `build_model`.

        Args:
            model: ready to run.
            backend: runs its streams; None is this process alone, a `Leader` all GPUs together.
        """
        self.model = model
        self._backend: Backend[VideoChunk] = StreamTable(model) if backend is None else backend
        self._numbers = itertools.count()

    @classmethod
    def load(
        cls,
        model: str | Path | ModelSource = "embedded",
        run: RunConfig | None = None,
        *,
        warm_up: bool = False,
        progress: LoadProgress | None = None,
    ) -> Self:
        """Load a model into this process.

        Args:
            model: name of a shipped model, or the folder of a checkpoint, ours or a published one; a
                `ModelSource` also names where a published model's other parts are.
            run: how it runs; None is `RunConfig()`, every operation plain on the best device.
            warm_up: call `warm_up` now.
            progress: told the bytes of a published transformer read so far and the bytes to read.

        Raises:
            WeightsError: the weights are missing, damaged or do not fit.
            InputError: something in `run` cannot run here, or asks for more than one process.
        """
        run = run or RunConfig()
        if run.gpus > 1:
            raise InputError(f"gpus {run.gpus}: one process on one GPU is what Avatar.load offers")
        source = model if isinstance(model, ModelSource) else ModelSource(model=model)
        avatar = cls(build_model(source, run, progress=progress))
        if warm_up:
            avatar.warm_up()
        return avatar

    @classmethod
    def with_random_weights(cls, name: str, run: RunConfig | None = None) -> Self:
        """Build the graph of a model without its weights, for dry runs and benchmarks.

        It needs the memory and the time of the real one; what it makes is noise, and every picture of a
        video that `generate` makes says so.

        Args:
            name: of the graph, one of `RANDOM_MODELS`.
            run: as in `load`.

        Raises:
            InputError: there is no such graph, or as in `load`.
        """
        return cls.load(ModelSource(random_weights=name), run)

    @property
    def fps(self) -> int:
        """Frames per second of this model."""
        return self.model.settings.geometry.fps

    @property
    def sample_rate(self) -> int:
        """Samples per second of the audio that `stream` takes."""
        return self.model.settings.geometry.sample_rate

    def warm_up(self, **options: Unpack[StreamOptions]) -> None:
        """Make two chunks of silence, on all GPUs, so that the first real ones are no slower than later ones.

        The first chunk of a stream and all others differ in shape, and what is compiled, captured or
        allocated for a shape is so when it is first met.

        Args:
            **options: of the streams to come, see `StreamOptions`; `size` and `latents_per_decode` change
                shapes.

        Raises:
            InputError: an option cannot be used.
        """
        spec = StreamSpec.from_options(options)
        plan = plan_stream(self.model, spec)
        black = np.zeros((plan.portrait.height, plan.portrait.width, 3), np.uint8)
        silence = np.zeros(2 * plan.settings.geometry.chunk_samples, np.float32)
        for _ in run_stream(self._backend, self._open(spec, black), [silence]):
            pass

    def generate(
        self,
        image: Image,
        audio: str | os.PathLike[str] | AudioReader,
        output: str | os.PathLike[str],
        *,
        preview: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        progress: Progress | None = None,
        **options: Unpack[StreamOptions],
    ) -> GenerateResult:
        """Generate a video of the portrait speaking the audio: H.264 and AAC, ceil(duration * fps) frames.

        Memory does not grow with the length of the sound (in the audio mode "whole" by the sound itself,
        128 kB a second). The video appears under its name only when it is complete.

        Args:
            image: a picture file, or pixels [H, W, 3], uint8, RGB.
            audio: any audio or video file that FFmpeg reads, or one that `open_audio` opened.
            output: the .mp4 to make.
            preview: a .png to make as well: frames from start to end on one sheet.
            overwrite: replace files that already exist.
            progress: called after each chunk with the frames done and the frames in all.
            **options: of the stream, see `StreamOptions`.

        Raises:
            InputError: the image, the sound or an option cannot be used.
            OutputError: a result cannot be written; nothing half-written is left behind.
            GenerationInterrupted: Ctrl-C; what was finished is kept beside the output, as it is when a worker
                is lost or memory runs out.
        """
        targets = [require_output_file(output, ".mp4", overwrite=overwrite)]
        if preview is not None:
            targets.append(require_output_file(preview, ".png", overwrite=overwrite))
        sound = audio if isinstance(audio, AudioReader) else open_audio(audio)
        spec = StreamSpec.from_options(options)
        plan = plan_stream(self.model, spec)
        portrait = _frame(image, plan)
        require_distinct_files(
            [sound.path] if isinstance(image, np.ndarray) else [image, sound.path], targets
        )
        num_frames = sound.num_frames(self.fps)
        writer = VideoWriter(
            targets[0],
            width=plan.portrait.width,
            height=plan.portrait.height,
            fps=self.fps,
            audio=sound,
            metadata=self._describe(plan),
            overwrite=overwrite,
        )
        _logger.info("%s, %d frames", self.model.title, num_frames)
        sampler = PreviewSampler(num_frames if preview is not None else 0)
        blocks = sound.mono_blocks(self.sample_rate)
        chunks = run_stream(self._backend, self._open(spec, portrait), blocks)
        try:
            with contextlib.closing(chunks):
                self._write(chunks, writer, num_frames, sampler, progress)
            path = writer.finish()
        except KeyboardInterrupt:
            raise self._interrupted(writer) from None
        except (PeerLostError, MemoryError, RuntimeError):
            self._keep_finished(writer)
            raise
        finally:
            writer.discard()
        sheet = None
        if preview is not None:
            sheet = save_png(targets[1], contact_sheet(sampler.frames), overwrite=overwrite)
        return GenerateResult(
            path=path,
            num_frames=writer.num_frames,
            fps=self.fps,
            duration_seconds=float(sound.duration_seconds),
            preview=sheet,
        )

    def stream(
        self,
        image: Image,
        audio_blocks: Iterable[NDArray[np.float32]],
        *,
        progressive: bool = False,
        **options: Unpack[StreamOptions],
    ) -> Iterator[VideoChunk]:
        """Generate chunks of video while the audio is still arriving.

        Args:
            image: a picture file, or pixels [H, W, 3], uint8, RGB.
            audio_blocks: sound as it arrives, [n] of any length, float32, -1..1, mono, at `sample_rate`.
            progressive: hand over frames as they are decoded, several times a chunk, instead of whole chunks;
                the option `latents_per_decode` says after how many.
            **options: of the stream, see `StreamOptions`.

        Returns:
            An iterator of chunks, or of what was decoded of them; the last one has only the frames that the
            sound covers.

        Raises:
            InputError: the image or an option cannot be used; raised at once, not at the first chunk.
        """
        spec = StreamSpec.from_options(options)
        portrait = _frame(image, plan_stream(self.model, spec))
        request = self._open(replace(spec, progressive=progressive), portrait)
        return run_stream(self._backend, request, audio_blocks)

    def _open(self, spec: StreamSpec, portrait: NDArray[np.uint8]) -> OpenStream:
        """Return the request for a stream of a framed portrait, which is never cut."""
        spec = replace(spec, crop="none", cuttable=False)
        return OpenStream(stream=next(self._numbers), image=portrait, spec=spec)

    def _describe(self, plan: StreamPlan) -> dict[str, object]:
        """Return the metadata of a video: model, options, precision."""
        return {
            "software": f"livetalk {__version__}",
            "model": self.model.name,
            "model_version": self.model.version,
            **plan.describe(),
            "precision": self.model.precision,
            "device": self.model.executor.device.type,
            **({"acceleration": str(self.model.acceleration)} if self.model.acceleration else {}),
            "synthetic": True,
            **({"notice": NOISE_NOTICE} if self.model.random_weights else {}),
        }

    def _write(
        self,
        chunks: Iterator[VideoChunk],
        writer: VideoWriter,
        num_frames: int,
        sampler: PreviewSampler,
        progress: Progress | None,
    ) -> None:
        """Copy and encode chunks while the next ones are generated."""
        stamp = Stamp(NOISE_NOTICE) if self.model.random_weights else None

        def finish(first_frame: int, pending: HostFrames) -> None:
            frames = pending.wait()
            if stamp is not None:
                frames = stamp.apply(frames)
            sampler.observe(first_frame, frames)
            writer.write(frames)

        done = 0
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="encoder") as pool:
            encoding: Future[None] | None = None
            for chunk in chunks:
                pending = self._backend.start_copy(chunk)
                if encoding is not None:
                    encoding.result()
                encoding = pool.submit(finish, chunk.first_frame, pending)
                done += chunk.pixels.shape[1]
                if progress is not None:
                    progress(done, num_frames)
            if encoding is not None:
                encoding.result()

    def _keep_finished(self, writer: VideoWriter) -> None:
        """Keep what was finished when the work has failed midway, and say where it is."""
        seconds = writer.num_frames / self.fps
        if (partial := writer.save_partial()) is not None:
            _logger.warning("the first %.2f s are in %s", seconds, partial)

    def _interrupted(self, writer: VideoWriter) -> GenerationInterrupted:
        num_frames = writer.num_frames
        partial = writer.save_partial()
        return GenerationInterrupted(partial, num_frames, self.fps)


def _frame(image: Image, plan: StreamPlan) -> NDArray[np.uint8]:
    size = (plan.portrait.height, plan.portrait.width)
    if isinstance(image, np.ndarray):
        return frame_portrait(image, *size, crop=plan.crop)
    return frame_portrait(load_image(image), *size, crop=plan.crop, name=f"image {os.fspath(image)}")
