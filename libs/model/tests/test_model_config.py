"""Configuration: the published file, the named sizes, and refusals that give the reason."""

import json
from pathlib import Path

import pytest

from forklight_core.errors import ConfigError
from forklight_model.config import ModelConfig, load_config
from forklight_model.model import HybridModel
from forklight_model.sizes import SIZES, num_active_parameters, num_parameters
from forklight_model.tokenizer import build_character_tokenizer


def test_every_size_round_trips_through_its_published_form() -> None:
    for config in SIZES.values():
        assert ModelConfig.from_published(json.loads(json.dumps(config.to_published()))) == config


def test_the_golden_config_is_read_and_written_back(golden_dir: Path) -> None:
    published = json.loads((golden_dir / "config.json").read_text())
    written = load_config(golden_dir).to_published()
    assert {name: written[name] for name in published} == published


def test_sizes_have_the_parameters_they_promise() -> None:
    assert num_parameters(SIZES["minimax-m1"]) == 456_089_655_296
    assert 45e9 < num_active_parameters(SIZES["minimax-m1"]) < 49e9
    assert num_parameters(SIZES["small"]) / 1e9 == pytest.approx(3.00, abs=0.005)
    assert num_parameters(SIZES["mini"]) / 1e9 == pytest.approx(0.31, abs=0.005)
    assert 1e6 < num_parameters(SIZES["nano"]) < 5e6


def test_counted_parameters_are_the_models_own() -> None:
    model = HybridModel(SIZES["nano"])
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters(SIZES["nano"])
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == num_parameters(SIZES["nano"])


def test_nano_speaks_the_character_tokenizer() -> None:
    assert SIZES["nano"].vocab_size == build_character_tokenizer().vocab_size


def test_minimax_m1_is_the_published_config() -> None:
    config = SIZES["minimax-m1"]
    assert config.softmax_layers == (7, 15, 23, 31, 39, 47, 55, 63, 71, 79)
    assert (config.layernorm_full_attention_alpha, config.layernorm_mlp_beta) == (3.5565588200778455, 1.0)
    assert (config.rms_norm_eps, config.rope_theta, config.router_aux_loss_coef) == (1e-5, 1e7, 0.001)
    assert config.max_position_embeddings == 10_240_000 and config.postnorm


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM"),
        ({"model_type": "llama"}, "model_type"),
        ({"num_key_value_heads": 3}, "not a multiple"),
        ({"attn_type_list": [0, 1]}, "names 2 layers"),
        ({"attn_type_list": [0, 0, 0, 0, 0, 0, 0, 2]}, r"holds \[2\]"),
        ({"attn_type_list": "0"}, "wrong type"),
        ({"rotary_dim": 64}, "rotary_dim"),
        ({"rotary_dim": 5}, "even"),
        ({"num_experts_per_tok": 5}, "exceeds num_local_experts"),
        ({"hidden_size": 0}, "at least 1"),
        ({"hidden_size": "128"}, "wrong type"),
        ({"postnorm": 1}, "wrong type"),
        ({"rms_norm_eps": 0.0}, "must be > 0"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
        ({"shared_intermediate_size": 128}, "shared_intermediate_size"),
        ({"sliding_window": 1024}, "sliding_window"),
    ],
)
def test_a_config_of_another_model_is_refused_with_the_reason(
    change: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_published(SIZES["nano"].to_published() | change)


def test_missing_fields_are_named() -> None:
    published = SIZES["nano"].to_published()
    del published["rotary_dim"], published["vocab_size"]
    with pytest.raises(ConfigError, match="lacks rotary_dim, vocab_size"):
        ModelConfig.from_published(published)


def test_unreadable_config_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path)
    for content, message in (("{", "not valid JSON"), ("[1]", "holds a list")):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ConfigError, match=message):
            load_config(tmp_path)
