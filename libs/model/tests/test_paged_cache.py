"""A cache whose pages an engine manages: tables, copies, idle rows, sequences that go to the host and return.

Legend: B rows, V vocabulary.
"""

import pytest
import torch
from torch import Tensor

from forklight_core.errors import ConfigError, InvalidInputError
from forklight_model.cache import (
    PAGE_TOKENS,
    SCRATCH_PAGE,
    CacheForm,
    HybridCache,
    cache_bytes,
)
from forklight_model.config import ModelConfig
from forklight_model.generation_pass import DecodePass
from forklight_model.inference import PromptPieces, advance, decode, prefill
from forklight_model.model import HybridModel
from forklight_model.parity import SamplingPlan, count_unequal, sample_sequences
from forklight_model.shard import Shard
from libs.model.tests.scattered import scattered_cache

LONG = PAGE_TOKENS + 30


def cut(slots: tuple[int, ...], *lengths: int) -> PromptPieces:
    return PromptPieces(slots=slots, lengths=lengths)


def contents(cache: HybridCache) -> list[Tensor]:
    kept = (cache.states_ASHPP, cache.keys_FMGLP, cache.values_FMGLP, cache.table_SN, cache.lengths_S)
    return [tensor.clone() for tensor in kept]


def test_scattered_pages_hold_what_pages_in_order_hold(model: HybridModel) -> None:
    prompt_T = torch.randint(103, (LONG + 20,))
    caches = [HybridCache(model.config, 3, 600), scattered_cache(model.config, 3, 600)]
    for cache in caches:
        prefill(model, cache, cut((2, 0), 250, 20), prompt_T[:270])
        prefill(model, cache, cut((2,), LONG - 250), prompt_T[270 : LONG + 20])
    for _ in range(3):
        ids_B = torch.randint(103, (3,))
        in_order, scattered = (decode(model, cache, 3, ids_B) for cache in caches)
        torch.testing.assert_close(in_order, scattered, rtol=0, atol=1e-5)


def test_a_fork_shares_whole_pages_and_copies_the_last(model: HybridModel) -> None:
    form = CacheForm(num_pages=8)
    cache = HybridCache(model.config, 3, 600, form=form)
    cache.write_table([0, 0], [0, 1], [6, 3])
    prompt_T = torch.randint(103, (LONG,))
    prefill(model, cache, cut((0,), LONG), prompt_T)
    cache.copy_slot(0, [1, 2])
    cache.copy_table_row(0, [1, 2])
    cache.copy_pages([3, 3], [1, 7])
    cache.write_table([1, 2], [1, 1], [1, 7])
    assert cache.table_SN.tolist() == [[6, 3, 0], [6, 1, 0], [6, 7, 0]]
    decode(model, cache, 3, torch.tensor([4, 5, 6]))
    got = decode(model, cache, 3, torch.tensor([7, 8, 9]))
    alone = HybridCache(model.config, 3, 600)
    whole = torch.cat([torch.cat([prompt_T, torch.tensor(end)]) for end in ([4, 7], [5, 8], [6, 9])])
    expected = prefill(model, alone, cut((0, 1, 2), *[LONG + 2] * 3), whole)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


def test_a_sequence_that_moves_to_another_slot_goes_on(model: HybridModel) -> None:
    cache, still = (scattered_cache(model.config, 3, 64) for _ in range(2))
    prompt_T = torch.randint(103, (30,))
    for each in (cache, still):
        prefill(model, each, cut((0, 1, 2), 10, 10, 10), prompt_T)
    cache.copy_slot(2, [0])
    cache.copy_table_row(2, [0])
    got = decode(model, cache, 2, torch.tensor([5, 6]))
    expected = decode(model, still, 3, torch.tensor([1, 6, 5]))
    torch.testing.assert_close(got, expected[[2, 1]], rtol=0, atol=1e-5)


def test_idle_rows_change_nothing_and_their_numbers_are_finite(model: HybridModel) -> None:
    caches = [scattered_cache(model.config, 4, 64) for _ in range(2)]
    prompt_T, ids_B = torch.randint(103, (30,)), torch.tensor([3, 4, 5, 6])
    for cache in caches:
        prefill(model, cache, cut((0, 1, 2), 10, 10, 10), prompt_T)
        cache.clear_table([3])
    before = contents(caches[0])
    is_live_B = torch.tensor([1, 0, 1, 0])
    some = advance(model, DecodePass.over(caches[0], 4, is_live_B), ids_B)
    every = decode(model, caches[1], 3, ids_B[:3])
    torch.testing.assert_close(some[[0, 2]], every[[0, 2]], rtol=0, atol=1e-5)
    assert bool(some.isfinite().all())
    after = contents(caches[0])
    assert after[-1].tolist() == [11, 10, 11, 0]
    assert torch.equal(before[0][:, [1, 3]], after[0][:, [1, 3]])
    idle_pages = [SCRATCH_PAGE, int(caches[0].table_SN[1, 0])]
    for old, new in zip(before[1:3], after[1:3], strict=True):
        assert torch.equal(old[:, idle_pages], new[:, idle_pages])
    assert not torch.equal(before[0][:, [0, 2]], after[0][:, [0, 2]])


def test_a_step_of_idle_rows_alone_leaves_the_whole_cache_alone(model: HybridModel) -> None:
    cache = scattered_cache(model.config, 2, 64)
    prefill(model, cache, cut((0, 1), 10, 10), torch.randint(103, (20,)))
    before = contents(cache)
    logits_BV = advance(
        model, DecodePass.over(cache, 2, torch.zeros(2, dtype=torch.int64)), torch.ones(2).long()
    )
    assert bool(logits_BV.isfinite().all())
    assert all(torch.equal(old, new) for old, new in zip(before, contents(cache), strict=True))


def test_sampled_with_idle_rows_is_what_the_trainer_says(model: HybridModel) -> None:
    prompts = [torch.randint(103, (length,)) for length in (63, 1)]
    sequences = sample_sequences(model, prompts, SamplingPlan(num_tokens=5, piece=40, num_idle=2))
    agreement = count_unequal(model, sequences)
    assert agreement.num_tokens == 10 and agreement.max_difference < 1e-4


def test_a_row_without_a_page_is_refused_before_it_writes(model: HybridModel) -> None:
    cache = HybridCache(model.config, 1, 600, form=CacheForm(num_pages=3))
    cache.write_table([0], [0], [2])
    prefill(model, cache, cut((0,), PAGE_TOKENS), torch.randint(103, (PAGE_TOKENS,)))
    with pytest.raises(InvalidInputError, match="slot 0 has no page for its next token, place 256"):
        decode(model, cache, 1, torch.tensor([1]))
    cache.write_table([0], [1], [1])
    decode(model, cache, 1, torch.tensor([1]))
    assert not bool(cache.keys_FMGLP[:, SCRATCH_PAGE].any())


def test_wrong_tables_and_pages_are_refused(config: ModelConfig) -> None:
    cache = HybridCache(config, 2, 300, form=CacheForm(num_pages=4))
    for arguments, message in (
        (([0], [0, 1], [1]), "1 slots, 2 columns and 1 pages"),
        (([2], [0], [1]), "slot 2 does not exist"),
        (([0], [2], [1]), "column 2 does not exist"),
        (([0], [0], [4]), "page 4 does not exist"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            cache.write_table(*arguments)
    with pytest.raises(InvalidInputError, match="share no page"):
        cache.copy_pages([1, 2], [2, 3])
    with pytest.raises(InvalidInputError, match="length 301 does not exist"):
        cache.set_length(0, 301)
    with pytest.raises(InvalidInputError, match=r"fork is not for (.*)the caller manages"):
        cache.fork(0, [1])
    own = HybridCache(config, 2, 300)
    for refused in (lambda: own.clear_table([0]), lambda: own.write_table([0], [0], [1])):
        with pytest.raises(InvalidInputError, match="each slot owns its pages"):
            refused()
    cache.write_table([], [], [])
    cache.copy_pages([], [])
    assert not bool(cache.table_SN.any())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cache_bytes_is_what_the_cache_holds(config: ModelConfig, dtype: torch.dtype) -> None:
    for shard in (Shard(), Shard(rank=1, size=2)):
        cache = HybridCache(config, 3, 300, dtype, form=CacheForm(num_pages=5, shard=shard))
        held = (cache.states_ASHPP, cache.keys_FMGLP, cache.values_FMGLP, cache.lengths_S)
        assert cache_bytes(config, 3, 5, dtype, shard=shard) == sum(tensor.nbytes for tensor in held)
        assert cache.states_ASHPP.dtype == torch.float32
        assert cache.states_ASHPP.shape[2] * shard.size == config.num_attention_heads
        assert cache.keys_FMGLP.shape[2] * shard.size == config.num_key_value_heads
    with pytest.raises(ConfigError, match="num_key_value_heads = 2"):
        HybridCache(config, 3, 300, form=CacheForm(shard=Shard(size=4)))
