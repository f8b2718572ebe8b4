"""The arguments vLLM is started with, and why each is what it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from forklight_rollout.adapters.vllm.options import VllmOptions

SCHEDULER = "forklight_vllm_plugin.scheduler.RepetitionScheduler"
WORKER_EXTENSION = "forklight_vllm_plugin.extension.RolloutWorker"
WEIGHT_ENGINE = "forklight_shards"
LEAST_SHARE = 0.01
"""Of a GPU's memory, where the caches' size is given: vLLM starts only where its share is free."""


def engine_arguments(
    folder: Path, options: VllmOptions, *, max_model_tokens: int, device: str
) -> dict[str, Any]:
    """Of vLLM's AsyncEngineArgs."""
    if options.is_batch_invariant:
        os.environ["VLLM_BATCH_INVARIANT"] = "1"
    arguments: dict[str, Any] = {
        "model": str(folder),
        "skip_tokenizer_init": True,  # tokens in, tokens out
        "load_format": "safetensors",
        "dtype": options.dtype,
        "seed": 0,
        "max_model_len": max_model_tokens,
        "max_num_seqs": options.num_sequences,
        "max_num_batched_tokens": max(options.step_tokens, options.num_sequences),
        "enable_chunked_prefill": True,
        "enable_prefix_caching": options.caches_prefixes,
        "tensor_parallel_size": options.num_gpus,
        "scheduler_cls": SCHEDULER,
        "worker_extension_cls": WORKER_EXTENSION,
        "weight_transfer_config": {"backend": WEIGHT_ENGINE},
        "disable_log_stats": True,
    }
    if options.cache_bytes:
        arguments["kv_cache_memory_bytes"] = options.cache_bytes
    is_share_meant = device == "cpu" or not options.cache_bytes
    arguments["gpu_memory_utilization"] = options.memory_share if is_share_meant else LEAST_SHARE
    if device == "cpu" or not options.uses_graphs:
        arguments["enforce_eager"] = True
    else:
        # No compiler between trainer and rollout; decode steps are recorded as they are.
        arguments["compilation_config"] = {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}
    return arguments
