"""Identity of the person from the first frame to the last."""

from livetalk.evaluation.clip import Clip, Need
from livetalk.evaluation.measure import Column, Measure, Value
from livetalk.evaluation.recognition import measure_distances
from livetalk.evaluation.statistics import largest, median, slope_per_minute


def measure_identity(clip: Clip) -> dict[str, float]:
    """Compare the faces of the video with the person and with the video's first face."""
    track = clip.track
    distances = measure_distances(track.embeddings, clip.person)
    within = measure_distances(track.embeddings, clip.first_face)
    return {
        "identity_distance": median(distances),
        "identity_distance_max": largest(distances),
        "identity_within": largest(within),
        "identity_drift_per_minute": slope_per_minute(distances, track.embedding_seconds),
    }


MEASURE = Measure(
    name="identity",
    values=(
        Value(
            name="identity_distance",
            unit="embedding distance",
            meaning="distance to the portrait, median over every 12th frame",
            good="below other people's",
            column=Column("id", ".2f"),
        ),
        Value(
            name="identity_distance_max",
            unit="embedding distance",
            meaning="the largest of these distances",
            good="below other people's",
            column=Column("id max", ".2f"),
        ),
        Value(
            name="identity_within",
            unit="embedding distance",
            meaning="largest distance to the clip's own first face",
            good="below other people's",
        ),
        Value(
            name="identity_drift_per_minute",
            unit="embedding distance per minute",
            meaning="slope of the distance; only for clips of 20 s and more",
            good="0",
        ),
    ),
    find=measure_identity,
    needs=frozenset({Need.IDENTITY}),
)
