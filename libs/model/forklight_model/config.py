"""The model's configuration, with the field names of the published config.json.

Owns reading, checking and writing it. A file that this code would compute differently from the published
model is refused with the reason, never read in part.
"""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path

from forklight_core.errors import ConfigError

ARCHITECTURE = "MiniMaxM1ForCausalLM"
MODEL_TYPE = "minimax_m1"
CONFIG_FILE = "config.json"
LIGHTNING = 0
SOFTMAX = 1

_FIXED_VALUES: Mapping[str, tuple[object, ...]] = {
    "hidden_act": ("silu",),
    "tie_word_embeddings": (False,),
    "shared_intermediate_size": (0,),
    "router_jitter_noise": (0, 0.0),
    "attention_dropout": (0, 0.0),
    "sliding_window": (None,),
    "rope_scaling": (None,),
    "quantization_config": (None,),
    "model_type": (MODEL_TYPE,),
}
"""Published switches that change the computation, and the only settings implemented here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Shape and constants of one hybrid model. Every instance has passed its checks."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rotary_dim: int
    num_local_experts: int
    num_experts_per_tok: int
    attn_type_list: tuple[int, ...]
    """One a layer: 0 is lightning attention, 1 is softmax attention."""
    max_position_embeddings: int
    rope_theta: float = 10_000_000.0
    rms_norm_eps: float = 1e-5
    postnorm: bool = True
    """The residual is taken after the norm: x = norm(x); x = alpha * x + beta * f(x)."""
    layernorm_full_attention_alpha: float = 3.5565588200778455
    layernorm_full_attention_beta: float = 1.0
    layernorm_linear_attention_alpha: float = 3.5565588200778455
    layernorm_linear_attention_beta: float = 1.0
    layernorm_mlp_alpha: float = 3.5565588200778455
    layernorm_mlp_beta: float = 1.0
    router_aux_loss_coef: float = 0.001
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        _check_sizes(self)
        _check_consistency(self)

    @classmethod
    def from_published(cls, mapping: Mapping[str, object]) -> "ModelConfig":
        """Read a published config; raise ConfigError where it is another model or contradicts itself."""
        _check_architecture(mapping)
        values: dict[str, object] = {}
        for field in fields(cls):
            if field.name in mapping:
                values[field.name] = _converted(field.name, field.type, mapping[field.name])
        missing = sorted(name for name in _required_names() if name not in values)
        if missing:
            raise ConfigError(f"the model config lacks {', '.join(missing)}; is it a complete {CONFIG_FILE}?")
        return cls(**values)  # type: ignore[arg-type]

    def to_published(self) -> dict[str, object]:
        """The mapping that a published config.json holds for this model."""
        published: dict[str, object] = {"architectures": [ARCHITECTURE], "model_type": MODEL_TYPE}
        published |= asdict(self) | {"attn_type_list": list(self.attn_type_list)}
        published |= {"hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "float32"}
        published |= {"shared_intermediate_size": 0, "shared_moe_mode": "sigmoid", "router_jitter_noise": 0.0}
        return published

    @property
    def numerics(self) -> str:
        """See `policy.PolicyConfig`: the kernels' contract."""
        from forklight_kernels.contract import contract_hash  # a config alone needs no torch

        return contract_hash()

    def is_lightning(self, layer: int) -> bool:
        return self.attn_type_list[layer] == LIGHTNING

    @property
    def lightning_layers(self) -> tuple[int, ...]:
        return tuple(layer for layer in range(self.num_hidden_layers) if self.is_lightning(layer))

    @property
    def softmax_layers(self) -> tuple[int, ...]:
        return tuple(layer for layer in range(self.num_hidden_layers) if not self.is_lightning(layer))


def load_config(directory: str | Path) -> ModelConfig:
    """Read `config.json` of a model folder."""
    return ModelConfig.from_published(read_config_file(Path(directory) / CONFIG_FILE))


def read_config_file(path: Path) -> dict[str, object]:
    """The mapping of a config.json, whatever model it is of."""
    try:
        mapping = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path} does not exist; a model folder holds {CONFIG_FILE} and its weights"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(mapping, dict):
        raise ConfigError(f"{path} holds a {type(mapping).__name__}, not an object of settings")
    return mapping


def _required_names() -> tuple[str, ...]:
    return tuple(name for name in ModelConfig.__slots__ if name not in _DEFAULTED)


def _check_architecture(mapping: Mapping[str, object]) -> None:
    architectures = mapping.get("architectures")
    if architectures != [ARCHITECTURE]:
        raise ConfigError(
            f"architectures is {architectures!r}; this is read as ['{ARCHITECTURE}'] only: "
            "a folder of a transformers model is named by model.hf"
        )
    for name, allowed in _FIXED_VALUES.items():
        if name in mapping and mapping[name] not in allowed:
            raise ConfigError(f"{name} = {mapping[name]!r} is not implemented; it must be {allowed[0]!r}")


def _converted(name: str, kind: object, value: object) -> object:
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if (
        name == "attn_type_list"
        and isinstance(value, list | tuple)
        and all(type(kind) is int for kind in value)
    ):
        return tuple(value)
    raise ConfigError(f"{name} = {value!r} has the wrong type; the published config holds {kind} there")


def _check_sizes(config: ModelConfig) -> None:
    for field in fields(config):
        value = getattr(config, field.name)
        if field.type is int and value < 1:
            raise ConfigError(f"{field.name} = {value} must be at least 1")
    if config.rms_norm_eps <= 0 or config.rope_theta <= 0:
        raise ConfigError(
            f"rms_norm_eps = {config.rms_norm_eps} and rope_theta = {config.rope_theta} must be > 0"
        )


def _check_consistency(config: ModelConfig) -> None:
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    if heads % key_heads:
        raise ConfigError(
            f"num_attention_heads = {heads} is not a multiple of num_key_value_heads = {key_heads}"
        )
    if config.num_experts_per_tok > config.num_local_experts:
        raise ConfigError(
            f"num_experts_per_tok = {config.num_experts_per_tok} exceeds num_local_experts = "
            f"{config.num_local_experts}"
        )
    if config.rotary_dim > config.head_dim or config.rotary_dim % 2:
        raise ConfigError(
            f"rotary_dim = {config.rotary_dim} must be even and at most head_dim = {config.head_dim}"
        )
    if len(config.attn_type_list) != config.num_hidden_layers:
        raise ConfigError(
            f"attn_type_list names {len(config.attn_type_list)} layers, num_hidden_layers = "
            f"{config.num_hidden_layers}"
        )
    unknown = set(config.attn_type_list) - {LIGHTNING, SOFTMAX}
    if unknown:
        raise ConfigError(
            f"attn_type_list holds {sorted(unknown)}; 0 is lightning and 1 is softmax attention"
        )


_DEFAULTED = frozenset(field.name for field in fields(ModelConfig) if field.default is not MISSING)
