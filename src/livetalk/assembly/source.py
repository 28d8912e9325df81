"""Which model: a shipped one, a checkpoint folder, or a graph that is filled with random numbers."""

from dataclasses import dataclass
from pathlib import Path

from livetalk.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where the weights of a model come from.

    Attributes:
        model: name of a shipped model, or a checkpoint folder, ours or a published one; not used with
            `random_weights`.
        random_weights: name of a graph in `RANDOM_MODELS`, built without its weights for dry runs and
            benchmarks; None loads `model`.
        wav2vec_dir: speech encoder of a published model; None looks for it beside the model.
        infinitetalk: audio weights to lay over a published base model; None looks for them beside it.
    """

    model: str | Path = "embedded"
    random_weights: str | None = None
    wav2vec_dir: Path | None = None
    infinitetalk: Path | None = None

    def __post_init__(self) -> None:
        """Refuse files for random weights.

        Raises:
            InputError: see above.
        """
        if self.random_weights is None:
            return
        for option, value in (("wav2vec-dir", self.wav2vec_dir), ("infinitetalk", self.infinitetalk)):
            if value is not None:
                raise InputError(f"{option} {value}: random weights come from no file; leave it out")

    @property
    def title(self) -> str:
        """What a user calls the model."""
        return str(self.model) if self.random_weights is None else self.random_weights
