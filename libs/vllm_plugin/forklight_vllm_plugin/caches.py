"""The layers as vLLM's cache manager sees them: what each remembers, and where vLLM put it.

vLLM finds them by name in its forward context and hands each its part of the pages.
Legend: S pages, H heads, G key heads, L places of a page, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.model_executor.layers.mamba.abstract import MambaBase
from vllm.v1.attention.backend import AttentionBackend
from vllm.v1.attention.backends.registry import MambaAttentionBackendEnum
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheSpec

from forklight_core.errors import ConfigError
from forklight_kernels import Backend, LightningMemory, backend_on
from forklight_kernels.lightning_attention.chunks import MAX_CHUNK
from forklight_model.config import ModelConfig
from forklight_vllm_plugin.backends import LightningBackend, SoftmaxBackend

StateShapes = tuple[tuple[int, ...], ...]


def state_shapes(config: ModelConfig, device: str, dtype: torch.dtype) -> StateShapes:
    """Of one sequence in one lightning layer: its state, and on a GPU the open chunk beside it."""
    heads, size = config.num_attention_heads, config.head_dim
    state = (heads, size, size)
    if not _has_open_chunks(device, dtype):
        return (state,)
    chunk = (heads, MAX_CHUNK, size)
    return (state, state, chunk, chunk)


def state_dtypes(device: str, dtype: torch.dtype) -> tuple[torch.dtype, ...]:
    """The state is fp32 whatever the model's dtype: a bf16 state drifts over tens of thousands of tokens."""
    return (torch.float32, dtype, dtype, dtype) if _has_open_chunks(device, dtype) else (torch.float32,)


def _has_open_chunks(device: str, dtype: torch.dtype) -> bool:
    return backend_on(torch.device(device), dtype) is Backend.TRITON


class LightningPages(MambaBase):  # type: ignore[misc]  # vLLM's classes have no types here
    """What a lightning layer remembers of its sequences."""

    def __init__(self, config: ModelConfig, vllm_config: VllmConfig, name: str) -> None:
        self._config = config
        self._device = vllm_config.device_config.device_type
        self._dtype = vllm_config.model_config.dtype
        self.kv_cache: tuple[Tensor, ...] = ()  # set by vLLM
        enter(self, vllm_config, name)

    @property
    def memory(self) -> LightningMemory:
        """The pages as the kernels name their parts; strided over vLLM's page size."""
        parts: list[Tensor | None] = [*self.kv_cache, None, None, None]
        states_SHDD = parts[0]
        assert states_SHDD is not None
        return LightningMemory(
            states_SHDD=states_SHDD, rounded_SHDD=parts[1], keys_SHCD=parts[2], values_SHCD=parts[3]
        )

    @property
    def mamba_type(self) -> MambaAttentionBackendEnum:
        return MambaAttentionBackendEnum.CUSTOM

    def get_state_shape(self) -> StateShapes:
        return state_shapes(self._config, self._device, self._dtype)

    def get_state_dtype(self) -> tuple[torch.dtype, ...]:
        return state_dtypes(self._device, self._dtype)

    def get_attn_backend(self) -> type[AttentionBackend]:
        return LightningBackend


class SoftmaxPages(AttentionLayerBase):  # type: ignore[misc]
    """What a softmax layer remembers: keys and values, in the layout of our own kernels."""

    def __init__(self, config: ModelConfig, vllm_config: VllmConfig, name: str) -> None:
        self._config = config
        self._dtype = vllm_config.model_config.dtype
        self.num_heads = config.num_attention_heads
        self.kv_cache = torch.empty(0)  # set by vLLM
        if vllm_config.cache_config.cache_dtype not in ("auto", str(self._dtype).removeprefix("torch.")):
            raise ConfigError(
                f"kv_cache_dtype = {vllm_config.cache_config.cache_dtype!r}: keys and values are kept in the "
                "model's own dtype, leave it at 'auto'"
            )
        enter(self, vllm_config, name)

    @property
    def keys_and_values(self) -> tuple[Tensor, Tensor]:
        """[S, G, L, D] each."""
        keys_SGLD, values_SGLD = self.kv_cache.unbind(1)
        return keys_SGLD, values_SGLD

    def get_attn_backend(self) -> type[AttentionBackend]:
        return SoftmaxBackend

    def get_kv_cache_spec(self, vllm_config: VllmConfig) -> KVCacheSpec:
        return FullAttentionSpec(
            block_size=vllm_config.cache_config.block_size,
            num_kv_heads=self._config.num_key_value_heads,
            head_size=self._config.head_dim,
            dtype=self._dtype,
        )


def enter(pages: AttentionLayerBase, vllm_config: VllmConfig, name: str) -> None:
    """Make pages known to vLLM under a name."""
    known = vllm_config.compilation_config.static_forward_context
    if name in known:
        raise ConfigError(f"two layers are called {name}; load the model once in a process")
    known[name] = pages
