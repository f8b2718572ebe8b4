"""The named sizes that run files and benchmarks use, and how many parameters a config has."""

from collections.abc import Mapping
from types import MappingProxyType

from forklight_model.config import LIGHTNING, SOFTMAX, ModelConfig

LAYERS_PER_SOFTMAX = 8
"""Seven blocks of lightning attention, then one of softmax attention."""


def hybrid_layers(num_layers: int) -> tuple[int, ...]:
    """The published pattern of attention kinds for this many layers."""
    return tuple(
        SOFTMAX if layer % LAYERS_PER_SOFTMAX == LAYERS_PER_SOFTMAX - 1 else LIGHTNING
        for layer in range(num_layers)
    )


SIZES: Mapping[str, ModelConfig] = MappingProxyType(
    {
        "nano": ModelConfig(
            vocab_size=103,
            hidden_size=128,
            intermediate_size=64,
            num_hidden_layers=8,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            rotary_dim=16,
            num_local_experts=4,
            num_experts_per_tok=2,
            attn_type_list=hybrid_layers(8),
            max_position_embeddings=4096,
            # At 0.02 so narrow a model starts almost silent: its cold start takes about twice as many steps.
            initializer_range=0.06,
        ),
        "mini": ModelConfig(
            vocab_size=32_768,
            hidden_size=1024,
            intermediate_size=512,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=2,
            head_dim=128,
            rotary_dim=64,
            num_local_experts=16,
            num_experts_per_tok=2,
            attn_type_list=hybrid_layers(8),
            max_position_embeddings=131_072,
        ),
        "small": ModelConfig(
            vocab_size=65_536,
            hidden_size=2048,
            intermediate_size=768,
            num_hidden_layers=16,
            num_attention_heads=16,
            num_key_value_heads=4,
            head_dim=128,
            rotary_dim=64,
            num_local_experts=32,
            num_experts_per_tok=2,
            attn_type_list=hybrid_layers(16),
            max_position_embeddings=131_072,
        ),
        "minimax-m1": ModelConfig(
            vocab_size=200_064,
            hidden_size=6144,
            intermediate_size=9216,
            num_hidden_layers=80,
            num_attention_heads=64,
            num_key_value_heads=8,
            head_dim=128,
            rotary_dim=64,
            num_local_experts=32,
            num_experts_per_tok=2,
            attn_type_list=hybrid_layers(80),
            max_position_embeddings=10_240_000,
        ),
    }
)


def num_parameters(config: ModelConfig) -> int:
    """All parameters of the model, counted from its shape."""
    layers = sum(_layer_parameters(config, layer) for layer in range(config.num_hidden_layers))
    embeddings = 2 * config.vocab_size * config.hidden_size
    return layers + embeddings + config.hidden_size


def num_active_parameters(config: ModelConfig) -> int:
    """Parameters that one token passes through: its chosen experts, and its own row of the embedding."""
    unchosen = config.num_local_experts - config.num_experts_per_tok
    other_rows = (config.vocab_size - 1) * config.hidden_size
    unused = config.num_hidden_layers * unchosen * _expert_parameters(config) + other_rows
    return num_parameters(config) - unused


def _layer_parameters(config: ModelConfig, layer: int) -> int:
    width = config.num_attention_heads * config.head_dim
    key_width = config.num_key_value_heads * config.head_dim
    if config.is_lightning(layer):
        attention = config.hidden_size * 5 * width + width
    else:
        attention = config.hidden_size * 2 * (width + key_width)
    router = config.num_local_experts * config.hidden_size
    return attention + router + config.num_local_experts * _expert_parameters(config) + 2 * config.hidden_size


def _expert_parameters(config: ModelConfig) -> int:
    return 3 * config.hidden_size * config.intermediate_size
