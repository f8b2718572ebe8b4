"""Softmax and cached attention, rotary positions. Legend: T tokens, H heads, G key heads, D size."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from forklight_kernels import Backend, rope, softmax_attention, using_backend
from forklight_kernels.cached_attention import KeyPages, append_keys, cached_attention

HEADS, KEY_HEADS, SIZE = 4, 2, 8
Pack = Callable[[Sequence[int]], Tensor]


def qkv(num_tokens: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.randn(num_tokens, HEADS, SIZE, dtype=dtype),
        torch.randn(num_tokens, KEY_HEADS, SIZE, dtype=dtype),
        torch.randn(num_tokens, KEY_HEADS, SIZE, dtype=dtype),
    )


@pytest.mark.parametrize("lengths", [[1], [63], [64], [65], [500], [65, 1, 64, 500, 63], [7, 0, 300]])
def test_softmax_attention_matches_naive(
    lengths: list[int], pack: Pack, assert_matches_naive: Callable[..., None]
) -> None:
    def op(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return softmax_attention(q, k, v, pack(lengths))

    assert_matches_naive(op, *qkv(sum(lengths)))


def test_softmax_attention_sees_neither_the_future_nor_its_neighbours(pack: Pack) -> None:
    q, k, v = qkv(60)
    before = softmax_attention(q, k, v, pack([20, 40]))
    k[50:], v[50:] = 99.0, 99.0
    k[:20], v[:20] = -99.0, -99.0
    assert torch.equal(softmax_attention(q, k, v, pack([20, 40]))[20:50], before[20:50])


@pytest.mark.parametrize("new_tokens", [[1, 1, 1], [1, 5, 64], [65, 2, 1], [30, 30, 30]])
def test_cached_attention_matches_naive_and_one_pass(new_tokens: list[int], pack: Pack) -> None:
    lengths = [70, 64, 101]
    q, k, v = qkv(sum(lengths), torch.float64)
    whole = softmax_attention(q, k, v, pack(lengths))
    keys, values = (torch.full((3, KEY_HEADS, 128, SIZE), 7.0, dtype=torch.float64) for _ in range(2))
    newest = []
    for sequence, (length, end) in enumerate(zip(lengths, pack(lengths)[1:].tolist(), strict=True)):
        keys[sequence, :, :length] = k[end - length : end].transpose(0, 1)
        values[sequence, :, :length] = v[end - length : end].transpose(0, 1)
        newest.extend(range(end - new_tokens[sequence], end))
    pages = KeyPages(keys_PGLD=keys[:, :, :110], values_PGLD=values[:, :, :110])
    arguments = (q[newest], pages, torch.tensor(lengths), pack(new_tokens))
    got = cached_attention(*arguments)
    with using_backend(Backend.NAIVE):
        truth = cached_attention(*arguments)
    torch.testing.assert_close(got, truth, rtol=0, atol=1e-12)
    torch.testing.assert_close(got, whole[newest], rtol=0, atol=1e-12)
    if new_tokens == [1, 1, 1]:
        torch.testing.assert_close(cached_attention(*arguments[:3]), whole[newest], rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", [Backend.NAIVE, Backend.TORCH])
@pytest.mark.parametrize("has_table", [False, True])
def test_appended_keys_are_what_attention_sees(backend: Backend, has_table: bool, pack: Pack) -> None:
    lengths = [21, 1, 20]
    q, k, v = qkv(sum(lengths), torch.float64)
    table = torch.randperm(12).view(3, 4).to(torch.int32) if has_table else None
    shape = (12, KEY_HEADS, 8, SIZE) if has_table else (3, KEY_HEADS, 32, SIZE)
    pages = KeyPages(
        keys_PGLD=torch.zeros(shape, dtype=torch.float64),
        values_PGLD=torch.zeros(shape, dtype=torch.float64),
        table_BN=table,
    )
    last = pack(lengths)[1:].long() - 1
    positions = torch.cat([torch.arange(length) for length in lengths])
    with using_backend(backend):
        append_keys(k, v, pages, positions.where(positions != 20, 32), pack(lengths))  # 32 is past the end
        unwritten = cached_attention(q[last], pages, torch.tensor(lengths))
        append_keys(k[last], v[last], pages, positions[last])
        got = cached_attention(q[last], pages, torch.tensor(lengths))
    whole = softmax_attention(q, k, v, pack(lengths))
    torch.testing.assert_close(got, whole[last], rtol=0, atol=1e-12)
    assert not torch.allclose(unwritten[0], whole[last[0]])


@pytest.mark.parametrize("backend", [Backend.NAIVE, Backend.TORCH])
def test_a_sequence_without_places_gets_zeros_and_writes_nothing(backend: Backend) -> None:
    q, k, v = qkv(3)
    keys, values = (torch.randn(4, KEY_HEADS, 16, SIZE) for _ in range(2))
    pages = KeyPages(keys_PGLD=keys, values_PGLD=values, table_BN=torch.tensor([[2], [0], [3]]).int())
    with using_backend(backend):
        append_keys(k, v, pages, torch.tensor([4, -1, 15]))
        got = cached_attention(q, pages, torch.tensor([5, 0, 16]))
        live = KeyPages(keys_PGLD=keys[[2, 3]], values_PGLD=values[[2, 3]])
        expected = cached_attention(q[[0, 2]], live, torch.tensor([5, 16]))
    assert torch.equal(got[1], torch.zeros_like(got[1]))
    torch.testing.assert_close(got[[0, 2]], expected, rtol=0, atol=1e-6)
    assert torch.equal(keys[2, :, 4], k[0]) and torch.equal(values[3, :, 15], v[2])
    assert not bool((keys[:, :, :, None] == k[1][None, :, None, None]).all(-1).any())


@pytest.mark.parametrize("rotary_dim", [2, 6, 8])
def test_rope_matches_naive(rotary_dim: int, assert_matches_naive: Callable[..., None]) -> None:
    positions_T = torch.cat([torch.arange(65), torch.tensor([500, 4095])])

    def op(x: Tensor) -> Tensor:
        return rope(x, positions_T, rotary_dim, 1e4)

    assert_matches_naive(op, torch.randn(67, 3, SIZE))


def test_rope_scores_depend_on_distance_only() -> None:
    q, k = torch.randn(2, 1, 1, SIZE, dtype=torch.float64)

    def score(query_position: int, key_position: int) -> float:
        turned = [rope(x, torch.tensor([p]), SIZE, 1e4) for x, p in ((q, query_position), (k, key_position))]
        return float((turned[0] * turned[1]).sum())

    assert score(30, 10) == pytest.approx(score(120, 100), abs=1e-4)
    assert score(30, 10) != pytest.approx(score(30, 11), abs=1e-4)
