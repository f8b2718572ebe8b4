"""The hybrid model as vLLM runs it: the trainer's own blocks over vLLM's pages.

Nothing is computed here. `HybridModel` computes, `PagedPass` reaches the cache, vLLM schedules.
Legend: T rows of a step, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from vllm.config import VllmConfig
from vllm.forward_context import get_forward_context
from vllm.model_executor.models.interfaces import HasInnerState, IsHybrid
from vllm.model_executor.models.utils import maybe_prefix

from forklight_core.errors import CheckpointError, ConfigError
from forklight_model.config import ModelConfig
from forklight_model.model import HybridModel
from forklight_vllm_plugin.caches import LightningPages, SoftmaxPages, StateShapes, state_dtypes, state_shapes
from forklight_vllm_plugin.paged_pass import PagedPass, StepRows


class HybridForCausalLM(nn.Module, HasInnerState, IsHybrid):  # type: ignore[misc]
    """Registered with vLLM under the published architecture's name."""

    exact_kernels: ClassVar[tuple[str, ...]] = ("lightning", "softmax", "moe", "head")
    """Those of the trainer: here all of them."""
    loads_in_place: ClassVar[bool] = True
    """New weights may be copied over the old ones: no kernel keeps a repacked copy."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        _check_served(vllm_config)
        config = model_config(vllm_config)
        self.network = HybridModel(config, is_initialized=False)
        root = maybe_prefix(prefix, "model")
        self._names = {layer: f"{root}.layers.{layer}" for layer in range(config.num_hidden_layers)}
        self._lightning = {
            layer: LightningPages(config, vllm_config, self._names[layer])
            for layer in config.lightning_layers
        }
        self._softmax = {
            layer: SoftmaxPages(config, vllm_config, self._names[layer]) for layer in config.softmax_layers
        }

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        return embedding(input_ids, self.network.model.embed_tokens.weight)

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        intermediate_tensors: object = None,
        inputs_embeds: Tensor | None = None,
        **_: object,
    ) -> Tensor:
        """Hidden states after the final norm."""
        if inputs_embeds is not None or intermediate_tensors is not None:
            raise ConfigError("the hybrid model takes token ids, in one pipeline stage")
        rows_by_name: dict[str, StepRows] | None = get_forward_context().attn_metadata

        def rows_of(layer: int) -> StepRows | None:
            return None if rows_by_name is None else rows_by_name[self._names[layer]]

        step = PagedPass(
            positions_T=positions, rows_of=rows_of, lightning=self._lightning, softmax=self._softmax
        )
        return self.network.run_stack(input_ids, step, None)

    def compute_logits(self, hidden_states: Tensor) -> Tensor:
        """fp32, from the stored operands."""
        return self.network.logits(hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Copy every published tensor into place; all of them, or an error that names what is wrong."""
        missing = dict(self.network.state_dict())
        with torch.no_grad():
            for name, tensor in weights:
                target = missing.pop(name, None)
                if target is None:
                    raise CheckpointError(f"tensor {name} came twice, or is none of this model's")
                if target.shape != tensor.shape:
                    raise CheckpointError(
                        f"{name} is {tuple(tensor.shape)}, the config needs {tuple(target.shape)}"
                    )
                target.copy_(tensor)
        if missing:
            raise CheckpointError(f"the weights lack {', '.join(sorted(missing)[:4])} and maybe more")
        return {name for name, _ in self.named_parameters()}

    @classmethod
    def get_mamba_state_shape_from_config(cls, vllm_config: VllmConfig) -> StateShapes:
        return state_shapes(
            model_config(vllm_config), vllm_config.device_config.device_type, vllm_config.model_config.dtype
        )

    @classmethod
    def get_mamba_state_dtype_from_config(cls, vllm_config: VllmConfig) -> tuple[torch.dtype, ...]:
        return state_dtypes(vllm_config.device_config.device_type, vllm_config.model_config.dtype)


def model_config(vllm_config: VllmConfig) -> ModelConfig:
    """The published configuration, checked as the trainer checks it."""
    return ModelConfig.from_published(vllm_config.model_config.hf_config.to_dict())


def _check_served(vllm_config: VllmConfig) -> None:
    """What this plugin does not do is refused here, before memory is taken."""
    parallel = vllm_config.parallel_config
    if parallel.tensor_parallel_size > 1 or parallel.pipeline_parallel_size > 1:
        raise ConfigError(
            "the hybrid model runs on one GPU per vLLM engine: set tensor and pipeline parallel size to 1, "
            "and use more pods, or the native engine for a model that needs several GPUs"
        )
    if vllm_config.cache_config.mamba_cache_mode != "none":
        raise ConfigError("the hybrid model has no prefix cache in vLLM: set enable_prefix_caching=False")
    if vllm_config.speculative_config is not None:
        raise ConfigError("the hybrid model does not take drafted tokens: leave speculative decoding off")
    if vllm_config.compilation_config.mode not in (None, 0):
        raise ConfigError("the hybrid model brings its own kernels: set compilation mode 0")
