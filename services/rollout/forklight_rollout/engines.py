"""Which engine a pod runs: the run file's choice, with the run file's and the deployment's settings."""

from __future__ import annotations

from forklight_core.errors import ConfigError
from forklight_core.runfile import RunFile, largest_window
from forklight_rollout.memory_plan import MemoryWish
from forklight_rollout.ports import EngineFactory
from forklight_rollout.settings import RolloutSettings


def choose_engine(settings: RolloutSettings, run_file: RunFile) -> EngineFactory:
    """Engines of the kind `rollout.engine` names; torch and vLLM are imported here, not before."""
    if run_file.rollout.engine == "vllm":
        return _vllm(settings, run_file)
    return _hf(settings, run_file) if run_file.model.hf else _native(settings, run_file)


def _hf(settings: RolloutSettings, run_file: RunFile) -> EngineFactory:
    from forklight_rollout.adapters.hf import HfOptions, hf_engine_factory

    wish = MemoryWish(
        max_batch=run_file.rollout.max_batch,
        max_prompt_tokens=settings.max_prompt_tokens,
        max_new_tokens=largest_window(run_file),
        budget_bytes=settings.cache_memory_bytes,
    )
    threads = run_file.rollout.threads
    options = HfOptions(dtype=run_file.model.dtype, device=settings.device, threads=threads)
    return hf_engine_factory(wish, options)


def _native(settings: RolloutSettings, run_file: RunFile) -> EngineFactory:
    from forklight_rollout.adapters.native import NativeOptions, native_engine_factory

    wish = MemoryWish(
        max_batch=run_file.rollout.max_batch,
        max_prompt_tokens=settings.max_prompt_tokens,
        max_new_tokens=largest_window(run_file),
        budget_bytes=settings.cache_memory_bytes,
    )
    options = NativeOptions(
        dtype=run_file.model.dtype,
        device=settings.device,
        threads=run_file.rollout.threads,
        records_routing=run_file.parity.routing_replay,
        num_gpus=settings.gpus_per_pod or run_file.rollout.tensor_parallel,
        gpus_deadline_s=settings.gpus_deadline_s,
    )
    return native_engine_factory(wish, options)


def _vllm(settings: RolloutSettings, run_file: RunFile) -> EngineFactory:
    from forklight_rollout.adapters.vllm import VllmOptions, vllm_engine_factory

    if run_file.parity.routing_replay:
        raise ConfigError(
            'parity.routing_replay = true needs what the routers chose, which rollout.engine = "vllm" does '
            'not record: set parity.routing_replay = false or rollout.engine = "native"'
        )
    return vllm_engine_factory(
        VllmOptions(
            dtype=run_file.model.dtype,
            num_sequences=run_file.rollout.max_batch,
            max_tokens=settings.max_prompt_tokens + largest_window(run_file),
            cache_bytes=settings.cache_memory_bytes,
            num_gpus=settings.gpus_per_pod or run_file.rollout.tensor_parallel,
        )
    )
