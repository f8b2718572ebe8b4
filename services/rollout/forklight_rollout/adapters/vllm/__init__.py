"""An engine over vLLM's AsyncLLM: any model that vLLM serves, ours through `forklight-vllm-plugin`.

vLLM is imported when an engine is made, never before.
"""

from forklight_rollout.adapters.vllm.engine import VllmEngine, vllm_engine_factory
from forklight_rollout.adapters.vllm.options import VllmOptions

__all__ = ["VllmEngine", "VllmOptions", "vllm_engine_factory"]
