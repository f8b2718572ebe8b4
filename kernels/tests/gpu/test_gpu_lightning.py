"""Lightning attention and decode on a GPU: errors against float64, equal bits on all paths, equal bits twice.

Legend: T tokens, H heads, D head size, N sequences, B sequences of a step.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import accumulate, pairwise

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from forklight_kernels.lightning_attention import LightningForm, lightning_attention
from forklight_kernels.lightning_decode import (
    DecodeStep,
    LightningMemory,
    continue_lightning,
    lightning_decode,
)

pytestmark = pytest.mark.gpu
HEADS, SIZE = 8, 128
TOLERANCE = {torch.bfloat16: 6e-3, torch.float32: 2e-5}
MIXTURE = (65, 1, 500, 0, 64, 63, 300)
LAYERS = (0, 40, 78)


def slopes(layer: int, heads: int = HEADS) -> Tensor:
    """Of the published model's 64 heads, evenly."""
    steps = torch.arange(64 // heads, 65, 64 // heads, device="cuda", dtype=torch.float32)
    return 2 ** (-steps / 8) * (1 - layer / 79 + 1e-5)


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """What a kernel leaves unwritten is NaN. Around our own calls only: cuBLAS would complain of the mode."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def attend(
    x_THW: Tensor, slopes_H: Tensor, cu_seqlens: Tensor, form: LightningForm, *, tiles: object = None
) -> tuple[Tensor, Tensor]:
    from forklight_kernels.lightning_attention import triton_gpu

    q, k, v = x_THW.chunk(3, dim=-1)
    with poisoned_memory():
        if tiles is None:
            return lightning_attention(q, k, v, slopes_H, cu_seqlens, form)
        offsets = tuple(cu_seqlens.tolist())
        return triton_gpu.lightning_attention((q, k, v), slopes_H, offsets, form, tiles)


def default_tiles(dtype: torch.dtype = torch.bfloat16, size: int = SIZE, **changes: object) -> object:
    from forklight_kernels.lightning_attention.triton_launch import tiles_for

    return replace(tiles_for(dtype, size), **changes)


def packed(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device="cuda")


def joined(num_tokens: int, dtype: torch.dtype = torch.bfloat16, size: int = SIZE) -> Tensor:
    return torch.randn(num_tokens, HEADS, 3 * size, device="cuda").to(dtype)


def reference(
    parts: Sequence[Tensor], slopes_H: Tensor, offsets: Sequence[int], initial: Tensor
) -> tuple[Tensor, Tensor]:
    """In float64: the masked form, one sequence and one head at a time, from the states given."""
    outputs, states = [], []
    for number, (start, end) in enumerate(pairwise(offsets)):
        place = torch.arange(end - start, device="cuda", dtype=torch.float64)
        distance = place[:, None] - place[None, :]
        heads, lasts = [], []
        for h, s in enumerate(slopes_H.double()):
            q, k, v = (part[start:end, h] for part in parts)
            weights = torch.exp(-s * distance.clamp(min=0)).masked_fill(distance < 0, 0.0)
            read = torch.exp(-s * (place + 1))[:, None] * (q @ initial[number, h])
            heads.append((q @ k.T * weights) @ v + read)
            kept = torch.exp(-s * (len(place) - 1 - place))[:, None]
            lasts.append(torch.exp(-s * len(place)) * initial[number, h] + (k * kept).T @ v)
        outputs.append(torch.stack(heads, dim=1))
        states.append(torch.stack(lasts))
    return torch.cat(outputs), torch.stack(states)


def with_gradients(
    op: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], inputs: Sequence[Tensor], pulls: Sequence[Tensor]
) -> list[Tensor]:
    leaves = [value.detach().clone().requires_grad_() for value in inputs]
    outputs = op(*leaves)
    pulled = [pull.to(output.dtype) for pull, output in zip(pulls, outputs, strict=True)]
    with nullcontext() if inputs[0].dtype == torch.float64 else poisoned_memory():
        gradients = torch.autograd.grad(outputs, leaves, pulled)
    return [*(output.detach() for output in outputs), *gradients]


def error(got: Tensor, truth: Tensor) -> float:
    return float((got.double() - truth.double()).norm() / truth.double().norm())


def errors(lengths: Sequence[int], dtype: torch.dtype, size: int, tiles: object) -> list[float]:
    """Of outputs, states and every gradient, with silu and from states that are not zero."""
    offsets, slopes_H = [0, *accumulate(lengths)], slopes(40)
    x_THW = joined(offsets[-1], dtype, size)
    initial = torch.randn(len(lengths), HEADS, size, size, device="cuda")
    pulls = torch.randn(offsets[-1], HEADS, size, device="cuda").to(dtype), torch.randn_like(initial)

    def ours(x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        form = LightningForm(initial_state=state, applies_silu=True)
        return attend(x, slopes_H, packed(lengths), form, tiles=tiles)

    def definition(x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return reference(silu(x).chunk(3, dim=-1), slopes_H, offsets, state)

    got = with_gradients(ours, (x_THW, initial), pulls)
    truth = with_gradients(definition, (x_THW.double(), initial.double()), pulls)
    return [error(a, b) for a, b in zip(got, truth, strict=True)]


@pytest.mark.parametrize("lengths", [(1,), (63,), (64,), (65,), (500,), (4097,), MIXTURE])
def test_outputs_and_gradients_match_float64(lengths: tuple[int, ...]) -> None:
    found = errors(lengths, torch.bfloat16, SIZE, default_tiles(segment_rows=0))
    assert max(found) < TOLERANCE[torch.bfloat16], found


@pytest.mark.parametrize(
    "changes",
    [
        {"segment_rows": 64},
        {"segment_rows": 0, "activates_first": False},
    ],
    ids=str,
)
def test_every_form_of_the_gradient_matches_float64(changes: dict[str, object]) -> None:
    found = errors(MIXTURE, torch.bfloat16, SIZE, default_tiles(**changes))
    assert max(found) < TOLERANCE[torch.bfloat16], found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_small_heads_match_float64(dtype: torch.dtype) -> None:
    found = errors(MIXTURE, dtype, 32, default_tiles(dtype, 32, segment_rows=0))
    assert max(found) < TOLERANCE[dtype], found


def test_fp32_with_the_published_head_size_matches_float64() -> None:
    x_THW, slopes_H, offsets = joined(200, torch.float32), slopes(40), [0, 130, 200]
    o_THD, states = attend(x_THW, slopes_H, packed([130, 70]), LightningForm())
    zero = torch.zeros(2, HEADS, SIZE, SIZE, device="cuda", dtype=torch.float64)
    truth = reference(x_THW.double().chunk(3, dim=-1), slopes_H, offsets, zero)
    assert error(o_THD, truth[0]) < TOLERANCE[torch.float32]
    assert error(states, truth[1]) < TOLERANCE[torch.float32]


def test_two_runs_have_equal_bits() -> None:
    x_THW, pull = joined(sum(MIXTURE)), torch.randn(sum(MIXTURE), HEADS, SIZE, device="cuda").bfloat16()
    form, runs = LightningForm(applies_silu=True), []
    for _ in range(2):
        leaf = x_THW.clone().requires_grad_()
        o_THD, states = attend(leaf, slopes(0), packed(MIXTURE), form, tiles=default_tiles(segment_rows=128))
        runs.append((o_THD, states, *torch.autograd.grad(o_THD, leaf, pull)))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("layer", LAYERS)
def test_segments_have_the_bits_of_one_pass(layer: int) -> None:
    lengths, form = (1000, 64, 0, 193, 4096), LightningForm(applies_silu=True)
    x_THW, slopes_H = joined(sum(lengths)), slopes(layer)
    o_THD, states = attend(x_THW, slopes_H, packed(lengths), form, tiles=default_tiles(segment_rows=0))
    for rows, columns in ((64, 32), (128, 16), (64, 64)):
        tiles = default_tiles(segment_rows=128, chain_rows=rows, chain_columns=columns)
        o_cut, states_cut = attend(x_THW, slopes_H, packed(lengths), form, tiles=tiles)
        assert torch.equal(o_cut, o_THD) and torch.equal(states_cut, states)


def test_silu_in_the_loads_has_the_bits_of_silu_before() -> None:
    x_THW, form = joined(300), LightningForm(applies_silu=True)
    tiles = [default_tiles(segment_rows=0, activates_first=first) for first in (False, True)]
    a, b = (attend(x_THW, slopes(40), packed([193, 107]), form, tiles=tile) for tile in tiles)
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


@pytest.mark.parametrize("layer", LAYERS)
def test_packed_and_alone_and_other_layouts_have_equal_bits(layer: int) -> None:
    x_THW, slopes_H, form = joined(sum(MIXTURE)), slopes(layer), LightningForm()
    o_THD, states = attend(x_THW, slopes_H, packed(MIXTURE), form)
    for number, (start, end) in enumerate(pairwise([0, *accumulate(MIXTURE)])):
        if end > start:
            alone, state = attend(x_THW[start:end], slopes_H, packed([end - start]), form)
            assert torch.equal(alone, o_THD[start:end]) and torch.equal(state[0], states[number])
    parts = [part.contiguous() for part in x_THW.chunk(3, dim=-1)]
    apart, _ = lightning_attention(*parts, slopes_H, packed(MIXTURE), form)
    head_major = [part.transpose(0, 1).contiguous().transpose(0, 1) for part in parts]
    copied, _ = lightning_attention(*head_major, slopes_H, packed(MIXTURE), form)
    assert torch.equal(apart, o_THD) and torch.equal(copied, o_THD)


def test_a_neighbour_full_of_nan_leaves_a_sequence_untouched() -> None:
    x_THW, lengths = joined(300), (70, 130, 100)
    clean, _ = attend(x_THW, slopes(0), packed(lengths), LightningForm(applies_silu=True))
    x_THW[:70], x_THW[200:] = float("nan"), float("nan")
    leaf = x_THW.requires_grad_()
    o_THD, states = attend(leaf, slopes(0), packed(lengths), LightningForm(applies_silu=True))
    (dx_THW,) = torch.autograd.grad(o_THD[70:200].sum(), leaf)
    assert torch.equal(o_THD[70:200], clean[70:200])
    assert not states[1].isnan().any() and not dx_THW[70:200].isnan().any()


def new_memory(num_slots: int, size: int = SIZE, dtype: torch.dtype = torch.bfloat16) -> LightningMemory:
    """Zero states, and open chunks whose unused places hold NaN."""
    states = torch.zeros(num_slots, HEADS, size, size, device="cuda")
    rows = torch.full((2, num_slots, HEADS, 64, size), float("nan"), dtype=dtype, device="cuda")
    return LightningMemory(
        states_SHDD=states, rounded_SHDD=states.to(dtype), keys_SHCD=rows[0], values_SHCD=rows[1]
    )


def decode_rows(x_BTHW: Tensor, slopes_H: Tensor, memory: LightningMemory, tiles: object) -> Tensor:
    """Every token decoded, from nothing: [B, T, H, D]."""
    from forklight_kernels.lightning_decode import triton_gpu

    rows, batch = [], len(x_BTHW)
    slots = torch.arange(batch, device="cuda").flip(0)
    for token in range(x_BTHW.shape[1]):
        q, k, v = x_BTHW[:, token].chunk(3, dim=-1)
        lengths = torch.full((batch,), token, device="cuda")
        step = DecodeStep(slots_B=slots, lengths_B=lengths, applies_silu=True)
        rows.append(triton_gpu.lightning_decode((q, k, v), slopes_H, memory, step, tiles))
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize(
    ("rows_at_once", "num_stages", "close_rows"), [(64, 3, 32), (32, 5, 32), (64, 2, 16)]
)
def test_prefill_and_decode_have_equal_bits_at_every_position(
    rows_at_once: int, num_stages: int, close_rows: int
) -> None:
    from forklight_kernels.lightning_decode.triton_gpu import DecodeTiles

    batch, num_tokens = 3, 200
    x_BTHW = torch.randn(batch, num_tokens, HEADS, 3 * SIZE, device="cuda").bfloat16()
    form = LightningForm(applies_silu=True, keeps_open_chunk=True)
    tiles = DecodeTiles(rows=rows_at_once, num_stages=num_stages, close_rows=close_rows)
    for layer in LAYERS:
        slopes_H, memory = slopes(layer), new_memory(batch)
        whole, states = attend(x_BTHW.flatten(0, 1), slopes_H, packed([num_tokens] * batch), form)
        rows = decode_rows(x_BTHW, slopes_H, memory, tiles)
        assert torch.equal(rows.flatten(0, 1), whole), f"layer {layer}"
        assert torch.equal(memory.states_SHDD.flip(0), states), f"layer {layer}"


OTHER_HEADS = [
    (16, torch.bfloat16),
    (32, torch.bfloat16),
    (32, torch.float32),
    (64, torch.bfloat16),
    (128, torch.float32),
]


@pytest.mark.parametrize(("size", "dtype"), OTHER_HEADS)
def test_prefill_and_decode_have_equal_bits_for_other_heads(size: int, dtype: torch.dtype) -> None:
    x_BTHW = torch.randn(1, 140, HEADS, 3 * size, device="cuda").to(dtype)
    memory = new_memory(1, size, dtype)
    whole, _ = attend(x_BTHW[0], slopes(0), packed([140]), LightningForm(applies_silu=True))
    assert torch.equal(decode_rows(x_BTHW, slopes(0), memory, None)[0], whole)


def pages(num_slots: int, padding: int) -> LightningMemory:
    """One buffer with a slot's four parts side by side, all of it NaN, as a cache of pages lays them."""
    square, rows = (HEADS, SIZE, SIZE), (HEADS, 64, SIZE)
    shapes = (
        (square, torch.float32),
        (square, torch.bfloat16),
        (rows, torch.bfloat16),
        (rows, torch.bfloat16),
    )
    page = sum(torch.Size(shape).numel() * dtype.itemsize for shape, dtype in shapes) + padding
    raw, parts, at = torch.full((num_slots * page,), 0xFF, dtype=torch.uint8, device="cuda"), [], 0
    for shape, dtype in shapes:
        strides = (page // dtype.itemsize, *torch.empty(shape).stride())
        parts.append(raw.view(dtype).as_strided((num_slots, *shape), strides, at // dtype.itemsize))
        at += torch.Size(shape).numel() * dtype.itemsize
    return LightningMemory(
        states_SHDD=parts[0], rounded_SHDD=parts[1], keys_SHCD=parts[2], values_SHCD=parts[3]
    )


@pytest.mark.parametrize("padding", [1024, 16])
def test_pages_of_nan_give_the_bits_of_dense_slots(padding: int) -> None:
    """From each sequence's first token on; idle rows share page 0, which stays as it is."""
    batch, slopes_H = 3, slopes(40)
    x_BTHW = torch.randn(batch, 140, HEADS, 3 * SIZE, device="cuda").bfloat16()
    dense, paged = new_memory(batch), pages(9, padding)
    table = torch.tensor([[7, 1], [0, 1], [4, 1], [0, 1], [8, 1]], device="cuda", dtype=torch.int32)
    live = torch.tensor([0, 2, 4], device="cuda")
    for token in range(140):
        lengths = torch.full((5,), -1, device="cuda", dtype=torch.int32)
        lengths[live] = token
        q, k, v = x_BTHW[:, token].chunk(3, dim=-1)
        step = DecodeStep(lengths_B=lengths[live], applies_silu=True)
        expected = lightning_decode(q, k, v, slopes_H, dense, step)
        wide = torch.full((5, HEADS, 3 * SIZE), float("nan"), device="cuda", dtype=torch.bfloat16)
        wide[live] = x_BTHW[:, token]
        step = DecodeStep(slots_B=table[:, 0], lengths_B=lengths, applies_silu=True)
        got = lightning_decode(*wide.chunk(3, dim=-1), slopes_H, paged, step)
        assert torch.equal(got[live], expected) and bool((got[[1, 3]] == 0).all()), token
    used = table[live, 0].long()
    for name in ("states_SHDD", "rounded_SHDD"):
        ours, moved = getattr(dense, name), getattr(paged, name)
        assert torch.equal(ours, moved[used]) and bool(moved[0].isnan().all())
    assert paged.keys_SHCD is not None and bool(paged.keys_SHCD[0].isnan().all())


@pytest.mark.parametrize("cuts", [(64, 192), (1, 30, 64, 65, 127, 200), (100,)], ids=str)
def test_a_prompt_in_pieces_and_then_decoded_has_the_bits_of_one_pass(cuts: tuple[int, ...]) -> None:
    num_tokens, batch, slopes_H = 280, 2, slopes(40)
    x_BTHW = torch.randn(batch, num_tokens, HEADS, 3 * SIZE, device="cuda").bfloat16()
    form = LightningForm(applies_silu=True)
    whole, _ = attend(x_BTHW.flatten(0, 1), slopes_H, packed([num_tokens] * batch), form)
    memory, slots, pieces = new_memory(5), torch.tensor([4, 1], device="cuda"), []
    for start, end in pairwise((0, *cuts, 270)):
        q, k, v = x_BTHW[:, start:end].flatten(0, 1).chunk(3, dim=-1)
        o_THD = continue_lightning(
            (q, k, v), slopes_H, packed([end - start] * batch), memory, slots, (start,) * batch
        )
        pieces.append(o_THD.view(batch, end - start, HEADS, SIZE))
    for token in range(270, num_tokens):
        step = DecodeStep(
            slots_B=slots, lengths_B=torch.full((batch,), token, device="cuda"), applies_silu=True
        )
        pieces.append(lightning_decode(*x_BTHW[:, token].chunk(3, dim=-1), slopes_H, memory, step)[:, None])
    assert torch.equal(torch.cat(pieces, dim=1).flatten(0, 1), whole)


def test_a_captured_step_decodes_like_a_launched_one() -> None:
    batch, slopes_H = 4, slopes(40)
    x_BTHW = torch.randn(batch, 130, HEADS, 3 * SIZE, device="cuda").bfloat16()
    memory, step = (
        new_memory(batch),
        DecodeStep(lengths_B=torch.zeros(batch, device="cuda", dtype=torch.int64)),
    )
    fresh_BHW = x_BTHW[:, 0].clone()
    lightning_decode(*fresh_BHW.chunk(3, dim=-1), slopes_H, memory, step)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        o_BHD = lightning_decode(*fresh_BHW.chunk(3, dim=-1), slopes_H, memory, step)
    rows = []
    for token in range(130):
        fresh_BHW.copy_(x_BTHW[:, token])
        assert step.lengths_B is not None
        step.lengths_B.fill_(token)
        graph.replay()
        rows.append(o_BHD.clone())
    whole, _ = attend(x_BTHW.flatten(0, 1), slopes_H, packed([130] * batch), LightningForm())
    assert torch.equal(torch.stack(rows, dim=1).flatten(0, 1), whole)
