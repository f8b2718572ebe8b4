"""What Forklight adds to vLLM, registered in each of its processes through the entry point.

`register` is cheap, may be called twice and touches no GPU; what computes is imported by name later.
"""

from __future__ import annotations

ARCHITECTURE = "MiniMaxM1ForCausalLM"
MODEL_TYPE = "minimax_m1"
WEIGHT_ENGINE = "forklight_shards"


def register() -> None:
    """Make the hybrid model and the weight engine known to vLLM."""
    from transformers import AutoConfig
    from vllm import ModelRegistry
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    from forklight_vllm_plugin.config import HybridConfig

    AutoConfig.register(MODEL_TYPE, HybridConfig, exist_ok=True)
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, "forklight_vllm_plugin.model:HybridForCausalLM")
    if WEIGHT_ENGINE not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(
            WEIGHT_ENGINE, "forklight_vllm_plugin.weights", "ShardsWeightEngine"
        )
