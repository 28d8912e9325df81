"""`ModelSpec`, the description of a model besides its weights."""

from dataclasses import dataclass, field

from livetalk.crop import Crop
from livetalk.models.audio_encoder import SpeechEncoderConfig
from livetalk.models.clip_vision import CLIPVisionConfig
from livetalk.models.dit import DiTConfig
from livetalk.models.umt5 import UMT5Config
from livetalk.models.vae import VAEConfig
from livetalk.models.wav2vec import Wav2Vec2Config
from livetalk.streaming.settings import StreamSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class PortraitConfig:
    """Frame size in pixels."""

    height: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamDefaults:
    """Defaults for the noise seed, the crop (see `frame_portrait`) and the prompt of a text branch."""

    seed: int = 0
    crop: Crop = "face"
    prompt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Description of a model that suffices to build its networks, known before any weight is read."""

    name: str
    dit: DiTConfig
    vae: VAEConfig
    speech: SpeechEncoderConfig | Wav2Vec2Config
    text: UMT5Config | None = None  # None without a text branch
    image: CLIPVisionConfig | None = None  # None without an image branch
    settings: StreamSettings  # defaults of a stream
    portrait: PortraitConfig  # frame size, the default one with `any_size`
    any_size: bool = False  # frames may have any size whose sides are multiples of `size_multiple`
    defaults: StreamDefaults = field(default_factory=StreamDefaults)

    @property
    def size_multiple(self) -> int:
        """Number of pixels of which both sides of a frame are a multiple."""
        return self.vae.spatial_stride * max(self.dit.patch_size[1:])
