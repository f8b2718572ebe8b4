"""The Triton kernels of softmax and cached attention against their definitions, in Triton's interpreter.

Legend: T tokens, H heads, G key heads, D head size, B sequences, N pages of a sequence, L places of a page.
"""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from forklight_kernels import Backend, softmax_attention, using_backend
from forklight_kernels.cached_attention import KeyPages, append_keys, cached_attention
from forklight_kernels.softmax_attention import naive
from forklight_kernels.softmax_attention.blocks import KeyGrid

pytest.importorskip("triton")
from forklight_kernels.cached_attention import triton_gpu as triton_cached
from forklight_kernels.softmax_attention import triton_gpu as triton_softmax
from forklight_kernels.softmax_attention.triton_tiles import Tile, Tuning

Pack = Callable[[Sequence[int]], Tensor]
HEADS, KEY_HEADS, SIZE = 4, 2, 16
GRID = KeyGrid(block=16, split=32)
"""Small enough that short sequences have several splits."""
SMALL = Tuning(
    forward=Tile(rows=32, warps=4, stages=2),
    key_gradient=Tile(rows=32, step=16, warps=4, stages=2),
    query_gradient=Tile(rows=32, step=16, warps=4, stages=2),
    grid=GRID,
)

pytestmark = [
    pytest.mark.usefixtures("poisoned_memory"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is chosen where there is no GPU"),
]


def qkv(num_tokens: int, dtype: torch.dtype = torch.float32, size: int = SIZE) -> list[Tensor]:
    return [torch.randn(num_tokens, heads, size).to(dtype) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]


def with_gradients(op: Callable[..., Tensor], inputs: Sequence[Tensor], pull: Tensor) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = op(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, pull.to(out.dtype))]


def error(got: Tensor, truth: Tensor) -> float:
    return float((got.double() - truth.double()).norm() / truth.double().norm())


@pytest.mark.parametrize(
    ("lengths", "dtype", "tolerance"),
    [
        ([1], torch.float32, 1e-5),
        ([70], torch.float32, 1e-5),
        ([33, 1, 0, 34], torch.float32, 1e-5),
        ([17, 32], torch.float16, 2e-3),
    ],
)
def test_softmax_attention_matches_naive(
    lengths: list[int], dtype: torch.dtype, tolerance: float, pack: Pack
) -> None:
    inputs, pull = qkv(sum(lengths), dtype), torch.randn(sum(lengths), HEADS, SIZE)
    cu_seqlens = pack(lengths)
    truth = with_gradients(
        lambda q, k, v: naive.softmax_attention(q, k, v, cu_seqlens), [x.double() for x in inputs], pull
    )
    got = with_gradients(
        lambda q, k, v: triton_softmax.softmax_attention(q, k, v, cu_seqlens, SMALL), inputs, pull
    )
    for number, (a, b) in enumerate(zip(got, truth, strict=True)):
        if lengths == [1] and number in (1, 2):  # one key: its weight is 1 whatever q and k are
            assert float(a.abs().max()) < 1e-5
        else:
            assert error(a, b) < tolerance, f"tensor {number}"


def test_softmax_attention_matches_naive_with_the_shipped_tiles(pack: Pack) -> None:
    inputs, pull, cu_seqlens = qkv(40, size=32), torch.randn(40, HEADS, 32), pack([35, 5])
    truth = with_gradients(
        lambda q, k, v: naive.softmax_attention(q, k, v, cu_seqlens), [x.double() for x in inputs], pull
    )
    with using_backend(Backend.TRITON):
        got = with_gradients(lambda q, k, v: softmax_attention(q, k, v, cu_seqlens), inputs, pull)
        without_gradient = softmax_attention(*inputs, cu_seqlens)
    assert torch.equal(without_gradient, got[0])
    assert max(error(a, b) for a, b in zip(got, truth, strict=True)) < 1e-5


def test_views_of_a_joined_projection_give_the_same_rows_and_gradients(pack: Pack) -> None:
    joined = torch.randn(40, (HEADS + 2 * KEY_HEADS) * SIZE)
    parts = joined.split([HEADS * SIZE, KEY_HEADS * SIZE, KEY_HEADS * SIZE], dim=1)
    views = [x.unflatten(1, (-1, SIZE)) for x in parts]
    askew = [
        torch.cat([x.flatten(1), torch.ones(40, 1)], dim=1)[:, :-1].unflatten(1, (-1, SIZE)) for x in views
    ]
    assert not views[0].is_contiguous()

    def gradients(inputs: Sequence[Tensor]) -> list[Tensor]:
        leaves = [x.detach().requires_grad_() for x in inputs]
        out = triton_softmax.softmax_attention(*leaves, pack([23, 17]), SMALL)
        return [out.detach(), *torch.autograd.grad(out.sum(), leaves)]  # sum: its gradient has strides of 0

    dense = gradients([x.contiguous() for x in views])
    for inputs in (views, askew):
        for got, expected in zip(gradients(inputs), dense, strict=True):
            assert torch.equal(got, expected)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter remarks on the NaN
def test_a_sequence_is_untouched_by_nan_in_its_neighbours(pack: Pack) -> None:
    lengths, inputs, pull = [21, 30, 11], qkv(62), torch.randn(62, HEADS, SIZE)
    own = slice(21, 51)

    def run(tensors: Sequence[Tensor], gradient: Tensor) -> list[Tensor]:
        results = with_gradients(
            lambda q, k, v: triton_softmax.softmax_attention(q, k, v, pack(lengths), SMALL), tensors, gradient
        )
        return [x[own] for x in results]

    expected = run(inputs, pull)
    for x in (*inputs, pull):
        x[:21], x[51:] = float("nan"), float("nan")
    for got, clean in zip(run(inputs, pull), expected, strict=True):
        assert torch.equal(got, clean)


def test_no_tokens_give_no_rows(pack: Pack) -> None:
    results = with_gradients(
        lambda q, k, v: triton_softmax.softmax_attention(q, k, v, pack([0, 0]), SMALL),
        qkv(0),
        torch.zeros(0, 4, 16),
    )
    assert [len(x) for x in results] == [0, 0, 0, 0]


LENGTHS, PLACES = [35, 1, 48], 48


def filled_pages(k_TGD: Tensor, v_TGD: Tensor, cu_seqlens: Tensor, page_length: int | None) -> KeyPages:
    """Pages that hold these packed keys, and NaN elsewhere. None: no table."""
    num_pages = 0 if page_length is None else PLACES // page_length
    table = None if page_length is None else torch.randperm(3 * num_pages).view(3, -1).to(torch.int32)
    shape = (3 * max(1, num_pages), KEY_HEADS, page_length or PLACES, SIZE)
    pages = KeyPages(
        keys_PGLD=torch.full(shape, float("nan"), dtype=k_TGD.dtype),
        values_PGLD=torch.full(shape, float("nan"), dtype=k_TGD.dtype),
        table_BN=table,
    )
    positions = torch.cat([torch.arange(length) for length in cu_seqlens.diff().tolist()])
    with using_backend(Backend.TRITON):
        append_keys(k_TGD, v_TGD, pages, positions, cu_seqlens)
    return pages


@pytest.mark.parametrize("page_length", [None, 16])
def test_pieces_and_decode_match_prefill(page_length: int | None, pack: Pack) -> None:
    q, k, v = qkv(sum(LENGTHS))
    cu_seqlens = pack(LENGTHS)
    whole = triton_softmax.softmax_attention(q, k, v, cu_seqlens, SMALL)
    pages = filled_pages(k, v, cu_seqlens, page_length)
    lengths = torch.tensor(LENGTHS, dtype=torch.int32)
    last = cu_seqlens[1:].long() - 1
    wide = torch.cat([q, q], dim=2)[..., :SIZE]  # rows further apart than they are long
    decoded = triton_cached.cached_attention(wide[last], pages, lengths, grid=GRID)
    assert error(decoded, whole[last]) < 1e-6
    new_tokens = [5, 1, 20]
    newest = torch.cat(
        [torch.arange(end - n, end) for n, end in zip(new_tokens, cu_seqlens[1:].tolist(), strict=True)]
    )
    tile = Tile(rows=16, warps=4, stages=1)
    pieces = triton_cached.cached_attention(
        wide[newest], pages, lengths, pack(new_tokens), grid=GRID, tile=tile
    )
    assert error(pieces, whole[newest]) < 1e-6


def test_decode_takes_lengths_of_either_width_and_an_empty_slot(pack: Pack) -> None:
    q, k, v = qkv(sum(LENGTHS))
    cu_seqlens = pack(LENGTHS)
    pages = filled_pages(k, v, cu_seqlens, 16)
    last = cu_seqlens[1:].long() - 1
    with using_backend(Backend.NAIVE):
        truth = cached_attention(q[last], pages, torch.tensor(LENGTHS))
    for grid in (GRID, KeyGrid(block=16, split=64)):  # with a merge, and without
        for dtype in (torch.int32, torch.int64):
            lengths = torch.tensor([35, 0, 48], dtype=dtype)
            got = triton_cached.cached_attention(q[last], pages, lengths, grid=grid)
            assert error(got[[0, 2]], truth[[0, 2]]) < 1e-6
            assert torch.equal(got[1], torch.zeros_like(got[1]))


def test_pages_anywhere_hold_the_same_rows(pack: Pack) -> None:
    q, k, v = qkv(sum(LENGTHS))
    cu_seqlens, lengths = pack(LENGTHS), torch.tensor(LENGTHS)
    last = cu_seqlens[1:].long() - 1
    outputs = [
        triton_cached.cached_attention(q[last], filled_pages(k, v, cu_seqlens, length), lengths, grid=GRID)
        for length in (None, 16)
    ]
    assert torch.equal(*outputs)


@pytest.mark.parametrize("has_table", [False, True])
def test_append_keys_matches_naive_and_skips_places_outside(has_table: bool, pack: Pack) -> None:
    k, v = torch.randn(9, 3, 2 * SIZE)[..., :SIZE], torch.randn(3, 9, SIZE).transpose(0, 1)
    positions = torch.tensor([0, 1, 2, 30, 31, -1, 7, 32, 15])
    table = torch.tensor([[3, 0], [1, 2]], dtype=torch.int32) if has_table else None
    shape = (4, 3, 16, SIZE) if has_table else (2, 3, 32, SIZE)
    results = []
    for backend in (Backend.NAIVE, Backend.TORCH, Backend.TRITON):
        pages = KeyPages(keys_PGLD=torch.zeros(shape), values_PGLD=torch.zeros(shape), table_BN=table)
        with using_backend(backend):
            append_keys(k, v, pages, positions, pack([5, 4]))
            append_keys(k[7:], v[7:], pages, positions[[6, 0]])
        results.append(pages)
    for got in results[1:]:
        assert torch.equal(got.keys_PGLD, results[0].keys_PGLD)
        assert torch.equal(got.values_PGLD, results[0].values_PGLD)


def changed(inputs: list[Tensor], place: int, tensor: Tensor) -> list[Tensor]:
    return [*inputs[:place], tensor, *inputs[place + 1 :]]


@pytest.mark.parametrize(
    ("place", "shape", "dtype", "message"),
    [
        (0, (8, 4), torch.float32, "q_THD has shape"),
        (0, (8, 3, 16), torch.float32, "2 key heads"),
        (1, (8, 2, 16), torch.float16, "k_TGD is float16"),
        (1, (7, 2, 16), torch.float32, "k_TGD has shape"),
        (2, (8, 1, 16), torch.float32, "v_TGD has shape"),
    ],
)
def test_softmax_attention_refuses_what_does_not_fit(
    place: int, shape: tuple[int, ...], dtype: torch.dtype, message: str, pack: Pack
) -> None:
    inputs = changed(qkv(8), place, torch.zeros(shape, dtype=dtype))
    with using_backend(Backend.TRITON), pytest.raises(ValueError, match=message):
        softmax_attention(*inputs, pack([8]))


@pytest.mark.parametrize(
    ("size", "dtype", "message"),
    [(24, torch.float32, "head size 24"), (16, torch.int32, "q_THD is int32")],
)
def test_softmax_attention_refuses_what_no_kernel_is_written_for(
    size: int, dtype: torch.dtype, message: str, pack: Pack
) -> None:
    inputs = [torch.zeros(8, heads, size, dtype=dtype) for heads in (4, 2, 2)]
    with using_backend(Backend.TRITON), pytest.raises(ValueError, match=message):
        softmax_attention(*inputs, pack([8]))


def test_softmax_attention_refuses_offsets_of_other_tokens(pack: Pack) -> None:
    with using_backend(Backend.TRITON), pytest.raises(ValueError, match="number of tokens"):
        softmax_attention(*qkv(8), pack([7]))


def request(**changes: Tensor | None) -> tuple[Tensor, KeyPages, Tensor, Tensor | None]:
    parts: dict[str, Tensor | None] = {
        "q": torch.zeros(2, 4, 16),
        "keys": torch.zeros(4, 2, 64, 16),
        "values": torch.zeros(4, 2, 64, 16),
        "table": torch.zeros(2, 2, dtype=torch.int32),
        "lengths": torch.ones(2, dtype=torch.int32),
        "cu_seqlens": None,
    } | changes
    q, keys, values, lengths = parts["q"], parts["keys"], parts["values"], parts["lengths"]
    assert q is not None and keys is not None and values is not None and lengths is not None
    pages = KeyPages(keys_PGLD=keys, values_PGLD=values, table_BN=parts["table"])
    return q, pages, lengths, parts["cu_seqlens"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": torch.zeros(3, 4, 16)}, "3 tokens for 2 sequences"),
        ({"q": torch.zeros(2, 4, 32)}, "must be equal"),
        ({"q": torch.zeros(2, 3, 16)}, "2 key heads"),
        ({"keys": torch.zeros(4, 2, 80, 16), "values": torch.zeros(4, 2, 80, 16)}, "pages of 80 places"),
        ({"values": torch.zeros(4, 2, 128, 16)}, "values_PGLD has shape"),
        ({"values": torch.zeros(4, 2, 64, 16).half()}, "values_PGLD is float16"),
        ({"keys": torch.zeros(4, 2, 64, 17)[..., 1:]}, "16-byte aligned"),
        ({"table": torch.zeros(2, 2)}, "table_BN is float32"),
        ({"table": torch.zeros(2, 4, dtype=torch.int32)[:, ::2]}, "table_BN is a strided view"),
        ({"lengths": torch.ones(3, dtype=torch.int32)}, "lengths_B has shape"),
        ({"lengths": torch.ones(2)}, "lengths_B is float32"),
        ({"cu_seqlens": torch.tensor([0, 2])}, "cu_seqlens has shape"),
    ],
)
def test_cached_attention_refuses_what_does_not_fit(changes: dict[str, Tensor], message: str) -> None:
    with using_backend(Backend.TRITON), pytest.raises(ValueError, match=message):
        cached_attention(*request(**changes))


@pytest.mark.parametrize(
    ("heads", "positions", "message"),
    [
        (1, torch.zeros(2, dtype=torch.int64), "k_TGD has shape"),
        (2, torch.zeros(2), "positions_T is float32"),
    ],
)
def test_append_keys_refuses_what_does_not_fit(heads: int, positions: Tensor, message: str) -> None:
    _, pages, _, _ = request()
    rows = torch.zeros(2, heads, 16)
    with using_backend(Backend.TRITON), pytest.raises(ValueError, match=message):
        append_keys(rows, rows, pages, positions)


@pytest.mark.parametrize(("block", "split"), [(8, 64), (48, 96), (64, 32), (64, 100)])
def test_key_grid_refuses_blocks_that_do_not_fit(block: int, split: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        KeyGrid(block=block, split=split)
