"""A cache whose pages lie in any order, as an engine's do after a while; and memory without a prefill."""

from collections.abc import Sequence

import torch

from forklight_model.cache import PAGE_TOKENS, CacheForm, HybridCache
from forklight_model.cache_size import columns_for
from forklight_model.config import ModelConfig

BLANK = float("nan")
"""In places that no sequence has written: nothing may read them."""


def scattered_cache(
    config: ModelConfig,
    num_slots: int,
    max_tokens: int,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> HybridCache:
    """Every slot has pages for `max_tokens`, in an order drawn from a fixed seed; some pages are nobody's."""
    num_columns = columns_for(max_tokens)
    num_used, form = num_slots * num_columns, CacheForm(num_pages=num_slots * num_columns + 3)
    cache = HybridCache(config, num_slots, max_tokens, dtype, device, form)
    order = torch.randperm(num_used + 2, generator=torch.Generator().manual_seed(5))[:num_used] + 1
    for slot in range(num_slots):
        pages = order[slot * num_columns : (slot + 1) * num_columns].tolist()
        cache.write_table([slot] * num_columns, range(num_columns), pages)
    return cache


@torch.inference_mode()
def occupy(cache: HybridCache, lengths: Sequence[int]) -> None:
    """Drawn memory for sequences this long in the first slots, the same in any order of pages."""
    generator = torch.Generator().manual_seed(7)
    cache.keys_FMGLP.fill_(BLANK)
    cache.values_FMGLP.fill_(BLANK)
    for slot, length in enumerate(lengths):
        cache.set_length(slot, length)
        for layer in cache.lightning_place:
            memory = cache.lightning_memory(layer)
            for part_SHXD in (memory.states_SHDD, memory.keys_SHCD, memory.values_SHCD):
                if part_SHXD is not None:
                    part_SHXD[slot].normal_(generator=generator)
            if memory.rounded_SHDD is not None:
                memory.rounded_SHDD[slot] = memory.states_SHDD[slot]
        for pages_FMGLP in (cache.keys_FMGLP, cache.values_FMGLP):
            for place in range(length):
                row_FGP = pages_FMGLP[
                    :, int(cache.table_SN[slot, place // PAGE_TOKENS]), :, place % PAGE_TOKENS
                ]
                row_FGP.normal_(generator=generator)
