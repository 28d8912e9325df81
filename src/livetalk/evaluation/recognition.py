"""Face embeddings and the distances between people."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from livetalk.evaluation.extras import import_extra, locate_extra

EMBEDDING_SIZE = 128


class FaceEmbedder:
    """Embeds faces with dlib's network and 5-point predictor, close together for the same person.

    Distances of 0.6 and more usually mean different people; two frames of one rendered head are about 0.2
    apart.
    """

    def __init__(self) -> None:
        """Load the networks; `LivetalkError` if dlib-bin or face_recognition_models is not installed."""
        dlib = import_extra("dlib")
        models = locate_extra("face_recognition_models") / "models"
        self._detect: Any = dlib.get_frontal_face_detector()
        self._predict: Any = dlib.shape_predictor(str(models / "shape_predictor_5_face_landmarks.dat"))
        self._network: Any = dlib.face_recognition_model_v1(
            str(models / "dlib_face_recognition_resnet_model_v1.dat")
        )

    def embed(self, frame: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the embedding [128], float64, of the largest face in [H, W, 3], uint8, RGB; NaN if none."""
        frame = np.ascontiguousarray(frame)
        # One level of upsampling, because the detector misses faces of less than 80 pixels.
        faces = self._detect(frame, 1)
        if not faces:
            return np.full(EMBEDDING_SIZE, np.nan)
        largest = max(faces, key=lambda face: face.area())
        return np.asarray(self._network.compute_face_descriptor(frame, self._predict(frame, largest)))


def measure_distances(embeddings: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance [N] of each embedding [N, 128] to the reference [128]; NaN if one is unknown."""
    return np.asarray(np.linalg.norm(embeddings - reference, axis=-1))


def across_identities(embeddings: Sequence[NDArray[np.float64]], percentile: float = 5.0) -> float:
    """Return a percentile (0..100) of the distances between all pairs of people, one embedding [128] each.

    Unknown (NaN) embeddings are ignored; the result is NaN for fewer than two people.
    """
    known = [embedding for embedding in embeddings if np.isfinite(embedding).all()]
    pairs = [
        float(np.linalg.norm(first - second)) for i, first in enumerate(known) for second in known[i + 1 :]
    ]
    # A low percentile shows how close two different people can be.
    return float(np.percentile(pairs, percentile)) if pairs else float("nan")
