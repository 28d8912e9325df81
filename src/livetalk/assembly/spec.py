"""What a model is besides its weights."""

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
    """Size of the pictures that a model makes.

    Attributes:
        height: rows, pixels.
        width: columns, pixels.
    """

    height: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionDefaults:
    """What a session gets where the user asks for nothing else.

    Attributes:
        seed: of the noise.
        crop: what of the portrait is used, see `frame_portrait`.
        prompt: for the text branch; not used by a model without one.
    """

    seed: int = 0
    crop: Crop = "face"
    prompt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What a model is besides its weights: known before any weight is read, and enough to build its networks.

    Attributes:
        name: of the model.
        dit: sizes of the transformer.
        vae: sizes of the VAE.
        speech: sizes of the speech encoder.
        text: sizes of the text encoder; None for a model without one.
        image: sizes of the image encoder; None for a model without one.
        settings: of its streams, where the user asks for nothing else.
        portrait: picture size, or the usual one of a model that makes any size.
        any_size: it makes pictures of any size that `size_multiple` divides.
        defaults: of its sessions.
    """

    name: str
    dit: DiTConfig
    vae: VAEConfig
    speech: SpeechEncoderConfig | Wav2Vec2Config
    text: UMT5Config | None = None
    image: CLIPVisionConfig | None = None
    settings: StreamSettings
    portrait: PortraitConfig
    any_size: bool = False
    defaults: SessionDefaults = field(default_factory=SessionDefaults)

    @property
    def size_multiple(self) -> int:
        """What both sides of a picture must be a multiple of, pixels."""
        return self.vae.spatial_stride * max(self.dit.patch_size[1:])
