"""Two-way mapping between published state dicts and those of this package's networks."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from livetalk.errors import WeightsError
from livetalk.models.dit import DiTConfig
from livetalk.models.vae import VAEConfig

MAX_NAMED_KEYS = 5


@dataclass(frozen=True, slots=True)
class Rule:
    """Translation of one key prefix."""

    ours: str  # prefix of a key in this package; `{n}` stands for a number
    published: str  # prefix of the published key, with as many `{n}`
    trailing: tuple[int, ...] | None = None  # published axes after the first, where the shapes differ


@dataclass(frozen=True, slots=True)
class StateDictAdapter:
    """Two-way mapping between the state dict of a network and its published form.

    The first rule whose prefix ends at a dot or at the end of the key applies.
    """

    rules: tuple[Rule, ...]

    def to_published(self, key: str) -> str:
        """Translate a key of this package; `WeightsError` if no rule matches."""
        for rule in self.rules:
            translated = _translate(key, rule.ours, rule.published)
            if translated is not None:
                return translated
        raise WeightsError(f"the network key '{key}' has no published name")

    def to_ours(self, key: str) -> str:
        """Translate a published key; `WeightsError` if no rule matches."""
        for rule in self.rules:
            translated = _translate(key, rule.published, rule.ours)
            if translated is not None:
                return translated
        raise WeightsError(f"the checkpoint key '{key}' does not exist in this network")

    def published_shape(self, key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the published shape of the parameter `key` whose shape here is `shape`."""
        for rule in self.rules:
            if _translate(key, rule.ours, rule.published) is not None:
                return shape if rule.trailing is None else (shape[0], *rule.trailing)
        raise WeightsError(f"the network key '{key}' has no published name")

    def import_weights(self, network: nn.Module, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translate a published state dict to one that `network.load_state_dict` accepts strictly.

        Tensors are reshaped views, neither copied nor cast.

        Raises:
            WeightsError: a key is missing or unexpected, or a shape is wrong; the message names them.
        """
        state = network.state_dict()
        names = {key: self.to_published(key) for key in state}
        require_same_keys(names.values(), published)
        for key, name in names.items():
            expected = self.published_shape(key, tuple(state[key].shape))
            if tuple(published[name].shape) != expected:
                shape = list(published[name].shape)
                raise WeightsError(
                    f"the checkpoint key '{name}' has shape {shape}, expected {list(expected)}"
                )
        return {key: published[name].reshape(state[key].shape) for key, name in names.items()}

    def export_weights(self, network: nn.Module) -> dict[str, Tensor]:
        """Translate the weights of a network to published keys and shapes, sharing memory where possible."""
        return {
            self.to_published(key): tensor.detach().reshape(self.published_shape(key, tuple(tensor.shape)))
            for key, tensor in network.state_dict().items()
        }


class OwnKeys(StateDictAdapter):
    """Adapter without rules, for files that already have the keys and shapes of this package."""

    __slots__ = ()

    def to_published(self, key: str) -> str:
        return key

    def to_ours(self, key: str) -> str:
        return key

    def published_shape(self, key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape


def require_same_keys(expected: Iterable[str], given: Iterable[str]) -> None:
    """Raise `WeightsError` unless a checkpoint has exactly the expected keys."""
    expected, given = set(expected), set(given)
    problems = [
        f"{word} {_list_keys(difference)}"
        for word, difference in (("missing", expected - given), ("unexpected", given - expected))
        if difference
    ]
    if problems:
        raise WeightsError(f"the checkpoint does not fit this network: {'; '.join(problems)}")


def _list_keys(keys: set[str]) -> str:
    names = sorted(keys)
    more = f" and {len(names) - MAX_NAMED_KEYS} more" if len(names) > MAX_NAMED_KEYS else ""
    return ", ".join(names[:MAX_NAMED_KEYS]) + more


def _translate(key: str, source: str, target: str) -> str | None:
    """Replace the prefix `source` of `key` by `target`, keeping numbers; None if it is not a prefix."""
    match = re.match(re.escape(source).replace(r"\{n\}", r"(\d+)") + r"(?=\.|$)", key)
    if match is None:
        return None
    for number in match.groups():
        target = target.replace("{n}", number, 1)
    return target + key[match.end() :]


_BLOCK_RULES = (
    ("modulation", "modulation"),
    ("self_attention.q", "self_attn.q"),
    ("self_attention.k", "self_attn.k"),
    ("self_attention.v", "self_attn.v"),
    ("self_attention.out", "self_attn.o"),
    ("self_attention.norm_q", "self_attn.norm_q"),
    ("self_attention.norm_k", "self_attn.norm_k"),
    ("context_norm", "norm3"),
    ("context_attention.q", "cross_attn.q"),
    ("context_attention.norm_q", "cross_attn.norm_q"),
    ("context_attention.text.k", "cross_attn.k"),
    ("context_attention.text.v", "cross_attn.v"),
    ("context_attention.text.norm_k", "cross_attn.norm_k"),
    ("context_attention.image.k", "cross_attn.k_img"),
    ("context_attention.image.v", "cross_attn.v_img"),
    ("context_attention.image.norm_k", "cross_attn.norm_k_img"),
    ("context_attention.out", "cross_attn.o"),
    ("audio_norm", "norm_x"),
    ("audio_attention.q", "audio_cross_attn.q_linear"),
    ("audio_attention.kv", "audio_cross_attn.kv_linear"),
    ("audio_attention.out", "audio_cross_attn.proj"),
    ("ffn", "ffn"),
)

# Statistics of the published VAE's raw latents, which its weight files do not contain.
_LATENTS_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
_LATENTS_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)

_DIT_RULES = (
    ("patch_embedding.bias", "patch_embedding.bias"),
    ("time_embedding.mlp", "time_embedding"),
    ("time_embedding.modulation_out", "time_projection.1"),
    ("text_projection", "text_embedding"),
    ("image_projection", "img_emb.proj"),
    ("audio_projection.first_in", "audio_proj.proj1"),
    ("audio_projection.group_in", "audio_proj.proj1_vf"),
    ("audio_projection.hidden", "audio_proj.proj2"),
    ("audio_projection.out", "audio_proj.proj3"),
    ("audio_projection.norm", "audio_proj.norm"),
    ("head.modulation", "head.modulation"),
    ("head.linear", "head.head"),
)


def dit_adapter(config: DiTConfig) -> StateDictAdapter:
    """Return the adapter of the published transformer with the sizes of `config`."""
    patch = (config.in_channels, *config.patch_size)
    return StateDictAdapter(
        (
            Rule("patch_embedding.weight", "patch_embedding.weight", patch),
            *(Rule(ours, published) for ours, published in _DIT_RULES),
            *(
                Rule(f"blocks.layers.{{n}}.{ours}", f"blocks.{{n}}.{published}")
                for ours, published in _BLOCK_RULES
            ),
        )
    )


def vae_adapter(config: VAEConfig) -> StateDictAdapter:
    """Return the adapter of the published VAE, which numbers its layers across all levels."""
    rules = [Rule("moments_conv", "conv1"), Rule("latents_conv", "conv2")]
    for network, published in (("encoder", "encoder.downsamples"), ("decoder", "decoder.upsamples")):
        rules += [
            Rule(f"{network}.conv_in", f"{network}.conv1"),
            Rule(f"{network}.conv_out", f"{network}.head.2"),
        ]
        rules += [Rule(f"{network}.norm_out.weight", f"{network}.head.0.gamma", (1, 1, 1))]
        rules += _middle_rules(f"{network}.middle", config.level_dims[-1])
        rules += _level_rules(network, published, config)
    return StateDictAdapter(tuple(rules))


def _level_rules(network: str, published: str, config: VAEConfig) -> list[Rule]:
    """Return the rules for residual blocks and resampling layers of the encoder or decoder."""
    encodes = network == "encoder"
    num_blocks = config.num_res_blocks if encodes else config.num_res_blocks + 1
    temporal = config.temporal_downsample if encodes else config.temporal_downsample[::-1]
    rules: list[Rule] = []
    index = 0
    for level in range(len(config.dim_multipliers)):
        ours = f"{network}.levels.{level}"
        for block in range(num_blocks):
            rules += _residual_rules(f"{ours}.{block}", f"{published}.{index}")
            index += 1
        if level == len(temporal):
            break
        # The published layer contains both convolutions; here they are two layers in order of execution.
        time_first = temporal[level] and not encodes
        spatial, time = (num_blocks + 1, num_blocks) if time_first else (num_blocks, num_blocks + 1)
        width = config.level_dims[level if encodes else -1 - level]
        rules.append(
            Rule(f"{ours}.{spatial}.weight", f"{published}.{index}.resample.1.weight", (width, 3, 3))
        )
        rules.append(Rule(f"{ours}.{spatial}.bias", f"{published}.{index}.resample.1.bias"))
        rules.append(Rule(f"{ours}.{time}", f"{published}.{index}.time_conv"))
        index += 1
    return rules


def _residual_rules(ours: str, published: str) -> list[Rule]:
    return [
        Rule(f"{ours}.norm1.weight", f"{published}.residual.0.gamma", (1, 1, 1)),
        Rule(f"{ours}.conv1", f"{published}.residual.2"),
        Rule(f"{ours}.norm2.weight", f"{published}.residual.3.gamma", (1, 1, 1)),
        Rule(f"{ours}.conv2", f"{published}.residual.6"),
        Rule(f"{ours}.shortcut", f"{published}.shortcut"),
    ]


def _middle_rules(middle: str, width: int) -> list[Rule]:
    """Return the rules for the coarsest layers, `width` channels wide."""
    return [
        *_residual_rules(f"{middle}.0", f"{middle}.0"),
        Rule(f"{middle}.1.norm.weight", f"{middle}.1.norm.gamma", (1, 1)),
        Rule(f"{middle}.1.qkv.weight", f"{middle}.1.to_qkv.weight", (width, 1, 1)),
        Rule(f"{middle}.1.qkv.bias", f"{middle}.1.to_qkv.bias"),
        Rule(f"{middle}.1.out.weight", f"{middle}.1.proj.weight", (width, 1, 1)),
        Rule(f"{middle}.1.out.bias", f"{middle}.1.proj.bias"),
        *_residual_rules(f"{middle}.2", f"{middle}.2"),
    ]


def published_dit_config() -> DiTConfig:
    """Return the configuration of the published transformer (18.9 billion parameters)."""
    return DiTConfig(
        dim=5120,
        ffn_dim=13824,
        num_heads=40,
        num_layers=40,
        in_channels=36,
        out_channels=16,
        text_dim=4096,
        image_dim=1280,
    )


def published_vae_config(base_dim: int = 96) -> VAEConfig:
    """Return the configuration of the published VAE (127 million parameters at the default width)."""
    return VAEConfig(
        base_dim=base_dim,
        latent_channels=16,
        dim_multipliers=(1, 2, 4, 4),
        num_res_blocks=2,
        temporal_downsample=(False, True, True),
        latents_mean=_LATENTS_MEAN,
        latents_std=_LATENTS_STD,
    )
