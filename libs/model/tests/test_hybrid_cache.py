"""The generation cache: forks, resets, limits and size. Legend: B sequences, V vocabulary."""

import pytest
import torch
from torch import Tensor

from forklight_core.errors import InvalidInputError
from forklight_model.cache import HybridCache, cache_bytes
from forklight_model.config import ModelConfig
from forklight_model.inference import decode, prefill
from forklight_model.model import HybridModel


def offsets(*lengths: int) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def slots(*numbers: int) -> Tensor:
    return torch.tensor(numbers)


def test_prefill_then_decode_equals_a_full_pass_whatever_the_slots(model: HybridModel) -> None:
    input_ids_T = torch.randint(103, (50 + 33,))
    cache = HybridCache(model.config, num_slots=5, max_tokens=64)
    prompt_T = torch.cat([input_ids_T[:40], input_ids_T[50:73]])
    prefill(model, cache, slots(4, 1), prompt_T, offsets(40, 23))
    for step in range(10):
        logits_BV = decode(model, cache, slots(4, 1), input_ids_T[[40 + step, 73 + step]])
        with torch.no_grad():
            parts = (input_ids_T[: 41 + step], input_ids_T[50 : 74 + step])
            full = [model.logits(model.forward_hidden(part, offsets(len(part)))[-1:]) for part in parts]
        torch.testing.assert_close(logits_BV, torch.cat(full), rtol=0, atol=1e-4)


def test_slots_in_a_row_and_slots_apart_decode_alike(model: HybridModel) -> None:
    prompt_T, next_B = torch.randint(103, (60,)), torch.randint(103, (3,))
    logits = []
    for chosen in (slots(1, 2, 3), slots(0, 4, 2)):
        cache = HybridCache(model.config, num_slots=5, max_tokens=64)
        prefill(model, cache, chosen, prompt_T, offsets(10, 30, 20))
        decode(model, cache, chosen, next_B)
        logits.append(decode(model, cache, chosen, next_B))
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=1e-5)


def test_forked_slots_continue_like_the_original_and_apart_from_it(model: HybridModel) -> None:
    prompt_T = torch.randint(103, (20,))
    cache = HybridCache(model.config, num_slots=4, max_tokens=64)
    decode(model, cache, slots(1), torch.tensor([5]))  # what a slot held before is overwritten
    prefill(model, cache, slots(0), prompt_T, offsets(20))
    cache.fork(0, [1, 3])
    assert cache.lengths_S.tolist() == [20, 20, 0, 20]
    first = decode(model, cache, slots(0, 1, 3), torch.tensor([7, 7, 8]))
    torch.testing.assert_close(first[0], first[1], rtol=0, atol=1e-5)
    assert (first[0] - first[2]).abs().max() > 1e-2
    fresh = HybridCache(model.config, num_slots=1, max_tokens=64)
    expected = prefill(model, fresh, slots(0), torch.cat([prompt_T, torch.tensor([8])]), offsets(21))
    torch.testing.assert_close(first[2:], expected, rtol=0, atol=1e-4)


def test_a_reset_slot_remembers_nothing(model: HybridModel) -> None:
    prompt_T = torch.randint(103, (20,))
    cache = HybridCache(model.config, num_slots=2, max_tokens=64)
    expected = prefill(model, cache, slots(1), prompt_T, offsets(20))
    prefill(model, cache, slots(1), prompt_T, offsets(20))
    cache.reset([1])
    assert torch.equal(prefill(model, cache, slots(1), prompt_T, offsets(20)), expected)


def test_mixed_fresh_and_continued_slots_prefill_together(model: HybridModel) -> None:
    prompt_T = torch.randint(103, (45,))
    cache = HybridCache(model.config, num_slots=2, max_tokens=64)
    prefill(model, cache, slots(1), prompt_T[:15], offsets(15))
    together = prefill(model, cache, slots(0, 1), prompt_T[[*range(30, 45), *range(15, 30)]], offsets(15, 15))
    alone = HybridCache(model.config, num_slots=2, max_tokens=64)
    expected = prefill(model, alone, slots(0, 1), prompt_T[[*range(30, 45), *range(30)]], offsets(15, 30))
    torch.testing.assert_close(together, expected, rtol=0, atol=1e-4)


def test_cache_bytes_is_what_the_cache_holds(config: ModelConfig) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        cache = HybridCache(config, num_slots=3, max_tokens=40, dtype=dtype)
        held = (cache.states_ASHPP, cache.keys_FSGLP, cache.values_FSGLP, cache.lengths_S)
        assert cache_bytes(config, 3, 40, dtype) == sum(tensor.nbytes for tensor in held)
        assert cache.states_ASHPP.dtype == torch.float32


def test_a_full_slot_is_refused_before_it_is_touched(model: HybridModel) -> None:
    cache = HybridCache(model.config, num_slots=2, max_tokens=8)
    prefill(model, cache, slots(0, 1), torch.randint(103, (12,)), offsets(8, 4))
    state = cache.states_ASHPP.clone()
    with pytest.raises(InvalidInputError, match="slot 0 would hold 9 tokens"):
        decode(model, cache, slots(1, 0), torch.tensor([1, 2]))
    assert torch.equal(cache.states_ASHPP, state) and cache.lengths_S.tolist() == [8, 4]


@pytest.mark.parametrize("chosen", [(0, 0), (0, 2), (-1, 1)])
def test_wrong_slots_are_refused(model: HybridModel, chosen: tuple[int, int]) -> None:
    cache = HybridCache(model.config, num_slots=2, max_tokens=8)
    with pytest.raises(InvalidInputError, match="distinct"):
        decode(model, cache, slots(*chosen), torch.tensor([1, 2]))


def test_wrong_forks_and_resets_are_refused(config: ModelConfig) -> None:
    cache = HybridCache(config, num_slots=2, max_tokens=8)
    with pytest.raises(InvalidInputError, match="onto itself"):
        cache.fork(0, [0, 1])
    with pytest.raises(InvalidInputError, match="slot 2 does not exist"):
        cache.reset([2])


@pytest.mark.parametrize("cut", [(3, 3), (0, 6), (3, 4)])
def test_prefill_refuses_offsets_that_do_not_fit(model: HybridModel, cut: tuple[int, int]) -> None:
    cache = HybridCache(model.config, num_slots=2, max_tokens=8)
    with pytest.raises(InvalidInputError, match="cu_seqlens"):
        prefill(model, cache, slots(0), torch.randint(103, (6,)), offsets(*cut))
    with pytest.raises(InvalidInputError, match="cu_seqlens"):
        prefill(model, cache, slots(0, 1), torch.randint(103, (6,)), offsets(0, 6))
