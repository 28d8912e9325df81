"""CLIP image encoder: reference image -> image embeddings.

Shapes: B batch · H W height, width of the image · S tokens (one for the whole image, then the patches) ·
N heads · E head width · D model width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from livetalk.ops.attention import attention
from livetalk.ops.norm import LayerNorm

COLORS = 3
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True, slots=True)
class CLIPVisionConfig:
    """Sizes of a `CLIPVisionEncoder`.

    Attributes:
        num_layers: blocks that run. The published features omit the last block of the trained tower
            and the layers after it.
    """

    image_size: int  # side of the square input, in pixels
    patch_size: int  # side of a patch, in pixels; divides `image_size`
    dim: int
    ffn_dim: int
    num_heads: int  # attention heads N; divides D
    num_layers: int
    eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} is not a multiple of num_heads {self.num_heads}")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )

    @property
    def num_tokens(self) -> int:
        """Rows S of the embeddings."""
        return 1 + (self.image_size // self.patch_size) ** 2


def clip_vit_h14() -> CLIPVisionConfig:
    """Return the size of the published image encoder, of which 611 million parameters are used."""
    return CLIPVisionConfig(
        image_size=224, patch_size=14, dim=1280, ffn_dim=5120, num_heads=16, num_layers=31
    )


class CLIPVisionEncoder(nn.Module):
    """Vision transformer, read out after its blocks without a final norm."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = nn.Conv2d(
            COLORS, config.dim, config.patch_size, stride=config.patch_size, bias=False
        )
        self.class_embedding = nn.Parameter(torch.randn(1, 1, config.dim) * config.dim**-0.5)
        self.position_embedding = nn.Parameter(
            torch.randn(1, config.num_tokens, config.dim) * config.dim**-0.5
        )
        self.input_norm = LayerNorm(config.dim, eps=config.eps)
        self.blocks = nn.ModuleList(CLIPBlock(config) for _ in range(config.num_layers))

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode pixels from `prepare_clip_pixels` to `[B, S, D]`: class token, then patches by rows."""
        side = self.config.image_size
        if pixels.shape[1:] != (COLORS, side, side):
            raise ValueError(f"pixels must be [B, {COLORS}, {side}, {side}], got {list(pixels.shape)}")
        patches = self.patch_embedding(pixels.to(self.patch_embedding.weight.dtype)).flatten(2)
        whole = self.class_embedding.expand(pixels.shape[0], -1, -1)
        tokens = torch.cat((whole, patches.transpose(1, 2)), dim=1) + self.position_embedding
        x: Tensor = self.input_norm(tokens)
        for block in self.blocks:
            x = block(x)
        return x


class CLIPBlock(nn.Module):
    """Pre-norm self-attention and feed-forward."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.attention_norm = LayerNorm(config.dim, eps=config.eps)
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        self.ffn_norm = LayerNorm(config.dim, eps=config.eps)
        self.ffn_in = nn.Linear(config.dim, config.ffn_dim)
        self.ffn_out = nn.Linear(config.ffn_dim, config.dim)

    def forward(self, x_BSD: Tensor) -> Tensor:
        q, k, v = self.qkv(self.attention_norm(x_BSD)).unflatten(2, (3, self.num_heads, -1)).unbind(2)
        x = x_BSD + self.out(attention(q, k, v).flatten(2))
        total: Tensor = x + self.ffn_out(F.gelu(self.ffn_in(self.ffn_norm(x))))
        return total


def prepare_clip_pixels(image: Tensor, image_size: int = 224) -> Tensor:
    """Resize images `[B, 3, H, W]`, -1..1, to a square and standardise their colours, in float32."""
    # As published, the aspect ratio is not kept, and no low-pass filter precedes the interpolation.
    square = F.interpolate(image.float(), (image_size, image_size), mode="bicubic", align_corners=False)
    mean, std = torch.tensor((PIXEL_MEAN, PIXEL_STD), device=image.device).view(2, 1, COLORS, 1, 1)
    pixels: Tensor = (square / 2 + 0.5 - mean) / std
    return pixels
