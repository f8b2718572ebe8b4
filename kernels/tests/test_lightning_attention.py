"""Lightning attention, prefill and decode. Legend: T tokens, H heads, D head size, N sequences."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from forklight_kernels import Backend, lightning_attention, lightning_decode, using_backend

SLOPES_H = torch.tensor([0.84, 0.0625, 1e-6])
Pack = Callable[[Sequence[int]], Tensor]


def qkv(num_tokens: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    q_THD, k_THD, v_THD = torch.randn(num_tokens, len(SLOPES_H), 3, 8, dtype=dtype).unbind(2)
    return q_THD, k_THD, v_THD


@pytest.mark.parametrize("lengths", [[1], [63], [64], [65], [500], [65, 1, 64, 500, 63], [7, 0, 9]])
def test_outputs_and_gradients_match_naive_from_zero_state(
    lengths: list[int], pack: Pack, assert_matches_naive: Callable[..., None]
) -> None:
    def op(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return lightning_attention(q, k, v, SLOPES_H, pack(lengths))

    assert_matches_naive(op, *qkv(sum(lengths)))


@pytest.mark.parametrize("lengths", [[1], [64], [65, 1, 130], [3, 0, 5]])
def test_outputs_and_gradients_match_naive_from_a_given_state(
    lengths: list[int], pack: Pack, assert_matches_naive: Callable[..., None]
) -> None:
    def op(q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return lightning_attention(q, k, v, SLOPES_H, pack(lengths), state)

    assert_matches_naive(op, *qkv(sum(lengths)), torch.randn(len(lengths), len(SLOPES_H), 8, 8))


def test_gradient_of_the_output_alone_matches_naive(
    pack: Pack, assert_matches_naive: Callable[..., None]
) -> None:
    def op(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return lightning_attention(q, k, v, SLOPES_H, pack([20, 33, 90]))[0]

    assert_matches_naive(op, *qkv(143))


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
    second, last = lightning_attention(*(part[77:] for part in parts), SLOPES_H, pack([123]), state)
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=0, atol=1e-11)
    torch.testing.assert_close(last, final, rtol=0, atol=1e-11)


@pytest.mark.parametrize("backend", list(Backend))
def test_decoding_token_by_token_equals_one_pass(backend: Backend, pack: Pack) -> None:
    parts = qkv(2 * 90, torch.float64)
    whole, final = lightning_attention(*parts, SLOPES_H, pack([90, 90]))
    state_BHDD = torch.zeros(2, len(SLOPES_H), 8, 8, dtype=torch.float64)
    by_sequence = [part.view(2, 90, len(SLOPES_H), 8) for part in parts]
    with using_backend(backend):
        steps = [
            lightning_decode(*(part[:, token] for part in by_sequence), SLOPES_H, state_BHDD)
            for token in range(90)
        ]
    torch.testing.assert_close(torch.stack(steps, dim=1).flatten(0, 1), whole, rtol=0, atol=1e-11)
    torch.testing.assert_close(state_BHDD, final, rtol=0, atol=1e-11)


def test_half_precision_inputs_keep_an_fp32_state(pack: Pack) -> None:
    parts = [part.bfloat16() for part in qkv(100)]
    o_THD, state_NHDD = lightning_attention(*parts, SLOPES_H, pack([40, 60]))
    wide, _ = lightning_attention(*(part.float() for part in parts), SLOPES_H, pack([40, 60]))
    assert o_THD.dtype == torch.bfloat16 and state_NHDD.dtype == torch.float32
    torch.testing.assert_close(o_THD.float(), wide, rtol=1e-2, atol=1e-2)
