"""The cache's shape: as wished when it fits, smaller when not, an error when nothing fits."""

from __future__ import annotations

import pytest

from forklight_core.errors import ConfigError
from forklight_model.cache import PAGE_TOKENS, CacheForm, HybridCache, page_bytes, slot_bytes
from forklight_model.sizes import SIZES
from forklight_rollout.generation.throughput import Throughput
from forklight_rollout.memory_plan import CacheCosts, MemoryPlan, MemoryWish, available_bytes, plan_memory

NANO = SIZES["nano"]


def plan(budget_bytes: int, *, max_batch: int = 32, max_new_tokens: int = 100) -> MemoryPlan:
    wish = MemoryWish(
        max_batch=max_batch, max_prompt_tokens=28, max_new_tokens=max_new_tokens, budget_bytes=budget_bytes
    )
    costs = CacheCosts(slot_bytes=slot_bytes(NANO), page_bytes=page_bytes(NANO), page_tokens=PAGE_TOKENS)
    return plan_memory(wish, costs, max_positions=4096)


def test_the_wished_batch_is_planned_when_it_fits() -> None:
    made = plan(2**30)
    assert (made.num_sequences, made.num_prompt_slots, made.max_tokens) == (32, 2, 128)


def test_the_batch_shrinks_to_what_fits_and_the_cache_really_takes_no_more() -> None:
    made = plan(6_000_000)
    assert 0 < made.num_sequences < 32
    form = CacheForm(num_pages=made.num_pages)
    cache = HybridCache(NANO, made.num_slots, made.max_tokens, form=form)
    tensors = (cache.states_ASHPP, cache.keys_FMGLP, cache.values_FMGLP, cache.lengths_S)
    assert sum(tensor.nbytes for tensor in tensors) == made.cache_bytes <= 6_000_000


@pytest.mark.parametrize("budget_bytes", [8_000_000, 20_000_000, 2**30])
def test_the_longest_sequence_always_finds_its_pages(budget_bytes: int) -> None:
    made = plan(budget_bytes, max_new_tokens=2000)
    assert made.num_pages - 1 - made.num_reserved_pages >= -(-made.max_tokens // PAGE_TOKENS)
    assert made.count_fitting(made.max_tokens) >= 1
    assert made.count_fitting(1) == made.num_sequences
    assert made.lengths_that_fit() == {"fit_2028_tokens": made.count_fitting(2028)}


def test_nothing_fits_is_an_error_that_names_the_settings() -> None:
    with pytest.raises(ConfigError, match="FORKLIGHT_CACHE_MEMORY_BYTES"):
        plan(1000)


def test_a_window_without_room_for_a_prompt_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_new_tokens = 4096 leaves no room"):
        plan(2**30, max_new_tokens=4096)


def test_the_positions_of_the_model_bound_a_sequence() -> None:
    assert plan(2**40, max_batch=1, max_new_tokens=4090).max_tokens == 4096


def test_without_a_setting_a_share_of_free_memory_is_the_budget() -> None:
    made = plan(0, max_batch=1)
    assert 0 < made.budget_bytes <= available_bytes() * 2


def test_throughput_is_the_mean_of_the_last_ten_seconds() -> None:
    throughput = Throughput()
    assert throughput.tokens_per_s(100.0, 0) == 0.0
    for second in range(100, 121):
        throughput.note(float(second), 50 * (second - 100))
        assert second == 100 or throughput.tokens_per_s(second, 50 * (second - 100)) == pytest.approx(50.0)
    assert throughput.tokens_per_s(125.0, 1000) == pytest.approx(25.0)
    assert throughput.tokens_per_s(200.0, 1000) == 0.0
