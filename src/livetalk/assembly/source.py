"""`ModelSource`, which model is loaded: a shipped one, a checkpoint folder or a graph with random weights."""

from dataclasses import dataclass
from pathlib import Path

from livetalk.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where the weights of a model come from."""

    model: str | Path = "embedded"  # name of a shipped model, or folder of a native or published checkpoint
    random_weights: str | None = None  # name of a graph in `RANDOM_MODELS`; None loads `model`
    wav2vec_dir: Path | None = None  # speech encoder of a published model; None searches beside the model
    infinitetalk: Path | None = None  # audio weights for a published base model; None searches beside it

    def __post_init__(self) -> None:
        if self.random_weights is None:
            return
        for option, value in (("wav2vec-dir", self.wav2vec_dir), ("infinitetalk", self.infinitetalk)):
            if value is not None:
                raise InputError(f"{option} {value}: random weights come from no file; leave it out")

    @property
    def title(self) -> str:
        """Name of the model for messages."""
        return str(self.model) if self.random_weights is None else self.random_weights
