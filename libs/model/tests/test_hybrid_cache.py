"""The generation cache as one that looks after itself: forks, resets, limits. Legend: B rows, V words."""

import pytest
import torch
from torch import Tensor

from forklight_core.errors import InvalidInputError
from forklight_model.cache import PAGE_TOKENS, HybridCache
from forklight_model.config import ModelConfig
from forklight_model.inference import PromptPieces, decode, prefill
from forklight_model.model import HybridModel


def cut(slots: tuple[int, ...], *lengths: int) -> PromptPieces:
    return PromptPieces(slots=slots, lengths=lengths)


def packed(*lengths: int) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


@torch.no_grad()
def full_pass(model: HybridModel, *sequences: Tensor) -> Tensor:
    """The logits after each sequence, without a cache."""
    return torch.cat([model.logits(model.forward_hidden(ids, packed(len(ids)))[-1:]) for ids in sequences])


def test_prefill_then_decode_equals_a_full_pass(model: HybridModel) -> None:
    input_ids_T = torch.randint(103, (50 + 33,))
    cache = HybridCache(model.config, num_slots=5, max_tokens=64)
    prompt_T = torch.cat([input_ids_T[:40], input_ids_T[50:73]])
    prefill(model, cache, cut((1, 0), 40, 23), prompt_T)
    for step in range(10):
        logits_BV = decode(model, cache, 2, input_ids_T[[73 + step, 40 + step]])
        full = full_pass(model, input_ids_T[50 : 74 + step], input_ids_T[: 41 + step])
        torch.testing.assert_close(logits_BV, full, rtol=0, atol=1e-4)


@pytest.mark.parametrize("start", [PAGE_TOKENS - 2, 2 * PAGE_TOKENS - 1])
def test_decode_goes_on_over_the_end_of_a_page(model: HybridModel, start: int) -> None:
    input_ids_T = torch.randint(103, (start + 4,))
    cache = HybridCache(model.config, num_slots=3, max_tokens=start + 4)
    prefill(model, cache, cut((0, 1), start, 7), torch.cat([input_ids_T[:start], input_ids_T[:7]]))
    for step in range(4):
        logits_BV = decode(model, cache, 2, input_ids_T[[start + step, 7 + step]])
        full = full_pass(model, input_ids_T[: start + step + 1], input_ids_T[: 8 + step])
        torch.testing.assert_close(logits_BV, full, rtol=0, atol=1e-4)


def test_a_prompt_in_pieces_equals_a_full_pass(model: HybridModel) -> None:
    input_ids_T = torch.randint(103, (600,))
    cache = HybridCache(model.config, num_slots=2, max_tokens=600)
    for start, end in ((0, 200), (200, 300), (300, 599), (599, 600)):
        logits_BV = prefill(model, cache, cut((1,), end - start), input_ids_T[start:end])
    torch.testing.assert_close(logits_BV, full_pass(model, input_ids_T), rtol=0, atol=1e-4)


@pytest.mark.parametrize("length", [20, PAGE_TOKENS, PAGE_TOKENS + 5])
def test_forked_slots_continue_like_the_original_and_apart_from_it(model: HybridModel, length: int) -> None:
    prompt_T = torch.randint(103, (length,))
    cache = HybridCache(model.config, num_slots=4, max_tokens=length + 4)
    prefill(model, cache, cut((1,), 5), torch.randint(103, (5,)))  # what a slot held before is overwritten
    prefill(model, cache, cut((0,), length), prompt_T)
    cache.fork(0, [1, 2])
    assert cache.lengths_S.tolist() == [length, length, length, 0]
    first = decode(model, cache, 3, torch.tensor([7, 7, 8]))
    torch.testing.assert_close(first[0], first[1], rtol=0, atol=1e-5)
    assert (first[0] - first[2]).abs().max() > 1e-2
    second = decode(model, cache, 3, torch.tensor([1, 2, 3]))
    ends = ([7, 1], [7, 2], [8, 3])
    full = full_pass(model, *(torch.cat([prompt_T, torch.tensor(end)]) for end in ends))
    torch.testing.assert_close(second, full, rtol=0, atol=1e-4)


def test_a_reset_slot_remembers_nothing(model: HybridModel) -> None:
    prompt_T = torch.randint(103, (20,))
    cache = HybridCache(model.config, num_slots=2, max_tokens=64)
    expected = prefill(model, cache, cut((1,), 20), prompt_T)
    prefill(model, cache, cut((1,), 20), prompt_T)
    cache.reset([1])
    assert torch.equal(prefill(model, cache, cut((1,), 20), prompt_T), expected)


def test_a_sequence_may_begin_with_a_decoded_token(model: HybridModel) -> None:
    cache = HybridCache(model.config, num_slots=1, max_tokens=64)
    prefill(model, cache, cut((0,), 20), torch.randint(103, (20,)))
    cache.reset([0])
    logits_BV = decode(model, cache, 1, torch.tensor([9]))
    torch.testing.assert_close(logits_BV, full_pass(model, torch.tensor([9])), rtol=0, atol=1e-4)


def test_mixed_fresh_and_continued_slots_prefill_together(model: HybridModel) -> None:
    prompt_T = torch.randint(103, (45,))
    cache = HybridCache(model.config, num_slots=2, max_tokens=64)
    prefill(model, cache, cut((1,), 15), prompt_T[:15])
    together = prefill(model, cache, cut((0, 1), 15, 15), prompt_T[[*range(30, 45), *range(15, 30)]])
    alone = HybridCache(model.config, num_slots=2, max_tokens=64)
    expected = prefill(model, alone, cut((0, 1), 15, 30), prompt_T[[*range(30, 45), *range(30)]])
    torch.testing.assert_close(together, expected, rtol=0, atol=1e-4)


def test_known_lengths_are_taken_as_said(model: HybridModel) -> None:
    prompt_T = torch.randint(103, (30,))
    cache = HybridCache(model.config, num_slots=1, max_tokens=64)
    prefill(model, cache, PromptPieces(slots=[0], lengths=[20], seen=[0]), prompt_T[:20])
    logits_BV = prefill(model, cache, PromptPieces(slots=[0], lengths=[10], seen=[20]), prompt_T[20:])
    torch.testing.assert_close(logits_BV, full_pass(model, prompt_T), rtol=0, atol=1e-4)
    cache.set_length(0, 0)  # what the slot held does not count for a sequence that has seen nothing
    logits_BV = prefill(model, cache, PromptPieces(slots=[0], lengths=[30], seen=[0]), prompt_T)
    torch.testing.assert_close(logits_BV, full_pass(model, prompt_T), rtol=0, atol=1e-4)


def test_a_full_slot_is_refused_before_it_is_touched(model: HybridModel) -> None:
    cache = HybridCache(model.config, num_slots=2, max_tokens=8)
    prefill(model, cache, cut((0, 1), 8, 4), torch.randint(103, (12,)))
    state = cache.states_ASHPP.clone()
    with pytest.raises(InvalidInputError, match="slot 0 would hold 9 tokens"):
        decode(model, cache, 2, torch.tensor([1, 2]))
    with pytest.raises(InvalidInputError, match="slot 1 would hold 9 tokens"):
        prefill(model, cache, cut((1,), 5), torch.randint(103, (5,)))
    assert torch.equal(cache.states_ASHPP, state) and cache.lengths_S.tolist() == [8, 4]


@pytest.mark.parametrize("slots", [(0, 0), (0, 2), (-1, 1)])
def test_wrong_slots_are_refused(model: HybridModel, slots: tuple[int, int]) -> None:
    cache = HybridCache(model.config, num_slots=2, max_tokens=8)
    with pytest.raises(InvalidInputError, match="distinct"):
        prefill(model, cache, cut(slots, 1, 1), torch.tensor([1, 2]))


@pytest.mark.parametrize(("num_rows", "num_tokens"), [(0, 0), (3, 3), (2, 1)])
def test_rows_without_a_slot_or_a_token_are_refused(
    model: HybridModel, num_rows: int, num_tokens: int
) -> None:
    cache = HybridCache(model.config, num_slots=2, max_tokens=8)
    with pytest.raises(InvalidInputError, match=f"{num_tokens} tokens for {num_rows} rows"):
        decode(model, cache, num_rows, torch.ones(num_tokens, dtype=torch.int64))


def test_wrong_forks_and_resets_are_refused(config: ModelConfig) -> None:
    cache = HybridCache(config, num_slots=2, max_tokens=8)
    with pytest.raises(InvalidInputError, match="onto itself"):
        cache.fork(0, [0, 1])
    with pytest.raises(InvalidInputError, match="slot 2 does not exist"):
        cache.reset([2])


@pytest.mark.parametrize("lengths", [(3, 4), (0, 6), (6,), (7,)])
def test_prefill_refuses_pieces_that_do_not_fit(model: HybridModel, lengths: tuple[int, ...]) -> None:
    cache = HybridCache(model.config, num_slots=2, max_tokens=8)
    slots = (0, 1) if lengths == (6,) else tuple(range(len(lengths)))
    with pytest.raises(InvalidInputError, match="lengths must cut 6 tokens"):
        prefill(model, cache, cut(slots, *lengths), torch.randint(103, (6,)))


def test_prefill_refuses_known_lengths_that_do_not_fit(model: HybridModel) -> None:
    cache = HybridCache(model.config, num_slots=2, max_tokens=8)
    for seen in ([0, 0], [-1]):
        with pytest.raises(InvalidInputError, match="seen must be"):
            prefill(model, cache, PromptPieces(slots=[0], lengths=[1], seen=seen), torch.tensor([1]))
