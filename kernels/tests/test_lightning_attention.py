"""Lightning attention, prefill and decode, on any machine.

Legend: T tokens, H heads, D head size, N sequences, B sequences of a step.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from forklight_kernels import Backend, using_backend
from forklight_kernels.lightning_attention import LightningForm, lightning_attention, split_projection
from forklight_kernels.lightning_decode import (
    DecodeStep,
    LightningMemory,
    continue_lightning,
    lightning_decode,
)

SLOPES_H = torch.tensor([0.84, 0.0625, 1e-6])
SIZE = 8
Pack = Callable[[Sequence[int]], Tensor]
SLOW_AND_FAST = [Backend.NAIVE, Backend.TORCH]


def qkv(num_tokens: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    q_THD, k_THD, v_THD = torch.randn(num_tokens, len(SLOPES_H), 3, SIZE, dtype=dtype).unbind(2)
    return q_THD, k_THD, v_THD


def new_memory(num_slots: int, dtype: torch.dtype, *, has_open_chunk: bool) -> LightningMemory:
    per_slot = (num_slots, len(SLOPES_H))
    states = torch.zeros(*per_slot, SIZE, SIZE, dtype=dtype)
    if not has_open_chunk:
        return LightningMemory(states_SHDD=states)
    rows = torch.full((2, *per_slot, 64, SIZE), float("nan"), dtype=dtype)
    return LightningMemory(
        states_SHDD=states, rounded_SHDD=states.clone(), keys_SHCD=rows[0], values_SHCD=rows[1]
    )


def kept(memory: LightningMemory) -> list[Tensor]:
    parts = (memory.states_SHDD, memory.rounded_SHDD, memory.keys_SHCD, memory.values_SHCD)
    return [tensor for tensor in parts if tensor is not None]


@pytest.mark.parametrize("applies_silu", [False, True])
@pytest.mark.parametrize("lengths", [[1], [63], [64], [65], [500], [65, 1, 64, 500, 63], [7, 0, 9]])
def test_outputs_and_gradients_match_naive_from_zero_state(
    lengths: list[int], applies_silu: bool, pack: Pack, assert_matches_naive: Callable[..., None]
) -> None:
    if applies_silu and sum(lengths) > 200:
        return  # silu knows nothing of lengths

    def op(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        form = LightningForm(applies_silu=applies_silu)
        return lightning_attention(q, k, v, SLOPES_H, pack(lengths), form)

    assert_matches_naive(op, *qkv(sum(lengths)))


@pytest.mark.parametrize("lengths", [[1], [64], [65, 1, 130], [3, 0, 5]])
def test_outputs_and_gradients_match_naive_from_a_given_state(
    lengths: list[int], pack: Pack, assert_matches_naive: Callable[..., None]
) -> None:
    def op(q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return lightning_attention(q, k, v, SLOPES_H, pack(lengths), LightningForm(initial_state=state))

    assert_matches_naive(op, *qkv(sum(lengths)), torch.randn(len(lengths), len(SLOPES_H), SIZE, SIZE))


@pytest.mark.parametrize("lengths", [[63], [64], [130, 3, 64]])
def test_states_and_gradients_match_naive_when_the_open_chunk_is_kept(
    lengths: list[int], pack: Pack, assert_matches_naive: Callable[..., None]
) -> None:
    def op(q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        form = LightningForm(initial_state=state, keeps_open_chunk=True)
        return lightning_attention(q, k, v, SLOPES_H, pack(lengths), form)

    assert_matches_naive(op, *qkv(sum(lengths)), torch.randn(len(lengths), len(SLOPES_H), SIZE, SIZE))


def test_gradient_of_the_output_alone_matches_naive(
    pack: Pack, assert_matches_naive: Callable[..., None]
) -> None:
    def op(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return lightning_attention(q, k, v, SLOPES_H, pack([20, 33, 90]))[0]

    assert_matches_naive(op, *qkv(143))


def test_silu_inside_equals_silu_before(pack: Pack) -> None:
    x_TW = torch.randn(100, len(SLOPES_H) * 3 * SIZE, requires_grad=True)
    before, _ = lightning_attention(*split_projection(silu(x_TW), len(SLOPES_H)), SLOPES_H, pack([40, 60]))
    form = LightningForm(applies_silu=True)
    inside, _ = lightning_attention(*split_projection(x_TW, len(SLOPES_H)), SLOPES_H, pack([40, 60]), form)
    pull = torch.randn_like(before)
    assert torch.equal(inside, before)
    assert torch.equal(*(torch.autograd.grad(o, x_TW, pull, retain_graph=True)[0] for o in (inside, before)))


def test_split_projection_joins_gradients_that_are_no_views_of_one_tensor() -> None:
    x_TW, pull = torch.randn(9, 2 * 3 * 4, requires_grad=True), torch.randn(9, 2, 4)
    gradients = []
    for q, k, v in (split_projection(x_TW, 2), x_TW.view(9, 2, 3, 4).unbind(2)):
        gradients += torch.autograd.grad(q * k + q * v, x_TW, pull)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-6)


def test_a_neighbour_full_of_nan_leaves_a_sequence_untouched(pack: Pack) -> None:
    parts = qkv(150)
    clean, _ = lightning_attention(*parts, SLOPES_H, pack([70, 80]))
    for part in parts:
        part[:70] = float("nan")
    o_THD, state_NHDD = lightning_attention(*parts, SLOPES_H, pack([70, 80]))
    assert torch.equal(o_THD[70:], clean[70:])
    assert not state_NHDD[1].isnan().any()


def test_packed_sequences_equal_separate_ones(pack: Pack) -> None:
    parts = qkv(195, torch.float64)
    packed, states = lightning_attention(*parts, SLOPES_H, pack([65, 130]))
    for number, tokens in enumerate((slice(0, 65), slice(65, 195))):
        alone, state = lightning_attention(
            *(part[tokens] for part in parts), SLOPES_H, pack([tokens.stop - tokens.start])
        )
        torch.testing.assert_close(packed[tokens], alone, rtol=0, atol=1e-11)
        torch.testing.assert_close(states[number], state[0], rtol=0, atol=1e-11)


def test_a_sequence_in_two_pieces_equals_one_pass(pack: Pack) -> None:
    parts = qkv(200, torch.float64)
    whole, final = lightning_attention(*parts, SLOPES_H, pack([200]))
    first, state = lightning_attention(*(part[:77] for part in parts), SLOPES_H, pack([77]))
    second, last = lightning_attention(
        *(part[77:] for part in parts), SLOPES_H, pack([123]), LightningForm(initial_state=state)
    )
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=0, atol=1e-11)
    torch.testing.assert_close(last, final, rtol=0, atol=1e-11)


@pytest.mark.parametrize("has_open_chunk", [False, True])
@pytest.mark.parametrize("backend", SLOW_AND_FAST)
def test_decoding_token_by_token_equals_one_pass(backend: Backend, has_open_chunk: bool, pack: Pack) -> None:
    parts = qkv(2 * 90, torch.float64)
    form = LightningForm(applies_silu=True, keeps_open_chunk=has_open_chunk)
    whole, final = lightning_attention(*parts, SLOPES_H, pack([90, 90]), form)
    memory = new_memory(2, torch.float64, has_open_chunk=has_open_chunk)
    by_sequence = [part.view(2, 90, len(SLOPES_H), SIZE) for part in (p.contiguous() for p in parts)]
    with using_backend(backend):
        steps = [
            lightning_decode(
                *(part[:, token] for part in by_sequence),
                SLOPES_H,
                memory,
                DecodeStep(lengths_B=torch.tensor([token, token]), applies_silu=True),
            )
            for token in range(90)
        ]
    torch.testing.assert_close(torch.stack(steps, dim=1).flatten(0, 1), whole, rtol=0, atol=1e-11)
    torch.testing.assert_close(memory.states_SHDD, final, rtol=0, atol=1e-11)


@pytest.mark.parametrize("has_open_chunk", [False, True])
def test_a_step_touches_its_slots_only(has_open_chunk: bool) -> None:
    parts, slots = qkv(2, torch.float64), torch.tensor([3, 1])
    step = DecodeStep(slots_B=slots, lengths_B=torch.tensor([0, 63]))
    memories = []
    for backend in SLOW_AND_FAST:
        memory = new_memory(5, torch.float64, has_open_chunk=has_open_chunk)
        memory.states_SHDD.copy_(torch.arange(5.0)[:, None, None, None].expand_as(memory.states_SHDD))
        for rows in (memory.keys_SHCD, memory.values_SHCD):
            if rows is not None:
                rows.fill_(0.5)
        with using_backend(backend):
            lightning_decode(*parts, SLOPES_H, memory, step)
        assert bool(
            (memory.states_SHDD[[0, 2, 4]] == torch.tensor([0.0, 2.0, 4.0])[:, None, None, None]).all()
        )
        memories.append(memory)
    torch.testing.assert_close(memories[0].states_SHDD, memories[1].states_SHDD, rtol=0, atol=1e-12)
    if has_open_chunk:
        torch.testing.assert_close(memories[0].keys_SHCD, memories[1].keys_SHCD, rtol=0, atol=0)


@pytest.mark.parametrize("backend", SLOW_AND_FAST)
@pytest.mark.parametrize("by_number", [False, True])
@pytest.mark.parametrize("has_open_chunk", [False, True])
def test_an_idle_row_leaves_its_slot_as_it_is(
    has_open_chunk: bool, by_number: bool, backend: Backend
) -> None:
    parts = qkv(3, torch.float64)
    memories = [new_memory(3, torch.float64, has_open_chunk=has_open_chunk) for _ in range(2)]
    for memory in memories:
        for tensor in kept(memory):
            tensor.copy_(torch.linspace(-1, 1, tensor.numel()).view(tensor.shape))
    before = [tensor.clone() for tensor in kept(memories[0])]
    slots_B = torch.arange(3) if by_number else None
    outputs = []
    for memory, lengths in zip(memories, ([5, -1, 63], [5, 63, 63]), strict=True):
        step = DecodeStep(slots_B=slots_B, lengths_B=torch.tensor(lengths))
        with using_backend(backend):
            outputs.append(lightning_decode(*parts, SLOPES_H, memory, step))
    assert torch.equal(outputs[0][[0, 2]], outputs[1][[0, 2]]) and bool((outputs[0][1] == 0).all())
    for old, with_idle, all_live in zip(before, kept(memories[0]), kept(memories[1]), strict=True):
        assert torch.equal(with_idle[1], old[1]) and not torch.equal(all_live[1], old[1])
        assert torch.equal(with_idle[[0, 2]], all_live[[0, 2]])


@pytest.mark.parametrize("has_open_chunk", [False, True])
def test_slots_may_lie_apart_and_hold_anything_before_the_first_state(has_open_chunk: bool) -> None:
    """Two slots of pages whose every other byte is NaN, decoded across a chunk's end."""
    steps = [qkv(2, torch.float64) for _ in range(66)]
    outputs, memories = [], []
    for backend in SLOW_AND_FAST:
        dense = new_memory(3, torch.float64, has_open_chunk=has_open_chunk)
        parts = [torch.full((3, 2, *part.shape[1:]), float("nan")).double()[:, 1] for part in kept(dense)]
        names = ("states_SHDD", "rounded_SHDD", "keys_SHCD", "values_SHCD")
        memory = LightningMemory(**dict(zip(names, parts, strict=False)))
        slots_B = torch.tensor([2, 0])
        with using_backend(backend):
            for token, part in enumerate(steps):
                step = DecodeStep(slots_B=slots_B, lengths_B=torch.full((2,), token))
                outputs.append(lightning_decode(*part, SLOPES_H, memory, step))
        memories.append(memory.states_SHDD)
    first, second = torch.stack(outputs).chunk(2)
    torch.testing.assert_close(first, second, rtol=0, atol=1e-11)
    torch.testing.assert_close(*memories, rtol=0, atol=1e-11, equal_nan=True)
    assert bool(memories[0][1].isnan().all()) and bool(memories[0][[0, 2]].isfinite().all())


@pytest.mark.parametrize("has_open_chunk", [False, True])
def test_a_prompt_in_pieces_and_then_decoded_equals_one_pass(has_open_chunk: bool, pack: Pack) -> None:
    parts = qkv(2 * 150, torch.float64)
    whole, _ = lightning_attention(*parts, SLOPES_H, pack([150, 150]), LightningForm(applies_silu=True))
    by_sequence = [part.view(2, 150, len(SLOPES_H), SIZE) for part in (p.contiguous() for p in parts)]
    memory = new_memory(4, torch.float64, has_open_chunk=has_open_chunk)
    slots_N, pieces = torch.tensor([2, 0]), []
    for start, end in ((0, 30), (30, 64), (64, 140)):
        piece = [part[:, start:end].flatten(0, 1) for part in by_sequence]
        q, k, v = piece
        o_THD = continue_lightning(
            (q, k, v), SLOPES_H, pack([end - start] * 2), memory, slots_N, (start, start)
        )
        pieces.append(o_THD.view(2, end - start, len(SLOPES_H), SIZE))
    for token in range(140, 150):
        step = DecodeStep(slots_B=slots_N, lengths_B=torch.tensor([token] * 2), applies_silu=True)
        o_BHD = lightning_decode(*(part[:, token] for part in by_sequence), SLOPES_H, memory, step)
        pieces.append(o_BHD[:, None])
    torch.testing.assert_close(torch.cat(pieces, dim=1).flatten(0, 1), whole, rtol=0, atol=1e-11)


def test_half_precision_inputs_keep_an_fp32_state(pack: Pack) -> None:
    parts = [part.bfloat16() for part in qkv(100)]
    o_THD, state_NHDD = lightning_attention(*parts, SLOPES_H, pack([40, 60]))
    wide, _ = lightning_attention(*(part.float() for part in parts), SLOPES_H, pack([40, 60]))
    assert o_THD.dtype == torch.bfloat16 and state_NHDD.dtype == torch.float32
    torch.testing.assert_close(o_THD.float(), wide, rtol=1e-2, atol=1e-2)


def test_bad_inputs_are_refused_by_name(pack: Pack) -> None:
    q, k, v = qkv(10)
    cases = {
        "k_THD is float64": (q, k.double(), v, SLOPES_H, pack([10])),
        "v_THD has shape": (q, k, v[:, :, :4], SLOPES_H, pack([10])),
        "slopes_H has shape": (q, k, v, SLOPES_H[:2], pack([10])),
        "cu_seqlens is": (q, k, v, SLOPES_H, pack([9])),
    }
    for message, arguments in cases.items():
        with pytest.raises(ValueError, match=message):
            lightning_attention(*arguments)
    form = LightningForm(initial_state=torch.zeros(2, 3, SIZE, SIZE))
    with pytest.raises(ValueError, match="initial_state has shape"):
        lightning_attention(q, k, v, SLOPES_H, pack([10]), form)


def test_bad_decode_steps_are_refused_by_name() -> None:
    parts, memory = qkv(2), new_memory(2, torch.float32, has_open_chunk=True)
    half = LightningMemory(states_SHDD=memory.states_SHDD, keys_SHCD=memory.keys_SHCD)
    step = DecodeStep(lengths_B=torch.zeros(2, dtype=torch.int64))
    keys = torch.zeros(2, len(SLOPES_H), SIZE, 64).mT
    values = torch.zeros(2, len(SLOPES_H) * 64 * SIZE + 2)[:, :-2].view_as(keys)
    lengths = torch.zeros(2, dtype=torch.int64)
    cases = {
        "lengths_B is None": (memory, DecodeStep()),
        "lengths_B has shape": (memory, DecodeStep(lengths_B=lengths[:1])),
        "slots_B is float32": (memory, DecodeStep(lengths_B=lengths, slots_B=torch.zeros(2))),
        "memory has some of": (half, DecodeStep(lengths_B=lengths)),
        "keys_SHCD has strides .* dense inside": (replace(memory, keys_SHCD=keys), step),
        "values_SHCD has slots .* multiple of 16": (replace(memory, values_SHCD=values), step),
        "1 slots for 2": (new_memory(1, torch.float32, has_open_chunk=False), DecodeStep()),
    }
    for message, (given, step) in cases.items():
        with pytest.raises(ValueError, match=message):
            lightning_decode(*parts, SLOPES_H, given, step)
