"""What vLLM asks before each step: how its batch looks to our layers.

Tensors of the step are vLLM's own, at addresses that do not move, so a CUDA graph may keep them.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.v1.attention.backend import (
    AttentionBackend,
    AttentionCGSupport,
    AttentionImpl,
    AttentionMetadataBuilder,
    CommonAttentionMetadata,
    MultipleOf,
)
from vllm.v1.attention.backends.utils import split_decodes_and_prefills
from vllm.v1.kv_cache_interface import KVCacheSpec

from forklight_kernels.softmax_attention.blocks import KEY_BLOCK
from forklight_model.upload import upload_offsets
from forklight_vllm_plugin.paged_pass import StepRows


class RowsBuilder(AttentionMetadataBuilder[StepRows]):  # type: ignore[misc]
    """Decodes come first in a batch, then prompts."""

    reorder_batch_threshold = 1
    supports_update_block_table = True
    _cudagraph_support = AttentionCGSupport.UNIFORM_SINGLE_TOKEN_DECODE

    def __init__(
        self,
        kv_cache_spec: KVCacheSpec,
        layer_names: list[str],
        vllm_config: VllmConfig,
        device: torch.device,
    ) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)

    def build(
        self,
        common_prefix_len: int,
        common_attn_metadata: CommonAttentionMetadata,
        fast_build: bool = False,
    ) -> StepRows:
        """The rows of one step, from vLLM's description of it."""
        step = common_attn_metadata
        num_decodes, num_prefills, _, _ = split_decodes_and_prefills(step, decode_threshold=1)
        rows = StepRows(
            num_decodes=num_decodes,
            num_tokens=step.num_actual_tokens,
            table_BN=step.block_table_tensor,
            lengths_B=step.seq_lens,
            longest=step.max_seq_len,
        )
        return _with_prompts(rows, step) if num_prefills else rows

    def update_block_table(self, metadata: StepRows, blk_table: Tensor, slot_mapping: Tensor) -> StepRows:
        """The same step for another cache group of the same kind."""
        return replace(metadata, table_BN=blk_table)


def _with_prompts(rows: StepRows, step: CommonAttentionMetadata) -> StepRows:
    first = rows.num_decodes
    starts = step.query_start_loc_cpu
    new_tokens = (starts[1:] - starts[:-1])[first:]
    # Exact for prompts; vLLM's bound is loose only for drafted tokens, which this engine never uses.
    seen = step.seq_lens_cpu_upper_bound[first:] - new_tokens
    # From the host's numbers: kernels that had to read the device's would wait for all that is queued there.
    cu_seqlens = upload_offsets(new_tokens.tolist(), step.query_start_loc.device)
    return replace(rows, cu_seqlens=cu_seqlens, seen=tuple(seen.tolist()))


class _RowsBackend(AttentionBackend):  # type: ignore[misc]
    """The layers compute themselves, so there is no implementation to name."""

    @staticmethod
    def get_impl_cls() -> type[AttentionImpl]:
        raise NotImplementedError("the layers of this backend compute in the model's own blocks")

    @staticmethod
    def get_builder_cls() -> type[RowsBuilder]:
        return RowsBuilder

    @classmethod
    def supports_batch_invariance(cls) -> bool:
        return True


class LightningBackend(_RowsBackend):
    """A state a sequence."""

    @staticmethod
    def get_name() -> str:
        return "FORKLIGHT_LIGHTNING"

    @classmethod
    def is_ssm(cls) -> bool:
        return True

    @staticmethod
    def get_kv_cache_shape(
        num_blocks: int, block_size: int, num_kv_heads: int, head_size: int, cache_dtype_str: str = "auto"
    ) -> tuple[int, ...]:
        raise NotImplementedError("a lightning layer has states, not keys and values")


class SoftmaxBackend(_RowsBackend):
    """Keys and values in pages, keys first, each [page, key head, place, head size]."""

    @staticmethod
    def get_name() -> str:
        return "FORKLIGHT_SOFTMAX"

    @staticmethod
    def get_supported_kernel_block_sizes() -> list[int | MultipleOf]:
        return [MultipleOf(KEY_BLOCK)]

    @staticmethod
    def get_kv_cache_shape(
        num_blocks: int, block_size: int, num_kv_heads: int, head_size: int, cache_dtype_str: str = "auto"
    ) -> tuple[int, ...]:
        return (num_blocks, 2, num_kv_heads, block_size, head_size)
