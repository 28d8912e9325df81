"""The public offline API: a portrait and audio in, video out, as a file or as a stream."""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Self, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
from livetalk.media.image import ImageInput, Stamp, contact_sheet, load_image, name_image, save_png
from livetalk.media.preview import PreviewSampler
from livetalk.media.video import VideoWriter
from livetalk.streaming.spec import StreamOptions, StreamSpec
from livetalk.types import VideoChunk

Progress = Callable[[int, int], None]

# Written across every frame of a model without real weights, so that nobody takes them for a result.
NOISE_NOTICE = "RANDOM WEIGHTS: THIS IS NOISE"

_logger = get_logger(__name__)


class GenerationInterrupted(KeyboardInterrupt):
    """Ctrl-C during generation.

    Attributes:
        partial: the video of the finished frames; None if there were none.
        num_frames: number of frames in it.
    """

    def __init__(self, partial: Path | None, num_frames: int, fps: int) -> None:
        saved = "nothing was finished yet"
        if partial is not None:
            saved = f"the first {num_frames / fps:.2f} s are in {partial}"
        super().__init__(f"interrupted; {saved}")
        self.partial = partial
        self.num_frames = num_frames


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateResult:
    """The result of `Avatar.generate`."""

    path: Path
    num_frames: int
    fps: int
    duration_seconds: float  # of the audio that was written
    preview: Path | None  # contact sheet of frames; None if not requested


class Avatar:
    """A loaded model. It holds no state of a stream; any number of streams may share it in turns."""

    def __init__(self, model: AvatarModel, backend: Backend[VideoChunk] | None = None) -> None:
        """Wrap a model; `backend` is a `Leader` for several GPUs, None for this process alone."""
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
            model: name of a shipped model, or folder of a native or published checkpoint; a `ModelSource`
                also locates the other parts of a published model.
            run: how the model runs; None selects plain operations on the best device.
            warm_up: call `warm_up` at once.
            progress: called with the bytes of a published transformer that were read, and the total.

        Raises:
            WeightsError: the weights are missing, damaged or do not fit.
            InputError: this machine cannot run `run`, or it needs more than one process.
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
        """Build one of `RANDOM_MODELS`, a model with random weights, for dry runs and benchmarks.

        It takes the memory and the time of the real model. Its frames are noise, and `generate` marks them.
        """
        return cls.load(ModelSource(random_weights=name), run)

    @property
    def fps(self) -> int:
        return self.model.settings.geometry.fps

    @property
    def sample_rate(self) -> int:
        """Samples per second of the audio that `stream` takes."""
        return self.model.settings.geometry.sample_rate

    def warm_up(self, **options: Unpack[StreamOptions]) -> None:
        """Generate two chunks of silence on all GPUs, so that the first real ones are as fast as later ones.

        `options` are those of later streams; `size` and `latents_per_decode` change shapes. `InputError`
        names one that the model cannot use.
        """
        # Compilation, graph capture and allocation happen once per shape, and the first chunk of a stream has
        # another shape than the others.
        spec = StreamSpec.from_options(options)
        plan = plan_stream(self.model, spec)
        black = np.zeros((plan.portrait.height, plan.portrait.width, 3), np.uint8)
        silence = np.zeros(2 * plan.settings.geometry.chunk_samples, np.float32)
        for _ in run_stream(self._backend, self._open(spec, black), [silence]):
            pass

    def generate(
        self,
        image: ImageInput,
        audio: str | os.PathLike[str] | AudioReader,
        output: str | os.PathLike[str],
        *,
        preview: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        progress: Progress | None = None,
        **options: Unpack[StreamOptions],
    ) -> GenerateResult:
        """Generate a video of the portrait speaking the audio: H.264 and AAC, ceil(duration * fps) frames.

        The video appears under its name only when it is complete. Memory does not grow with the length of the
        audio, except in the audio mode "whole", by 128 kB per second.

        Args:
            image: an image file, or an image of Pillow, or pixels as `array_to_rgb` accepts them.
            audio: any audio or video file that FFmpeg reads, or one that `open_audio` opened.
            output: the .mp4 file.
            preview: a .png file with frames from start to end on one sheet.
            overwrite: replace existing files.
            progress: called after each chunk with the finished and the total number of frames.
            **options: see `StreamOptions`.

        Raises:
            InputError: the image, the audio or an option cannot be used.
            OutputError: a result cannot be written; no partial file is left.
            GenerationInterrupted: Ctrl-C; the finished frames are kept beside the output, as they are when a
                worker is lost, memory runs out, or the audio ends early because its file was changed.
        """
        targets = [require_output_file(output, ".mp4", overwrite=overwrite)]
        if preview is not None:
            targets.append(require_output_file(preview, ".png", overwrite=overwrite))
        reader = audio if isinstance(audio, AudioReader) else open_audio(audio)
        spec = StreamSpec.from_options(options)
        plan = plan_stream(self.model, spec)
        portrait = _frame(image, plan)
        require_distinct_files(
            [image, reader.path] if isinstance(image, str | os.PathLike) else [reader.path], targets
        )
        num_frames = reader.num_frames(self.fps)
        writer = VideoWriter(
            targets[0],
            width=plan.portrait.width,
            height=plan.portrait.height,
            fps=self.fps,
            audio=reader,
            metadata=self._describe(plan),
            overwrite=overwrite,
        )
        _logger.info("%s, %d frames", self.model.title, num_frames)
        sampler = PreviewSampler(num_frames if preview is not None else 0)
        blocks = reader.mono_blocks(self.sample_rate)
        chunks = run_stream(self._backend, self._open(spec, portrait), blocks)
        try:
            with contextlib.closing(chunks):
                self._write(chunks, writer, num_frames, sampler, progress)
            seconds = self._finish_audio(writer, reader)
            path = writer.finish()
        except KeyboardInterrupt:
            raise self._interrupted(writer) from None
        except (InputError, PeerLostError, MemoryError, RuntimeError):
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
            duration_seconds=float(seconds),
            preview=sheet,
        )

    def stream(
        self,
        image: ImageInput,
        audio_blocks: Iterable[ArrayLike],
        *,
        progressive: bool = False,
        **options: Unpack[StreamOptions],
    ) -> Iterator[VideoChunk]:
        """Generate video while the audio is arriving; yield whole chunks, or their pieces if `progressive`.

        The last chunk has only the frames that the audio covers.

        Args:
            image: an image file, or an image of Pillow, or pixels as `array_to_rgb` accepts them.
            audio_blocks: [n] of any length, mono, at `sample_rate`, of a type that `to_samples` accepts.
            progressive: yield each piece of `latents_per_decode` latent frames as soon as it is decoded.
            **options: see `StreamOptions`.

        Raises:
            InputError: the image or an option cannot be used; raised at once, not at the first chunk.
        """
        spec = StreamSpec.from_options(options)
        portrait = _frame(image, plan_stream(self.model, spec))
        request = self._open(replace(spec, progressive=progressive), portrait)
        return run_stream(self._backend, request, audio_blocks)

    def _open(self, spec: StreamSpec, portrait: NDArray[np.uint8]) -> OpenStream:
        # The portrait is framed already, and an iterator of chunks cannot be cut.
        spec = replace(spec, crop="none", cuttable=False)
        return OpenStream(stream=next(self._numbers), image=portrait, spec=spec)

    def _describe(self, plan: StreamPlan) -> dict[str, object]:
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
        # Copies to the host and the video encoder run in a thread while the next chunk is generated.
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

    def _finish_audio(self, writer: VideoWriter, reader: AudioReader) -> Fraction:
        """Write the remaining audio, check that nothing is missing, and return its length in seconds."""
        seconds = writer.finish_audio()
        complete = writer.num_frames == reader.num_frames(self.fps)
        if not complete or seconds < reader.duration_seconds - Fraction(1, self.fps):
            read = min(seconds, Fraction(writer.num_frames, self.fps))
            lengths = f"{float(read):.2f} of {float(reader.duration_seconds):.2f} s"
            raise InputError(f"audio {reader.path}: ended after {lengths}; it was changed while it was read")
        return seconds

    def _keep_finished(self, writer: VideoWriter) -> None:
        """Keep what was finished when the work has failed midway, and say where it is."""
        if (partial := writer.save_partial()) is not None:
            _logger.warning("the first %.2f s are in %s", writer.num_frames / self.fps, partial)

    def _interrupted(self, writer: VideoWriter) -> GenerationInterrupted:
        partial = writer.save_partial()
        return GenerationInterrupted(partial, writer.num_frames, self.fps)


def _frame(image: ImageInput, plan: StreamPlan) -> NDArray[np.uint8]:
    size = (plan.portrait.height, plan.portrait.width)
    return frame_portrait(load_image(image), *size, crop=plan.crop, name=name_image(image))
