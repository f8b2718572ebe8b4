"""The model over pages as vLLM lays them out, against the model's own whole pass. Needs no vLLM.

Legend: S pages, H heads, G key heads, L places of a page, D head size, T rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from forklight_kernels import Backend, LightningMemory, using_backend
from forklight_kernels.lightning_attention.chunks import MAX_CHUNK
from forklight_model.config import LIGHTNING, SOFTMAX, ModelConfig
from forklight_model.model import HybridModel
from forklight_model.sizes import SIZES
from forklight_vllm_plugin.paged_pass import PagedPass, StepRows

CONFIG = SIZES["nano"]
SMALLEST = ModelConfig(
    vocab_size=103,
    hidden_size=32,
    intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    rotary_dim=8,
    num_local_experts=2,
    num_experts_per_tok=1,
    attn_type_list=(LIGHTNING, SOFTMAX),
    max_position_embeddings=512,
    initializer_range=0.1,
)
"""One layer of each kind, for kernels that are interpreted."""
PAGE = 64
NUM_PAGES = 24
PADDING = 64  # elements between two pages of a layer


@dataclass(frozen=True, slots=True)
class Memory:
    memory: LightningMemory


@dataclass(frozen=True, slots=True)
class Keys:
    keys_and_values: tuple[Tensor, Tensor]


@dataclass(slots=True)
class FedSequence:
    """One sequence being fed."""

    ids: list[int]
    pages: list[int]
    num_seen: int = 0


@pytest.fixture(scope="module")
def model() -> HybridModel:
    torch.set_num_threads(1)
    made = HybridModel(CONFIG)
    made.initialize(torch.Generator().manual_seed(0))
    return made.requires_grad_(False)


def strided(*shape: int, left: float = 3.0) -> Tensor:
    """Pages with other bytes between them, full of what others have left there."""
    size = torch.Size(shape[1:]).numel()
    stride = size + PADDING
    inner = torch.empty(shape[1:]).stride()
    whole = torch.full((shape[0] * stride,), left)
    return whole.as_strided(shape, (stride, *inner))


@dataclass(slots=True)
class Caches:
    """All layers' pages, in either form of the lightning memory."""

    has_open_chunks: bool
    config: ModelConfig = CONFIG
    lightning: dict[int, Memory] = field(default_factory=dict)
    softmax: dict[int, Keys] = field(default_factory=dict)

    def __post_init__(self) -> None:
        heads, size = self.config.num_attention_heads, self.config.head_dim
        for layer in self.config.lightning_layers:
            states = strided(NUM_PAGES, heads, size, size, left=math.nan)
            rounded = keys = values = None
            if self.has_open_chunks:
                rounded = strided(NUM_PAGES, heads, size, size, left=math.nan)
                keys, values = (strided(NUM_PAGES, heads, MAX_CHUNK, size, left=math.nan) for _ in range(2))
            self.lightning[layer] = Memory(
                LightningMemory(states_SHDD=states, rounded_SHDD=rounded, keys_SHCD=keys, values_SHCD=values)
            )
        for layer in self.config.softmax_layers:
            keys_values = strided(NUM_PAGES, 2, self.config.num_key_value_heads, PAGE, size)
            keys_SGLD, values_SGLD = keys_values.unbind(1)
            self.softmax[layer] = Keys((keys_SGLD, values_SGLD))


def feed(
    model: HybridModel, caches: Caches, parts: Sequence[tuple[FedSequence, int]], num_padding: int = 0
) -> Tensor:
    """One step as vLLM makes it: sequences with one token first, then pieces of prompts, then padding."""
    ordered = sorted(parts, key=lambda part: part[1] > 1)
    num_decodes = sum(num_new == 1 for _, num_new in ordered)
    ids: list[int] = []
    positions: list[int] = []
    table = torch.zeros(len(ordered), 4, dtype=torch.int32)
    for row, (sequence, num_new) in enumerate(ordered):
        first = sequence.num_seen
        ids += sequence.ids[first : first + num_new]
        positions += range(first, first + num_new)
        table[row, : len(sequence.pages)] = torch.tensor(sequence.pages)
        sequence.num_seen += num_new
    lengths = [sequence.num_seen for sequence, _ in ordered]
    cuts = [0]
    for _, num_new in ordered[num_decodes:]:
        cuts.append(cuts[-1] + num_new)
    is_decode_only = num_decodes == len(ordered)
    if num_padding and is_decode_only:  # a recorded step: rows that pad are sequences of length 0
        table = torch.cat([table, torch.zeros(num_padding, 4, dtype=torch.int32)])
        lengths += [0] * num_padding
    rows = StepRows(
        num_decodes=num_decodes + (num_padding if is_decode_only else 0),
        num_tokens=len(ids),
        table_BN=table,
        lengths_B=torch.tensor(lengths, dtype=torch.int32),
        longest=max(lengths),
        cu_seqlens=None if is_decode_only else torch.tensor(cuts, dtype=torch.int32),
        seen=tuple(sequence.num_seen - num_new for sequence, num_new in ordered[num_decodes:]),
    )
    ids += [0] * num_padding
    positions += [0] * num_padding
    step = PagedPass(
        positions_T=torch.tensor(positions),
        rows_of=lambda layer: rows,
        lightning=caches.lightning,
        softmax=caches.softmax,
    )
    with torch.inference_mode():
        return model.run_stack(torch.tensor(ids), step, None)


def expected(model: HybridModel, sequence: FedSequence) -> Tensor:
    cu_seqlens = torch.tensor([0, sequence.num_seen], dtype=torch.int32)
    return model.forward_hidden(torch.tensor(sequence.ids[: sequence.num_seen]), cu_seqlens)


def tokens(number: int, length: int) -> list[int]:
    return torch.randint(103, (length,), generator=torch.Generator().manual_seed(number)).tolist()


@pytest.mark.parametrize("has_open_chunks", [False, True])
@pytest.mark.parametrize("piece", [1, 5, 64, 99])
def test_any_cut_of_a_sequence_gives_the_whole_pass(
    model: HybridModel, has_open_chunks: bool, piece: int
) -> None:
    """A piece of 1 is decode from the first token on, in a page that another sequence has left."""
    caches = Caches(has_open_chunks)
    sequence = FedSequence(tokens(1, 100), [5, 2])
    found = []
    while sequence.num_seen < 100:
        found.append(feed(model, caches, [(sequence, min(piece, 100 - sequence.num_seen))]))
    torch.testing.assert_close(torch.cat(found), expected(model, sequence), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("has_open_chunks", [False, True])
def test_decodes_and_prompts_of_one_step_do_not_touch_each_other(
    model: HybridModel, has_open_chunks: bool
) -> None:
    caches = Caches(has_open_chunks)
    running, late, fresh = (
        FedSequence(tokens(2, 120), [1, 3]),
        FedSequence(tokens(3, 120), [4, 6]),
        FedSequence(tokens(4, 9), [8]),
    )
    feed(model, caches, [(running, 60), (late, 33)])
    for num_new in (20, 1, 45):
        out = feed(model, caches, [(running, 1), (late, num_new)], num_padding=3)
    torch.testing.assert_close(out[0], expected(model, running)[-1], atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(out[1:46], expected(model, late)[-45:], atol=2e-4, rtol=1e-4)
    mixed = feed(model, caches, [(fresh, 9), (running, 1)])
    torch.testing.assert_close(mixed[0], expected(model, running)[-1], atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(mixed[1:], expected(model, fresh), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("has_open_chunks", [False, True])
def test_rows_that_pad_a_recorded_step_stay_finite_and_out_of_the_way(
    model: HybridModel, has_open_chunks: bool
) -> None:
    caches = Caches(has_open_chunks)
    sequence = FedSequence(tokens(5, 80), [7, 2])
    feed(model, caches, [(sequence, 62)])
    for _ in range(4):
        out = feed(model, caches, [(sequence, 1)], num_padding=3)
    assert bool(torch.isfinite(out).all())
    torch.testing.assert_close(out[0], expected(model, sequence)[-1], atol=2e-4, rtol=1e-4)
    assert all(bool(cache.memory.states_SHDD[0].isnan().all()) for cache in caches.lightning.values())


def test_a_gpus_kernels_take_the_pages_as_they_lie() -> None:
    """Interpreted: a prompt in two pieces, decode over a chunk that closes, a prompt of one, padding."""
    torch.manual_seed(0)
    small = HybridModel(SMALLEST).requires_grad_(False)
    caches, sequence = Caches(has_open_chunks=True, config=SMALLEST), FedSequence(tokens(6, 65), [7, 2])
    late = FedSequence(tokens(7, 2), [5])
    with using_backend(Backend.TRITON):
        found = [feed(small, caches, [(sequence, num_new)]) for num_new in (50, 13)]
        steps = [feed(small, caches, [(sequence, 1), (late, 1)], num_padding=2) for _ in range(2)]
    found += [step[:1] for step in steps]
    torch.testing.assert_close(torch.cat(found), expected(small, sequence), atol=2e-4, rtol=1e-4)
    both = torch.stack([step[1] for step in steps])
    torch.testing.assert_close(both, expected(small, late), atol=2e-4, rtol=1e-4)
    assert all(bool(torch.isfinite(step).all()) for step in steps)


def test_without_a_cache_the_profiled_step_runs(model: HybridModel) -> None:
    step = PagedPass(positions_T=torch.arange(3), rows_of=lambda layer: None, lightning={}, softmax={})
    with torch.inference_mode():
        assert model.run_stack(torch.tensor([1, 2, 3]), step, None).shape == (3, CONFIG.hidden_size)
