"""Softmax and cached attention on a GPU: errors against float64, equal bits on all paths, equal bits twice.

Legend: T tokens, H heads, G key heads, D head size, B sequences, L places of a page.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise

import pytest
import torch
from torch import Tensor

from forklight_kernels import softmax_attention
from forklight_kernels.cached_attention import KeyPages, append_keys, cached_attention
from forklight_kernels.softmax_attention.blocks import KEY_BLOCK, KEY_SPLIT, KeyGrid

pytestmark = pytest.mark.gpu
HEADS, KEY_HEADS, SIZE = 8, 2, 128
TOLERANCE = {torch.bfloat16: 6e-3, torch.float32: 2e-5}


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """What a kernel leaves unwritten is NaN. Around our own calls only: cuBLAS would complain of the mode."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def attend(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor) -> Tensor:
    with poisoned_memory():
        return softmax_attention(q, k, v, cu_seqlens)


def attend_cached(q: Tensor, pages: KeyPages, lengths_B: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
    with poisoned_memory():
        return cached_attention(q, pages, lengths_B, cu_seqlens)


def packed(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device="cuda")


def qkv(
    num_tokens: int, dtype: torch.dtype = torch.bfloat16, heads: int = HEADS, size: int = SIZE
) -> list[Tensor]:
    return [torch.randn(num_tokens, n, size, device="cuda").to(dtype) for n in (heads, KEY_HEADS, KEY_HEADS)]


def reference(q: Tensor, k: Tensor, v: Tensor, offsets: Sequence[int]) -> Tensor:
    """In float64, one sequence and key head at a time."""
    group, outputs = q.shape[1] // k.shape[1], []
    for start, end in pairwise(offsets):
        is_future = torch.ones(end - start, end - start, dtype=torch.bool, device=q.device).triu(1)
        heads = []
        for h in range(q.shape[1]):
            scores = q[start:end, h] @ k[start:end, h // group].T * q.shape[2] ** -0.5
            heads.append(scores.masked_fill(is_future, float("-inf")).softmax(1) @ v[start:end, h // group])
        outputs.append(torch.stack(heads, dim=1))
    return torch.cat(outputs)


def with_gradients(op: Callable[..., Tensor], inputs: Sequence[Tensor], pull: Tensor) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = op(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, pull.to(out.dtype))]


def our_gradients(inputs: Sequence[Tensor], pull: Tensor, cu_seqlens: Tensor) -> list[Tensor]:
    with poisoned_memory():
        return with_gradients(lambda q, k, v: softmax_attention(q, k, v, cu_seqlens), inputs, pull)


def error(got: Tensor, truth: Tensor) -> float:
    return float((got.double() - truth.double()).norm() / truth.double().norm())


@pytest.mark.parametrize(
    ("lengths", "dtype", "heads"),
    [
        ([1], torch.bfloat16, 8),
        ([63], torch.bfloat16, 8),
        ([64], torch.bfloat16, 8),
        ([65], torch.bfloat16, 8),
        ([500], torch.bfloat16, 8),
        ([4097], torch.bfloat16, 4),
        ([65, 1, 500, 0, 63, 1030, 64], torch.bfloat16, 8),
        ([65, 1, 300], torch.float32, 4),
    ],
)
def test_softmax_attention_and_gradients_are_near_float64(
    lengths: list[int], dtype: torch.dtype, heads: int
) -> None:
    inputs = qkv(sum(lengths), dtype, heads)
    pull = torch.randn(sum(lengths), heads, SIZE, device="cuda").to(dtype)
    offsets = [0, *accumulate(lengths)]
    truth = with_gradients(
        lambda q, k, v: reference(q, k, v, offsets), [x.double() for x in inputs], pull.double()
    )
    cu_seqlens = packed(lengths)
    got = our_gradients(inputs, pull, cu_seqlens)
    again = our_gradients(inputs, pull, cu_seqlens)
    for number, (a, b, c) in enumerate(zip(got, truth, again, strict=True)):
        assert torch.equal(a, c), f"tensor {number} differs from run to run"
        if lengths == [1] and number in (1, 2):  # one key: its weight is 1 whatever q and k are
            assert float(a.abs().max()) < 0.05
        else:
            assert error(a, b) < TOLERANCE[dtype], f"tensor {number}"


@pytest.mark.parametrize("size", [16, 32, 64])
def test_smaller_heads_are_near_float64(size: int) -> None:
    lengths = [130, 65]
    inputs, pull = qkv(195, size=size), torch.randn(195, HEADS, size, device="cuda").bfloat16()
    offsets, cu_seqlens = [0, 130, 195], packed(lengths)
    truth = with_gradients(
        lambda q, k, v: reference(q, k, v, offsets), [x.double() for x in inputs], pull.double()
    )
    got = our_gradients(inputs, pull, cu_seqlens)
    assert max(error(a, b) for a, b in zip(got, truth, strict=True)) < TOLERANCE[torch.bfloat16]


def test_views_and_nan_neighbours_change_no_bit() -> None:
    lengths = [300, 200, 77]
    joined = torch.randn(577, (HEADS + 2 * KEY_HEADS) * SIZE, device="cuda").bfloat16()
    parts = joined.split([HEADS * SIZE, KEY_HEADS * SIZE, KEY_HEADS * SIZE], dim=1)
    views = [x.unflatten(1, (-1, SIZE)) for x in parts]
    pull = torch.randn(577, HEADS, SIZE, device="cuda").bfloat16()
    cu_seqlens = packed(lengths)

    def gradients(inputs: Sequence[Tensor]) -> list[Tensor]:
        leaves = [x.detach().requires_grad_() for x in inputs]
        out = softmax_attention(*leaves, cu_seqlens)
        return [out.detach(), *torch.autograd.grad(out, leaves, pull)]

    dense = gradients([x.contiguous() for x in views])
    for got, expected in zip(gradients(views), dense, strict=True):
        assert torch.equal(got, expected)
    alone = our_gradients([x[300:500] for x in views], pull[300:500], packed([200]))
    for x in (*views, pull):
        x[:300], x[500:] = float("nan"), float("nan")
    for got, expected, by_itself in zip(gradients(views), dense, alone, strict=True):
        assert torch.equal(got[300:500], expected[300:500])
        assert torch.equal(got[300:500], by_itself)


def paged(k: Tensor, v: Tensor, cu_seqlens: Tensor, page_length: int | None, places: int) -> KeyPages:
    """Pages that hold these packed keys, and NaN elsewhere. None: no table."""
    lengths = cu_seqlens.diff().tolist()
    per_sequence = 1 if page_length is None else places // page_length
    num_pages = len(lengths) * per_sequence
    table = torch.randperm(num_pages, device="cuda").view(-1, per_sequence).to(torch.int32)
    shape = (num_pages, k.shape[1], page_length or places, k.shape[2])
    pages = KeyPages(
        keys_PGLD=torch.full(shape, float("nan"), dtype=k.dtype, device="cuda"),
        values_PGLD=torch.full(shape, float("nan"), dtype=k.dtype, device="cuda"),
        table_BN=None if page_length is None else table,
    )
    positions = torch.cat([torch.arange(n, device="cuda") for n in lengths])
    append_keys(k, v, pages, positions, cu_seqlens)
    return pages


BORDERS = sorted(
    {
        length
        for border in (KEY_BLOCK, 128, KEY_SPLIT, KEY_SPLIT + KEY_BLOCK, 2 * KEY_SPLIT)
        for length in (border - 1, border, border + 1)
    }
    | {1, 2, 1000, 2 * KEY_SPLIT + 777}
)
LONGEST = -(-max(BORDERS) // 256) * 256


def decode_tiles() -> list[object]:
    from forklight_kernels.cached_attention.triton_gpu import DecodeTile

    return [None, DecodeTile(warps=4, stages=2), DecodeTile(warps=2, stages=3), DecodeTile(warps=8, stages=4)]


def forward_tiles() -> list[tuple[int, int, int]]:
    """Rows, warps, stages."""
    return [(128, 8, 2), (64, 4, 2), (64, 4, 3)]


def test_prefill_decode_and_pieces_give_a_row_the_same_bits() -> None:
    """One sequence of the longest length; decode sees it cut off at each border, all borders as one batch."""
    from forklight_kernels.cached_attention import triton_gpu

    q, k, v = qkv(LONGEST)
    whole = attend(q, k, v, packed([LONGEST]))
    last = torch.tensor(BORDERS, device="cuda") - 1
    one = paged(k, v, packed([LONGEST]), 256, LONGEST)
    assert one.table_BN is not None
    many = KeyPages(
        keys_PGLD=one.keys_PGLD, values_PGLD=one.values_PGLD, table_BN=one.table_BN.repeat(len(BORDERS), 1)
    )
    for tile in decode_tiles():
        rows = triton_gpu.cached_attention(q[last], many, last + 1, tile=tile)
        assert torch.equal(rows, whole[last]), f"decode, {tile}"
    for first in (1, KEY_BLOCK + 1, KEY_SPLIT - 5, 2 * KEY_SPLIT - 1):  # the piece's tiles start anywhere
        pieces = attend_cached(
            q[first:], one, torch.tensor([LONGEST], device="cuda"), packed([LONGEST - first])
        )
        assert torch.equal(pieces, whole[first:]), f"a piece from place {first} on"


def test_every_prefill_tile_gives_a_row_the_same_bits() -> None:
    from forklight_kernels.softmax_attention import triton_gpu
    from forklight_kernels.softmax_attention.triton_tiles import Tile, choose_tuning

    lengths = [KEY_SPLIT + 300, 63, 129]
    inputs, cu_seqlens = qkv(sum(lengths)), packed([KEY_SPLIT + 300, 63, 129])
    shipped = choose_tuning(torch.bfloat16, max(lengths))
    expected = attend(*inputs, cu_seqlens)
    for rows, warps, stages in forward_tiles():
        tuning = type(shipped)(
            forward=Tile(rows=rows, warps=warps, stages=stages),
            key_gradient=shipped.key_gradient,
            query_gradient=shipped.query_gradient,
        )
        got = triton_gpu.softmax_attention(*inputs, cu_seqlens, tuning)
        assert torch.equal(got, expected), f"{rows} rows, {warps} warps, {stages} stages"


def test_short_and_long_tables_of_tiles_give_a_row_the_same_bits() -> None:
    inputs = qkv(64 + 300)
    together = attend(*inputs, packed([64, 300]))
    alone = attend(*(x[:64] for x in inputs), packed([64]))
    assert torch.equal(together[:64], alone)


@pytest.mark.parametrize("page_length", [None, 64, 1024])
def test_batch_and_pages_change_no_bit_of_decode(page_length: int | None) -> None:
    lengths = [1, 64, 700, KEY_SPLIT, KEY_SPLIT + 65, 8192]
    q, k, v = qkv(sum(lengths))
    cu_seqlens = packed(lengths)
    last = cu_seqlens[1:].long() - 1
    whole = attend(q, k, v, cu_seqlens)[last]
    pages = paged(k, v, cu_seqlens, page_length, 8192)
    lengths_B = torch.tensor(lengths, dtype=torch.int32, device="cuda")
    assert torch.equal(attend_cached(q[last], pages, lengths_B), whole)
    for b in range(len(lengths)):
        own = slice(b, b + 1)
        if pages.table_BN is None:
            single = KeyPages(keys_PGLD=pages.keys_PGLD[own], values_PGLD=pages.values_PGLD[own])
        else:
            single = KeyPages(
                keys_PGLD=pages.keys_PGLD, values_PGLD=pages.values_PGLD, table_BN=pages.table_BN[own]
            )
        assert torch.equal(attend_cached(q[last][own], single, lengths_B[own]), whole[own])


def test_decode_of_one_split_gives_the_same_bits() -> None:
    """A capacity of one split needs no merge; more capacity does."""
    q, k, v = qkv(900)
    whole = attend(q, k, v, packed([900]))[-1:]
    length = torch.tensor([900], device="cuda")
    for places in (1024, 2 * KEY_SPLIT):
        pages = paged(k, v, packed([900]), None, places)
        assert torch.equal(attend_cached(q[-1:], pages, length), whole)


@pytest.mark.parametrize("group", [1, 4, 16])
def test_decode_is_near_float64(group: int) -> None:
    lengths = [5000, 17]
    q, k, v = qkv(sum(lengths), heads=group * KEY_HEADS)
    cu_seqlens = packed(lengths)
    last = cu_seqlens[1:].long() - 1
    pages = paged(k, v, cu_seqlens, 128, 5120)
    got = attend_cached(q[last], pages, torch.tensor(lengths, device="cuda"))
    for row, (start, end) in enumerate(pairwise([0, *accumulate(lengths)])):
        keys, values = (x[start:end].double().repeat_interleave(group, 1) for x in (k, v))
        scores = torch.einsum("hd,lhd->hl", q[end - 1].double(), keys) * SIZE**-0.5
        assert (
            error(got[row], torch.einsum("hl,lhd->hd", scores.softmax(1), values)) < TOLERANCE[torch.bfloat16]
        )


def test_a_graph_of_append_and_decode_follows_its_lengths() -> None:
    """Captured once, replayed as the sequences grow across a page's and a split's border."""
    start = [KEY_SPLIT - 2, 62, 500]
    q, k, v = qkv(sum(start) + 12)
    pages = paged(k[: sum(start)], v[: sum(start)], packed(start), 64, KEY_SPLIT + 128)
    positions = torch.tensor(start, device="cuda")
    new = [x[-3:].clone() for x in (q, k, v)]

    def step() -> Tensor:
        append_keys(new[1], new[2], pages, positions)
        return cached_attention(new[0], pages, positions + 1)

    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()
    keys, values = ([x[a:b] for a, b in pairwise([0, *accumulate(start)])] for x in (k, v))
    for number in range(4):
        for target, source in zip(new, (q, k, v), strict=True):
            target.copy_(source[sum(start) + 3 * number :][:3])
        graph.replay()
        for b in range(3):
            keys[b], values[b] = (
                torch.cat([keys[b], new[1][b : b + 1]]),
                torch.cat([values[b], new[2][b : b + 1]]),
            )
            queries = new[0][b : b + 1].expand(len(keys[b]), -1, -1)
            row = attend(queries, keys[b], values[b], packed([len(keys[b])]))[-1]
            assert torch.equal(out[b], row), f"step {number}, sequence {b}"
        positions += 1


def test_no_host_wait_in_decode() -> None:
    q, k, v = qkv(300)
    pages = paged(k, v, packed([300]), 64, 8192)
    length = torch.tensor([300], device="cuda")
    cached_attention(q[-1:], pages, length)
    torch.cuda.set_sync_debug_mode("error")
    try:
        append_keys(k[-1:], v[-1:], pages, length - 1)
        cached_attention(q[-1:], pages, length)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("block", "split"), [(128, 2048)])
def test_another_key_grid_keeps_decode_and_prefill_together(block: int, split: int) -> None:
    """So that the contract's numbers may be changed in one place."""
    from forklight_kernels.cached_attention import triton_gpu as cached
    from forklight_kernels.softmax_attention import triton_gpu as prefill
    from forklight_kernels.softmax_attention.triton_tiles import Tile, Tuning

    q, k, v = qkv(3000)
    grid = KeyGrid(block=block, split=split)
    tile = Tile(rows=64, warps=4, stages=2)
    tuning = Tuning(forward=tile, key_gradient=tile, query_gradient=tile, grid=grid)
    whole = prefill.softmax_attention(q, k, v, packed([3000]), tuning)
    pages = paged(k, v, packed([3000]), 128, 4096)
    got = cached.cached_attention(q[-1:], pages, torch.tensor([3000], device="cuda"), grid=grid)
    assert torch.equal(got, whole[-1:])
