"""The Triton kernels of lightning attention and decode against their definitions, in Triton's interpreter.

Legend: T tokens, H heads, D head size, N sequences, B sequences of a step.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from forklight_kernels import Backend, using_backend
from forklight_kernels.lightning_attention import LightningForm, lightning_attention
from forklight_kernels.lightning_attention.segments import choose_segment_rows, plan_walks
from forklight_kernels.lightning_decode import (
    DecodeStep,
    LightningMemory,
    continue_lightning,
    lightning_decode,
)

pytest.importorskip("triton")
from forklight_kernels.lightning_attention import triton_gpu as triton_attention
from forklight_kernels.lightning_attention import triton_launch
from forklight_kernels.lightning_attention.triton_launch import Tiles
from forklight_kernels.lightning_attention.triton_silu import activated
from forklight_kernels.lightning_decode import triton_gpu as triton_decode
from forklight_kernels.lightning_decode.triton_gpu import DecodeTiles

HEADS, SIZE = 2, 16
SLOPES_H = torch.tensor([0.84, 0.01])
SMALL = Tiles(columns=16, chain_rows=16, chain_columns=16, num_stages=2, segment_rows=0)
"""Two programs a head at 32 columns; nothing chosen by the shape."""
Pack = Callable[[Sequence[int]], Tensor]
Parts = tuple[Tensor, Tensor, Tensor]

pytestmark = [
    pytest.mark.usefixtures("poisoned_memory"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is chosen where there is no GPU"),
]


@pytest.fixture(autouse=True)
def scans_in_small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three segments then take two groups; and the interpreter walks a group's scan in Python."""
    monkeypatch.setattr(triton_launch, "SCAN_GROUP", 2)


def error(got: Tensor, truth: Tensor) -> float:
    if truth.numel() == 0:
        return 0.0
    return float((got.double() - truth.double()).norm() / truth.double().norm().clamp(min=1e-30))


def joined(num_tokens: int, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(num_tokens, HEADS, 3 * size).to(dtype)


def run(
    op: Callable[[Parts, LightningForm], tuple[Tensor, Tensor]],
    x_THW: Tensor,
    initial: Tensor | None,
    form: LightningForm,
    pulls: Sequence[Tensor],
) -> list[Tensor]:
    """Outputs, and the gradients of q|k|v and of the initial state."""
    x_THW = x_THW.detach().clone().requires_grad_()
    leaves = [x_THW]
    if initial is not None:
        wide = torch.float64 if x_THW.dtype == torch.float64 else torch.float32
        leaves.append(initial.detach().to(wide).clone().requires_grad_())
        form = replace(form, initial_state=leaves[1])
    q, k, v = x_THW.chunk(3, dim=-1)
    outputs = list(op((q, k, v), form))
    differentiable = [output for output in outputs if output.requires_grad]
    pulled = [pull.to(output.dtype) for pull, output in zip(pulls, differentiable, strict=False)]
    return [output.detach() for output in outputs] + list(torch.autograd.grad(differentiable, leaves, pulled))


def check(
    lengths: Sequence[int], *, tiles: Tiles, size: int = SIZE, with_state: bool = True, form: LightningForm
) -> None:
    offsets = [sum(lengths[:number]) for number in range(len(lengths) + 1)]
    x_THW = joined(offsets[-1], size)
    initial = torch.randn(len(lengths), HEADS, size, size) if with_state else None
    pulls = torch.randn(offsets[-1], HEADS, size), torch.randn(len(lengths), HEADS, size, size)
    cu_seqlens = torch.tensor(offsets, dtype=torch.int32)

    def definition(parts: Parts, form: LightningForm) -> tuple[Tensor, Tensor]:
        return lightning_attention(*parts, SLOPES_H, cu_seqlens, form)

    def ours(parts: Parts, form: LightningForm) -> tuple[Tensor, Tensor]:
        return triton_attention.lightning_attention(parts, SLOPES_H, tuple(offsets), form, tiles)

    with using_backend(Backend.NAIVE):
        truth = run(definition, x_THW.double(), initial, form, pulls)
    errors = [
        error(got, want) for got, want in zip(run(ours, x_THW, initial, form, pulls), truth, strict=True)
    ]
    assert max(errors) < 1e-5, errors


@pytest.mark.parametrize("lengths", [[1], [63], [64], [70, 3, 64]])
def test_outputs_and_gradients_match_naive(lengths: list[int]) -> None:
    check(lengths, tiles=SMALL, form=LightningForm())


@pytest.mark.parametrize("activates_first", [False, True])
def test_silu_and_its_gradient_match_naive(activates_first: bool) -> None:
    tiles = replace(SMALL, activates_first=activates_first)
    check([65, 0, 20], tiles=tiles, with_state=False, form=LightningForm(applies_silu=True))


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # an infinite exponential is meant
def test_silu_is_finite_at_the_ends_of_the_range() -> None:
    ends = torch.tensor([-3e38, -1e4, -88.8, -1.0, 0.0, 1.0, 88.8, 3e38])
    expected = torch.tensor([0.0, 0.0, 0.0, -0.26894143, 0.0, 0.73105857, 88.8, 3e38])
    torch.testing.assert_close(activated(ends.expand(3, 2, 8))[2, 1], expected, rtol=1e-6, atol=1e-30)


def test_segments_match_naive() -> None:
    tiles = replace(SMALL, segment_rows=64)
    check([130, 0, 64], tiles=tiles, form=LightningForm(applies_silu=True))
    check([70], tiles=tiles, with_state=False, form=LightningForm())


def test_segments_match_naive_when_silu_is_in_the_loads_and_the_chunk_is_kept() -> None:
    tiles = replace(SMALL, segment_rows=64, activates_first=False)
    check([70, 64], tiles=tiles, form=LightningForm(applies_silu=True, keeps_open_chunk=True))


def test_the_open_chunk_is_left_out_of_the_state() -> None:
    for segment_rows in (0, 64):
        tiles = replace(SMALL, segment_rows=segment_rows)
        check([63, 64, 70], tiles=tiles, form=LightningForm(keeps_open_chunk=True))


def test_gradients_of_joined_inputs_are_views_of_one_tensor(pack: Pack) -> None:
    q, k, v = (part.detach().requires_grad_() for part in joined(70, SIZE).chunk(3, dim=-1))
    with using_backend(Backend.TRITON):
        o_THD, _ = lightning_attention(q, k, v, SLOPES_H, pack([70]))
    gradients = torch.autograd.grad(o_THD.sum(), (q, k, v))
    assert [each.data_ptr() - gradients[0].data_ptr() for each in gradients] == [0, 4 * SIZE, 8 * SIZE]
    assert all(each.stride() == (HEADS * 3 * SIZE, 3 * SIZE, 1) for each in gradients)


def test_a_neighbour_full_of_nan_leaves_a_sequence_untouched(pack: Pack) -> None:
    x_THW = joined(150, SIZE)
    with using_backend(Backend.TRITON):
        clean, _ = lightning_attention(*x_THW.chunk(3, dim=-1), SLOPES_H, pack([70, 50, 30]))
        x_THW[:70] = float("nan")
        x_THW[120:] = float("nan")
        o_THD, states = lightning_attention(*x_THW.chunk(3, dim=-1), SLOPES_H, pack([70, 50, 30]))
    assert torch.equal(o_THD[70:120], clean[70:120])
    assert not states[1].isnan().any()


def test_walks_cover_every_row_once() -> None:
    walks = plan_walks((0, 130, 130, 194, 199), 64, torch.device("cpu"))
    assert walks.lines_S4.tolist() == [
        [0, 64, 0, 0],
        [64, 64, 1, -1],
        [128, 2, 2, -1],
        [130, 0, 3, 1],
        [130, 64, 4, 2],
        [194, 5, 5, 3],
    ]
    assert walks.spans_N2.tolist() == [[0, 3], [3, 4], [4, 5], [5, 6]]
    assert walks.chain_N4.tolist() == [[0, 130, 0, 0], [130, 64, 2, 4], [194, 5, 3, 5], [130, 0, 1, 3]]


def test_sequences_are_cut_only_where_the_gpu_would_idle() -> None:
    long = (0, 131072)
    assert choose_segment_rows(long, 128, 132) == 0
    assert choose_segment_rows(long, 16, 132) == 2048
    assert choose_segment_rows(tuple(range(0, 131073, 16384)), 16, 132) == 0
    assert choose_segment_rows((0, 256), 16, 132) == 0


def new_memory(num_slots: int, size: int, dtype: torch.dtype = torch.float32) -> LightningMemory:
    states = torch.zeros(num_slots, HEADS, size, size)
    rows = torch.full((2, num_slots, HEADS, 64, size), float("nan"), dtype=dtype)
    return LightningMemory(
        states_SHDD=states, rounded_SHDD=states.to(dtype), keys_SHCD=rows[0], values_SHCD=rows[1]
    )


@pytest.mark.parametrize("rows_at_once", [16, 32])
def test_decode_matches_one_pass_across_a_chunk_border(rows_at_once: int, pack: Pack) -> None:
    size, num_tokens, prompt = 32, 66, 62
    x_THW = joined(2 * num_tokens, size)
    form = LightningForm(applies_silu=True, keeps_open_chunk=True)
    with using_backend(Backend.NAIVE):
        parts = [part.double() for part in x_THW.chunk(3, dim=-1)]
        whole, states = lightning_attention(*parts, SLOPES_H, pack([num_tokens] * 2), form)
    memory, slots = new_memory(3, size), torch.tensor([2, 0])
    by_sequence = x_THW.view(2, num_tokens, HEADS, 3 * size)
    q, k, v = by_sequence[:, :prompt].flatten(0, 1).chunk(3, dim=-1)
    first = continue_lightning((q, k, v), SLOPES_H, pack([prompt] * 2), memory, slots, (0, 0))
    rows = list(first.view(2, prompt, HEADS, size).unbind(1))
    tiles = DecodeTiles(rows=rows_at_once, close_rows=48 - rows_at_once)
    for token in range(prompt, num_tokens):
        q, k, v = by_sequence[:, token].chunk(3, dim=-1)
        step = DecodeStep(slots_B=slots, lengths_B=torch.tensor([token] * 2), applies_silu=True)
        rows.append(triton_decode.lightning_decode((q, k, v), SLOPES_H, memory, step, tiles))
    assert error(torch.stack(rows, dim=1).flatten(0, 1), whole) < 1e-5
    assert error(memory.states_SHDD[slots], states) < 1e-5
    assert bool((memory.states_SHDD[1] == 0).all())


@pytest.mark.parametrize("by_number", [False, True])
def test_an_idle_row_of_decode_leaves_its_slot_and_its_neighbours_alone(by_number: bool) -> None:
    q, k, v = joined(3, SIZE).chunk(3, dim=-1)
    outputs, memories = [], [new_memory(3, SIZE) for _ in range(2)]
    for memory, lengths in zip(memories, ([5, -1, 63], [5, 63, 63]), strict=True):
        for tensor in kept(memory):
            tensor.copy_(torch.linspace(-1, 1, tensor.numel()).view(tensor.shape))
        before = [tensor[1].clone() for tensor in kept(memory)]
        slots = torch.arange(3) if by_number else None
        step = DecodeStep(slots_B=slots, lengths_B=torch.tensor(lengths), applies_silu=True)
        outputs.append(triton_decode.lightning_decode((q, k, v), SLOPES_H, memory, step))
        is_same = [torch.equal(old, new[1]) for old, new in zip(before, kept(memory), strict=True)]
        assert is_same == [lengths[1] < 0] * 4
    assert torch.equal(outputs[0][[0, 2]], outputs[1][[0, 2]]) and bool((outputs[0][1] == 0).all())
    for with_idle, all_live in zip(*map(kept, memories), strict=True):
        assert torch.equal(with_idle[[0, 2]], all_live[[0, 2]])


def apart(memory: LightningMemory, paddings: Sequence[int]) -> LightningMemory:
    """The same contents, in slots with so many elements of NaN between them."""
    moved = []
    for tensor, padding in zip(kept(memory), paddings, strict=True):
        stride = tensor.stride(0) + padding
        whole = torch.full((len(tensor) * stride,), float("nan"), dtype=tensor.dtype)
        moved.append(whole.as_strided(tensor.shape, (stride, *tensor.stride()[1:])).copy_(tensor))
    return LightningMemory(
        states_SHDD=moved[0], rounded_SHDD=moved[1], keys_SHCD=moved[2], values_SHCD=moved[3]
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 2e-3)])
@pytest.mark.parametrize("applies_silu", [False, True])
def test_slots_may_lie_apart_in_any_order(dtype: torch.dtype, tolerance: float, applies_silu: bool) -> None:
    """Each tensor at a stride of its own; lengths before, at and after the first state and on a close."""
    dense, lengths = new_memory(6, SIZE, dtype), torch.tensor([127, 63, 64, 70, 0, -1])
    for tensor in kept(dense):
        tensor.copy_(torch.randn(tensor.shape))
    dense = replace(dense, rounded_SHDD=dense.states_SHDD.to(dtype))
    paged, naive = apart(dense, (64, 0, 128, 8)), apart(dense, (0, 16, 0, 0))
    q, k, v = joined(6, SIZE, dtype).chunk(3, dim=-1)
    numbers = torch.tensor([[4, 9], [0, 9], [5, 9], [2, 9], [1, 9], [1, 9]], dtype=torch.int32)
    step = DecodeStep(slots_B=numbers[:, 0], lengths_B=lengths, applies_silu=applies_silu)
    outputs = []
    for backend, memory in ((Backend.TRITON, dense), (Backend.TRITON, paged), (Backend.NAIVE, naive)):
        with using_backend(backend):
            outputs.append(lightning_decode(q, k, v, SLOPES_H, memory, step))
    assert torch.equal(outputs[0], outputs[1]) and bool((outputs[0][5] == 0).all())
    assert error(outputs[0], outputs[2]) < tolerance
    for ours, moved, truth in zip(*map(kept, (dense, paged, naive)), strict=True):
        assert torch.equal(ours, moved) and error(ours, truth) < tolerance


def test_a_state_is_not_read_before_the_first_chunk_is_whole(pack: Pack) -> None:
    x_THW = joined(66, SIZE)
    with using_backend(Backend.NAIVE):
        parts = [part.double() for part in x_THW.chunk(3, dim=-1)]
        whole, _ = lightning_attention(*parts, SLOPES_H, pack([66]), LightningForm(applies_silu=True))
    with using_backend(Backend.TRITON):
        memory, (q, k, v) = new_memory(1, SIZE), x_THW[:62].chunk(3, dim=-1)
        rows = [continue_lightning((q, k, v), SLOPES_H, pack([62]), memory, None, (0,))]
        for tensor in kept(memory)[:2]:
            tensor.fill_(float("nan"))
        for token in range(62, 66):
            step = DecodeStep(lengths_B=torch.tensor([token]), applies_silu=True)
            rows.append(lightning_decode(*x_THW[token : token + 1].chunk(3, dim=-1), SLOPES_H, memory, step))
    assert error(torch.cat(rows), whole) < 1e-5


def kept(memory: LightningMemory) -> list[Tensor]:
    parts = (memory.states_SHDD, memory.rounded_SHDD, memory.keys_SHCD, memory.values_SHCD)
    return [tensor for tensor in parts if tensor is not None]


def test_a_prompt_in_pieces_and_then_decoded_equals_one_pass(pack: Pack) -> None:
    x_THW, memory, rows = joined(100, SIZE), new_memory(1, SIZE), []
    with using_backend(Backend.NAIVE):
        parts = [part.double() for part in x_THW.chunk(3, dim=-1)]
        whole, _ = lightning_attention(*parts, SLOPES_H, pack([100]), LightningForm(applies_silu=True))
    with using_backend(Backend.TRITON):
        for start, end in ((0, 30), (30, 64), (64, 98)):
            q, k, v = x_THW[start:end].chunk(3, dim=-1)
            rows.append(continue_lightning((q, k, v), SLOPES_H, pack([end - start]), memory, None, (start,)))
        for token in (98, 99):
            step = DecodeStep(lengths_B=torch.tensor([token]), applies_silu=True)
            rows.append(lightning_decode(*x_THW[token : token + 1].chunk(3, dim=-1), SLOPES_H, memory, step))
    assert error(torch.cat(rows), whole) < 1e-5


def test_half_precision_runs_the_same_kernels(pack: Pack) -> None:
    x_THW = joined(70, SIZE, torch.float16)
    with using_backend(Backend.TRITON):
        o_THD, states = lightning_attention(*x_THW.chunk(3, dim=-1), SLOPES_H, pack([70]))
    with using_backend(Backend.NAIVE):
        wide = [part.double() for part in x_THW.chunk(3, dim=-1)]
        truth, _ = lightning_attention(*wide, SLOPES_H, pack([70]))
    assert o_THD.dtype == torch.float16 and states.dtype == torch.float32
    assert error(o_THD, truth) < 2e-3


def test_what_the_kernels_cannot_take_is_refused_by_name(pack: Pack) -> None:
    with using_backend(Backend.TRITON):
        with pytest.raises(ValueError, match="head size 24; allowed are 16, 32, 64, 128"):
            lightning_attention(*joined(3, 24).chunk(3, dim=-1), SLOPES_H, pack([3]))
        with pytest.raises(ValueError, match="q_THD is float64; allowed are"):
            lightning_attention(*joined(3, 16, torch.float64).chunk(3, dim=-1), SLOPES_H, pack([3]))
        form = LightningForm(initial_state=torch.zeros(1, HEADS, 16, 16, dtype=torch.float64))
        with pytest.raises(ValueError, match="initial_state is float64"):
            lightning_attention(*joined(3, 16).chunk(3, dim=-1), SLOPES_H, pack([3]), form)
        step = DecodeStep(lengths_B=torch.zeros(1, dtype=torch.int64))
        with pytest.raises(ValueError, match="head size 24"):
            lightning_decode(*joined(1, 24).chunk(3, dim=-1), SLOPES_H, new_memory(1, 24), step)


def test_tensors_that_tma_cannot_read_are_copied() -> None:
    whole = torch.randn(3 * HEADS * SIZE + 1)
    unaligned = whole[1:].view(3, HEADS, SIZE)
    head_major = torch.randn(HEADS, 70, SIZE).transpose(0, 1)
    for each in (unaligned, head_major, unaligned[:1].expand(70, HEADS, SIZE)):
        copied = triton_launch.loadable(each)
        assert copied.data_ptr() % 16 == 0 and copied.is_contiguous() and torch.equal(copied, each)
    view = joined(70, SIZE).chunk(3, dim=-1)[1]
    assert triton_launch.loadable(view) is view
