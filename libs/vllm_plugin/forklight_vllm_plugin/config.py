"""The published config.json as a Hugging Face configuration, which vLLM asks for its sizes."""

from __future__ import annotations

from transformers import PretrainedConfig

from forklight_vllm_plugin import MODEL_TYPE


class HybridConfig(PretrainedConfig):  # type: ignore[misc]  # an optional package, without types here
    """Holds every published field under its own name; `forklight_model.ModelConfig` checks them."""

    model_type = MODEL_TYPE
