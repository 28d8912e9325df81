"""Rendering of training clips into a `ClipStore`, from a speech corpus."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from livetalk.synthetic.clips import ClipRecord, ClipSpec, ClipStore
from livetalk.synthetic.people.identity import Identity, sample_identity
from livetalk.synthetic.people.widen import widen
from livetalk.synthetic.people.world import World
from livetalk.synthetic.performance.expressions import choose_start, draw_expression, express
from livetalk.synthetic.performance.performance import FACE_UNITS, Performance
from livetalk.synthetic.performance.visemes import FRAMES_PER_SECOND, PhonemeEvent
from livetalk.synthetic.rendering.renderer import Renderer
from livetalk.synthetic.speech.corpus import Corpus

_ADDED_GLASSES = 0.14
"""Share of people without glasses who get some, because small, rare objects are easily lost in training."""


class ClipRenderer:
    """Renders clip specifications to finished clips; `wide_share` of them in a world of `widen`."""

    def __init__(self, renderer: Renderer, corpus: Corpus, wide_share: float = 0.0) -> None:
        self._renderer = renderer
        self._corpus = corpus
        self._wide_share = wide_share

    def render(self, spec: ClipSpec) -> tuple[ClipRecord, NDArray[np.uint8]]:
        """Render one clip: its record and frames [F, H, W, 3], uint8.

        The record's start frame can differ from that of `spec`, see `choose_start`.
        """
        spec, performance = self.perform(spec)
        identity = cast_identity(spec.identity_seed, self._wide_share)
        performance = with_mood(performance, identity.world)
        subject = self._renderer.prepare(identity)
        frames = self._renderer.render(subject, performance)
        face, mouth = self._renderer.boxes(subject, performance)
        opening = self._renderer.lip_opening(subject, performance)
        record = ClipRecord(
            spec=spec,
            face_box=self._shares(face),
            mouth_box=self._shares(mouth),
            lip_opening=tuple(round(float(value), 4) for value in opening),
        )
        return record, frames.cpu().numpy()

    def perform(self, spec: ClipSpec) -> tuple[ClipSpec, Performance]:
        """Determine the start frame and the performance of a clip, deterministically."""
        sounding = sounding_frames(self._corpus.events(spec.corpus_clip), self._corpus.num_frames)
        expression = draw_expression(spec.motion_seed)
        start = choose_start(expression, sounding, spec.start_frame, spec.num_frames, spec.motion_seed)
        whole = self._corpus.performance(spec.corpus_clip, spec.motion_seed)
        cut = slice_performance(whole, start, spec.num_frames)
        performance = express(cut, expression, sounding[start : start + spec.num_frames])
        return replace(spec, start_frame=start), performance

    def _shares(self, box: NDArray[np.float32]) -> tuple[float, float, float, float]:
        left, top, right, bottom = (round(float(edge) / self._renderer.resolution, 4) for edge in box)
        return left, top, right, bottom


def cast_identity(seed: int, wide_share: float = 0.0) -> Identity:
    """Return the identity of a seed, with additional glasses for a share of the people.

    A share `wide_share` of the seeds, 0..1, is shown in a random world, see `widen`.
    """
    identity = _with_glasses(sample_identity(seed), seed)
    if np.random.default_rng((seed, 29)).random() < wide_share:
        return widen(identity, seed)
    return identity


def with_mood(performance: Performance, world: World) -> Performance:
    """Return the performance with the world's mood added to its facial units, at most 1 for those."""
    units = performance.units.copy()
    for name, weight in world.mood:
        column = FACE_UNITS.index(name)
        units[:, column] = np.maximum(units[:, column], np.minimum(units[:, column] + weight, 1.0))
    return replace(performance, units=units)


def _with_glasses(identity: Identity, seed: int) -> Identity:
    # A generator of its own, so that identities are the same with and without these glasses.
    rng = np.random.default_rng((seed, 19))
    if identity.outfit.glasses != "none" or rng.random() >= _ADDED_GLASSES:
        return identity
    frame = "thin" if rng.random() < 0.5 else "thick"
    return replace(identity, outfit=replace(identity.outfit, glasses=frame))


def sounding_frames(events: Sequence[PhonemeEvent], num_frames: int) -> NDArray[np.bool_]:
    """Return [F], true for frames with a phoneme."""
    sounding = np.zeros(num_frames, np.bool_)
    for event in events:
        if event.symbol != "pau":
            first = int(event.start_seconds * FRAMES_PER_SECOND)
            last = int(np.ceil(event.end_seconds * FRAMES_PER_SECOND))
            sounding[max(0, first) : max(0, last)] = True
    return sounding


def slice_performance(performance: Performance, start: int, num_frames: int) -> Performance:
    """Return frames `start` .. `start + num_frames` of a performance."""
    part = slice(start, start + num_frames)
    return Performance(
        units=performance.units[part],
        head_rotation=performance.head_rotation[part],
        head_translation=performance.head_translation[part],
        gaze=performance.gaze[part],
        breath=performance.breath[part],
    )


def render_clips(
    specs: Iterable[ClipSpec],
    clip_renderer: ClipRenderer,
    store: ClipStore,
    progress: Callable[[int], bool],
) -> int:
    """Render clips that the store lacks until `specs` ends or `progress` returns False.

    Clips in the store are skipped, so that an interrupted run resumes. `progress` is called with the number
    of clips rendered so far. Returns that number.
    """
    finished = set(store.indices())
    done = 0
    for spec in specs:
        if spec.index in finished:
            continue
        store.write(*clip_renderer.render(spec))
        done += 1
        if not progress(done):
            break
    return done
