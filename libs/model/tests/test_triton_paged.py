"""Pages and idle rows over every GPU kernel, in Triton's interpreter: the bits may not depend on either.

Legend: B rows, V vocabulary.
"""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from forklight_kernels import Backend, using_backend
from forklight_kernels.backend import has_triton
from forklight_model.cache import PAGE_TOKENS, CacheForm, HybridCache, cache_bytes
from forklight_model.generation_pass import DecodePass
from forklight_model.inference import PromptPieces, advance, decode, prefill
from forklight_model.model import HybridModel
from forklight_model.parity import SELF_TEST
from libs.model.tests.scattered import occupy, scattered_cache

TINY = replace(
    SELF_TEST,
    vocab_size=61,
    hidden_size=32,
    intermediate_size=16,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    rotary_dim=8,
    num_local_experts=3,
    initializer_range=0.2,
)

pytestmark = [
    pytest.mark.skipif(not has_triton(), reason="Triton is not installed"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="Triton compiles where there is a GPU"),
]


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    with using_backend(Backend.TRITON):
        yield


@pytest.fixture
def model() -> HybridModel:
    return HybridModel(TINY)


def cut(slots: tuple[int, ...], *lengths: int) -> PromptPieces:
    return PromptPieces(slots=slots, lengths=lengths)


def same(one: Tensor, other: Tensor) -> bool:
    """In bits, what no sequence has written included."""
    return torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def contents(cache: HybridCache) -> list[Tensor]:
    memory = cache.lightning_memory(0)
    kept = (memory.states_SHDD, memory.rounded_SHDD, memory.keys_SHCD, memory.values_SHCD)
    paged = (cache.keys_FMGLP, cache.values_FMGLP, cache.table_SN, cache.lengths_S)
    return [tensor.clone() for tensor in (*kept, *paged) if tensor is not None]


def test_scattered_pages_give_the_bits_of_pages_in_order(model: HybridModel) -> None:
    piece_T, ids_B = torch.randint(61, (4,)), torch.randint(61, (2,))
    logits = []
    for cache in (HybridCache(TINY, 2, 600), scattered_cache(TINY, 2, 600)):
        occupy(cache, (10, PAGE_TOKENS - 3))
        piece_BV = prefill(model, cache, cut((1, 0), 3, 1), piece_T)
        logits.append(torch.cat([piece_BV, decode(model, cache, 2, ids_B)]))
        assert cache.lengths_S.tolist() == [12, PAGE_TOKENS + 1]
    assert torch.equal(*logits) and bool(logits[0].isfinite().all())


def test_idle_rows_change_no_bit_of_live_ones_and_nothing_of_their_own(model: HybridModel) -> None:
    padded, alone = (scattered_cache(TINY, 4, 100) for _ in range(2))
    for cache in (padded, alone):
        occupy(cache, (63, 8, 20))
        cache.clear_table([3])
    before = contents(padded)
    is_live_B = torch.tensor([1, 1, 0, 0])
    for _ in range(2):  # slot 0 fills its chunk, and begins the next one
        ids_B = torch.randint(61, (4,))
        logits_BV = advance(model, DecodePass.over(padded, 4, is_live_B), ids_B)
        assert torch.equal(logits_BV[:2], decode(model, alone, 2, ids_B[:2]))
        assert bool(logits_BV.isfinite().all())
    after = contents(padded)
    assert all(same(one, other) for one, other in zip(after, contents(alone), strict=True))
    assert all(same(old[2:], new[2:]) for old, new in zip(before[:4], after[:4], strict=True))
    assert padded.lengths_S.tolist() == [65, 10, 20, 0]


def test_a_step_of_idle_rows_alone_leaves_occupied_slots_alone(model: HybridModel) -> None:
    cache = HybridCache(TINY, 3, 100)
    occupy(cache, (63, 64))
    before = contents(cache)
    advance(model, DecodePass.over(cache, 3, torch.zeros(3, dtype=torch.int64)), torch.ones(3).long())
    assert all(same(old, new) for old, new in zip(before, contents(cache), strict=True))


def test_cache_bytes_counts_open_chunks() -> None:
    cache = HybridCache(TINY, 3, 40, form=CacheForm(num_pages=5))
    held = [tensor for tensor in contents(cache) if tensor.dtype != torch.int32]  # less the table
    assert len(held) == 7 and cache_bytes(TINY, 3, 5) == sum(tensor.nbytes for tensor in held)
