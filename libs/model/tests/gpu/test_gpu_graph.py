"""CUDA graphs of decode on a GPU: idle rows, scattered pages, new weights, and no wait for the device.

Legend: B rows, T tokens, V vocabulary.
"""

import pytest
import torch
from torch import Tensor

from forklight_model.cache import PAGE_TOKENS, HybridCache
from forklight_model.decode_graph import DecodeGraph, StepGraph
from forklight_model.generation_pass import DecodePass
from forklight_model.inference import PromptPieces, advance, copy_weights, decode, prefill
from forklight_model.model import HybridModel
from forklight_model.parity import SELF_TEST
from libs.model.tests.scattered import scattered_cache

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

DEVICE, DTYPE = "cuda", torch.bfloat16
LENGTHS = (60, PAGE_TOKENS - 3, 127)


def new_model(seed: int) -> HybridModel:
    torch.manual_seed(seed)
    return HybridModel(SELF_TEST).to(device=DEVICE, dtype=DTYPE)


@pytest.fixture(scope="module")
def model() -> HybridModel:
    return new_model(0)


def new_cache(num_slots: int, *, is_scattered: bool = True) -> HybridCache:
    if is_scattered:
        return scattered_cache(SELF_TEST, num_slots, 600, DTYPE, DEVICE)
    return HybridCache(SELF_TEST, num_slots, 600, DTYPE, DEVICE)


def draw(num_tokens: int) -> Tensor:
    return torch.randint(SELF_TEST.vocab_size, (num_tokens,), device=DEVICE)


def feed_prompts(model: HybridModel, *caches: HybridCache) -> None:
    ids_T = draw(sum(LENGTHS))
    for cache in caches:
        prefill(model, cache, PromptPieces(slots=range(len(LENGTHS)), lengths=LENGTHS), ids_T)


def contents(cache: HybridCache) -> list[Tensor]:
    memories = [cache.lightning_memory(layer) for layer in cache.lightning_place]
    kept = [
        m
        for each in memories
        for m in (each.states_SHDD, each.rounded_SHDD, each.keys_SHCD, each.values_SHCD)
    ]
    paged = (cache.keys_FMGLP, cache.values_FMGLP, cache.table_SN, cache.lengths_S)
    return [tensor.clone() for tensor in (*kept, *paged) if tensor is not None]


def test_a_graph_with_idle_rows_decodes_the_bits_of_single_launches(model: HybridModel) -> None:
    graphed, single = new_cache(8), new_cache(8, is_scattered=False)
    graph, is_live_B = DecodeGraph(model, graphed, 8), (torch.arange(8, device=DEVICE) < 3).to(torch.int64)
    graph.set_live(is_live_B)
    feed_prompts(model, graphed, single)
    for step in range(70):  # every chunk is closed once, and slot 1 goes over the end of a page
        ids_B = draw(8)
        logits_BV = graph(ids_B)
        assert torch.equal(logits_BV[:3], decode(model, single, 3, ids_B[:3])), step
        assert bool(logits_BV.isfinite().all()), step
    assert graphed.lengths_S.tolist() == [length + 70 for length in LENGTHS] + [0] * 5


def test_rows_of_other_numbers_and_pages_give_the_same_bits(model: HybridModel) -> None:
    small, large = new_cache(3), new_cache(40)
    feed_prompts(model, small, large)
    is_live_B = (torch.arange(40, device=DEVICE) < 3).to(torch.int64)
    for step in range(5):
        ids_B = draw(40)
        padded_BV = advance(model, DecodePass.over(large, 40, is_live_B), ids_B)
        assert torch.equal(padded_BV[:3], decode(model, small, 3, ids_B[:3])), step


def test_recording_over_occupied_slots_leaves_them_alone(model: HybridModel) -> None:
    cache = new_cache(4)
    feed_prompts(model, cache)
    before = contents(cache)
    DecodeGraph(model, cache, 4)
    torch.cuda.synchronize()
    assert all(torch.equal(old, new) for old, new in zip(before, contents(cache), strict=True))


def test_graphs_of_several_sizes_share_a_pool_and_replay_in_any_order(model: HybridModel) -> None:
    graphed, single = new_cache(4), new_cache(4)
    pool = torch.cuda.graph_pool_handle()
    graphs = {num_rows: DecodeGraph(model, graphed, num_rows, pool) for num_rows in (4, 2, 1)}
    feed_prompts(model, graphed, single)
    for num_rows in (1, 2, 1, 2, 2, 1):
        ids_B = draw(num_rows)
        assert torch.equal(graphs[num_rows](ids_B), decode(model, single, num_rows, ids_B))


def test_new_weights_under_a_recorded_graph_are_the_graphs_weights() -> None:
    live, fresh = new_model(1), new_model(2)
    graphed, single, stale = (new_cache(3) for _ in range(3))
    graph = DecodeGraph(live, graphed, 3)
    feed_prompts(live, graphed)
    graph(draw(3))
    graphed.reset(range(3))
    copy_weights(live, fresh)
    feed_prompts(fresh, graphed, single, stale)
    ids_B = draw(3)
    logits_BV = graph(ids_B)
    assert torch.equal(logits_BV, decode(fresh, single, 3, ids_B))
    assert not torch.equal(logits_BV, decode(new_model(1), stale, 3, ids_B))


def test_what_an_engine_calls_between_steps_does_not_wait_for_the_device(model: HybridModel) -> None:
    cache, source = new_cache(4), new_model(3)
    graph = DecodeGraph(model, cache, 2)
    feed_prompts(model, cache)
    ids_B = draw(2)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        cache.reset([3])
        graph(ids_B)
        advance(model, DecodePass.over(cache, 2), ids_B)
        cache.write_table([3, 3], [0, 1], [1, 2])
        cache.copy_table_row(3, [2])
        cache.clear_table([2])
        cache.copy_slot(0, [2])
        cache.copy_pages([1, 2], [3, 4])
        cache.set_length(2, 5)
        copy_weights(model, source)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        copy_weights(model, new_model(0))


@torch.inference_mode()
def test_any_step_over_fixed_buffers_can_be_recorded() -> None:
    count_1, doubled_1 = torch.zeros(1, device=DEVICE), torch.zeros(1, device=DEVICE)

    def step() -> None:
        count_1.add_(1)
        doubled_1.copy_(count_1 * 2)

    graph = StepGraph(step)
    count_1.zero_()
    for _ in range(3):
        graph.replay()
    assert (count_1.item(), doubled_1.item()) == (3, 6)
