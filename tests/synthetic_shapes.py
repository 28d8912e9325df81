"""Sizes of synthetic checkpoints, and the published keys and shapes of their encoders."""

from dataclasses import dataclass

Shapes = dict[str, tuple[int, ...]]

CONV_KERNELS = (10, 3, 3, 3, 3, 2, 2)
CONV_STRIDES = (5, 2, 2, 2, 2, 2, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Widths and depths of every network of a checkpoint.

    Attributes:
        dim: width of the transformer; heads are 128 wide.
        ffn_dim: of the transformer.
        num_layers: of the transformer.
        audio_hidden: hidden width of the audio projection.
        audio_tokens: context tokens per latent frame.
        audio_dim: width of each of them.
        vae_dim: of the finest level of the VAE.
        text_dim: width of the text encoder.
        text_heads: of the text encoder.
        text_head_dim: width of each of them.
        text_ffn_dim: of the text encoder.
        text_layers: of the text encoder.
        vocab: tokens that the text encoder knows.
        image_dim: width of the image encoder; heads are 80 wide.
        image_layers: of the image encoder.
        image_side: pixels; a multiple of the patch, 14.
        speech_dim: width of the speech encoder.
        speech_heads: of the speech encoder.
        speech_layers: of the speech encoder.
        speech_conv_dim: width of its convolutions.
        position_kernel: taps of its positional convolution.
        position_groups: of its positional convolution.
        num_shards: files that the transformer is spread over.
    """

    dim: int
    ffn_dim: int
    num_layers: int
    audio_hidden: int
    audio_tokens: int
    audio_dim: int
    vae_dim: int
    text_dim: int
    text_heads: int
    text_head_dim: int
    text_ffn_dim: int
    text_layers: int
    vocab: int
    image_dim: int
    image_layers: int
    image_side: int
    speech_dim: int
    speech_heads: int
    speech_layers: int
    speech_conv_dim: int
    position_kernel: int
    position_groups: int
    num_shards: int


TINY = Sizes(
    dim=256,
    ffn_dim=320,
    num_layers=2,
    audio_hidden=16,
    audio_tokens=4,
    audio_dim=24,
    vae_dim=8,
    text_dim=32,
    text_heads=5,
    text_head_dim=8,
    text_ffn_dim=56,
    text_layers=2,
    vocab=128,
    image_dim=160,
    image_layers=3,
    image_side=56,
    speech_dim=32,
    speech_heads=4,
    speech_layers=2,
    speech_conv_dim=16,
    position_kernel=16,
    position_groups=4,
    num_shards=2,
)
WIDE = Sizes(
    dim=5120,
    ffn_dim=13824,
    num_layers=6,
    audio_hidden=512,
    audio_tokens=32,
    audio_dim=768,
    vae_dim=96,
    text_dim=4096,
    text_heads=64,
    text_head_dim=64,
    text_ffn_dim=10240,
    text_layers=3,
    vocab=256384,
    image_dim=1280,
    image_layers=4,
    image_side=224,
    speech_dim=768,
    speech_heads=12,
    speech_layers=12,
    speech_conv_dim=512,
    position_kernel=128,
    position_groups=16,
    num_shards=3,
)


def text_encoder_shapes(sizes: Sizes) -> Shapes:
    """Return the published keys and shapes of the umT5 encoder."""
    dim, inner = sizes.text_dim, sizes.text_heads * sizes.text_head_dim
    shapes: Shapes = {"token_embedding.weight": (sizes.vocab, dim)}
    for index in range(sizes.text_layers):
        block = f"blocks.{index}"
        shapes[f"{block}.norm1.weight"] = (dim,)
        for name in "qkv":
            shapes[f"{block}.attn.{name}.weight"] = (inner, dim)
        shapes[f"{block}.attn.o.weight"] = (dim, inner)
        shapes[f"{block}.norm2.weight"] = (dim,)
        shapes[f"{block}.ffn.gate.0.weight"] = (sizes.text_ffn_dim, dim)
        shapes[f"{block}.ffn.fc1.weight"] = (sizes.text_ffn_dim, dim)
        shapes[f"{block}.ffn.fc2.weight"] = (dim, sizes.text_ffn_dim)
        shapes[f"{block}.pos_embedding.embedding.weight"] = (32, sizes.text_heads)
    shapes["norm.weight"] = (dim,)
    return shapes


def image_encoder_shapes(sizes: Sizes) -> Shapes:
    """Return the published keys and shapes of the CLIP file, its text half (never used) made small."""
    dim, hidden = sizes.image_dim, 4 * sizes.image_dim
    shapes: Shapes = {
        "log_scale": (),
        "visual.cls_embedding": (1, 1, dim),
        "visual.pos_embedding": (1, (sizes.image_side // 14) ** 2 + 1, dim),
        "visual.head": (dim, 24),
        "visual.patch_embedding.weight": (dim, 3, 14, 14),
    }
    for norm in ("visual.pre_norm", "visual.post_norm"):
        shapes |= _affine(norm, (dim,))
    for index in range(sizes.image_layers):
        block = f"visual.transformer.{index}"
        shapes |= _affine(f"{block}.norm1", (dim,)) | _affine(f"{block}.norm2", (dim,))
        shapes |= _affine(f"{block}.attn.to_qkv", (3 * dim, dim)) | _affine(f"{block}.attn.proj", (dim, dim))
        shapes |= _affine(f"{block}.mlp.0", (hidden, dim)) | _affine(f"{block}.mlp.2", (dim, hidden))
    width = 32
    shapes["textual.token_embedding.weight"] = (64, width)
    shapes |= _affine("textual.blocks.0.attn.q", (width, width)) | _affine("textual.norm", (width,))
    return shapes


def speech_encoder_shapes(sizes: Sizes) -> Shapes:
    """Return the published keys and shapes of wav2vec2, in the newer naming of its weight norm."""
    dim, conv = sizes.speech_dim, sizes.speech_conv_dim
    encoder = "encoder.pos_conv_embed.conv"
    shapes: Shapes = {"masked_spec_embed": (dim,)}
    for index, kernel in enumerate(CONV_KERNELS):
        name = f"feature_extractor.conv_layers.{index}"
        shapes[f"{name}.conv.weight"] = (conv, conv if index else 1, kernel)
        if index == 0:
            shapes |= _affine(f"{name}.layer_norm", (conv,))
    shapes |= _affine("feature_projection.layer_norm", (conv,))
    shapes |= _affine("feature_projection.projection", (dim, conv))
    shapes[f"{encoder}.bias"] = (dim,)
    shapes[f"{encoder}.parametrizations.weight.original0"] = (1, 1, sizes.position_kernel)
    shapes[f"{encoder}.parametrizations.weight.original1"] = (
        dim,
        dim // sizes.position_groups,
        sizes.position_kernel,
    )
    shapes |= _affine("encoder.layer_norm", (dim,))
    for index in range(sizes.speech_layers):
        layer = f"encoder.layers.{index}"
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            shapes |= _affine(f"{layer}.attention.{name}", (dim, dim))
        shapes |= _affine(f"{layer}.layer_norm", (dim,)) | _affine(f"{layer}.final_layer_norm", (dim,))
        shapes |= _affine(f"{layer}.feed_forward.intermediate_dense", (4 * dim, dim))
        shapes |= _affine(f"{layer}.feed_forward.output_dense", (dim, 4 * dim))
    return shapes


def _affine(name: str, shape: tuple[int, ...]) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
