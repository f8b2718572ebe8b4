"""The engine on transformers, in this process: for any causal language model, on a CPU or one GPU."""

from forklight_rollout.adapters.hf.engine import HfEngine, HfOptions
from forklight_rollout.adapters.hf.factory import hf_engine_factory

__all__ = ["HfEngine", "HfOptions", "hf_engine_factory"]
