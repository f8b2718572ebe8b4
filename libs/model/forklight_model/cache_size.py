"""How much memory a generation cache takes: by slot, by page, in all."""

import torch

from forklight_kernels import Backend, backend_on
from forklight_kernels.lightning_attention.chunks import MAX_CHUNK
from forklight_model.config import ModelConfig
from forklight_model.shard import WHOLE, Shard

PAGE_TOKENS = 256
"""Places of a page: a multiple of the key block that kernels read at once."""


def slot_bytes(
    config: ModelConfig,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    shard: Shard = WHOLE,
) -> int:
    """Bytes of one slot: what a sequence takes at any length. Its row of the page table is not counted."""
    heads, _ = held_heads(config, shard)
    head_bytes = config.head_dim**2 * state_dtype(dtype).itemsize
    if has_open_chunks(device, dtype):
        head_bytes += (config.head_dim + 2 * MAX_CHUNK) * config.head_dim * dtype.itemsize
    return len(config.lightning_layers) * heads * head_bytes + torch.int64.itemsize


def page_bytes(config: ModelConfig, dtype: torch.dtype = torch.float32, shard: Shard = WHOLE) -> int:
    """Bytes of one page: keys and values of PAGE_TOKENS tokens in all softmax layers."""
    _, key_heads = held_heads(config, shard)
    return len(config.softmax_layers) * 2 * key_heads * PAGE_TOKENS * config.head_dim * dtype.itemsize


def cache_bytes(
    config: ModelConfig,
    num_slots: int,
    num_pages: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    shard: Shard = WHOLE,
) -> int:
    """Bytes of a cache with so many slots and pages, the scratch page among them."""
    return num_slots * slot_bytes(config, dtype, device, shard) + num_pages * page_bytes(config, dtype, shard)


def columns_for(num_tokens: int) -> int:
    """Pages that a sequence of this length needs."""
    return -(-num_tokens // PAGE_TOKENS)


def held_heads(config: ModelConfig, shard: Shard) -> tuple[int, int]:
    """Heads and key heads of this process."""
    heads = shard.num(config.num_attention_heads, "num_attention_heads")
    return heads, shard.num(config.num_key_value_heads, "num_key_value_heads")


def has_open_chunks(device: torch.device | str, dtype: torch.dtype) -> bool:
    """Whether lightning layers remember chunks as the GPU's kernels do, instead of a state alone."""
    return backend_on(torch.device(device), dtype) is Backend.TRITON


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """What lightning states are kept in."""
    return torch.float64 if dtype == torch.float64 else torch.float32
