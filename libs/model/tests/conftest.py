"""A tiny model with every kind of layer, and the published code's golden checkpoint beside the repository."""

import os
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():  # Triton decides at its import whether it interprets
    os.environ.setdefault("TRITON_INTERPRET", "1")

from forklight_model.config import ModelConfig
from forklight_model.model import HybridModel
from forklight_model.sizes import hybrid_layers

GOLDEN = Path(__file__).resolve().parents[4] / "shared" / "golden" / "minimax-m1-tiny"


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def config() -> ModelConfig:
    return ModelConfig(
        vocab_size=103,
        hidden_size=32,
        intermediate_size=24,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        rotary_dim=4,
        num_local_experts=4,
        num_experts_per_tok=2,
        attn_type_list=hybrid_layers(8),
        max_position_embeddings=512,
        initializer_range=0.2,
    )


@pytest.fixture
def model(config: ModelConfig) -> HybridModel:
    return HybridModel(config)


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    if not (GOLDEN / "golden.safetensors").is_file():
        pytest.skip(f"the golden checkpoint is not at {GOLDEN}")
    return GOLDEN
