"""The head on a CPU: statistics of chosen tokens against their definition, and what its doors refuse.

Legend: T tokens, D width, V vocabulary, B rows of logits.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from forklight_kernels import Backend, token_stats, using_backend
from forklight_kernels.token_stats import head_logits, logit_stats

LENGTHS = [1, 63, 64, 65, 500]
Check = Callable[..., None]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_token_stats_match_naive(num_tokens: int, temperature: float, assert_matches_naive: Check) -> None:
    targets_T = torch.randint(50, (num_tokens,))

    def op(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return token_stats(hidden, weight, targets_T, temperature)

    assert_matches_naive(op, torch.randn(num_tokens, 16), torch.randn(50, 16))


def test_token_stats_match_naive_over_several_pieces(assert_matches_naive: Check) -> None:
    vocab_size = 1 << 15  # 8 tokens a piece
    targets_T = torch.randint(vocab_size, (21,))

    def op(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return token_stats(hidden, weight, targets_T)

    assert_matches_naive(op, torch.randn(21, 8), torch.randn(vocab_size, 8))


def test_no_tokens_give_no_statistics_and_zero_gradients() -> None:
    hidden_TD, weight_VD = torch.randn(0, 8, requires_grad=True), torch.randn(20, 8, requires_grad=True)
    logprobs_T, entropy_T = token_stats(hidden_TD, weight_VD, torch.randint(20, (0,)))
    (logprobs_T.sum() + entropy_T.sum()).backward()
    assert logprobs_T.shape == entropy_T.shape == (0,)
    assert weight_VD.grad is not None and not weight_VD.grad.any()


@pytest.mark.parametrize("backend", [Backend.NAIVE, Backend.TORCH])
def test_statistics_of_stored_logits_are_those_of_the_head(backend: Backend) -> None:
    hidden_TD, weight_VD, targets_T = torch.randn(30, 16), torch.randn(77, 16), torch.randint(77, (30,))
    with using_backend(backend):
        expected = token_stats(hidden_TD, weight_VD, targets_T, 0.7)
        logits_TV = head_logits(hidden_TD.bfloat16(), weight_VD.bfloat16())
        assert logits_TV.dtype == torch.float32
        got = logit_stats(head_logits(hidden_TD, weight_VD), targets_T, 0.7)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("backend", [Backend.NAIVE, Backend.TORCH])
def test_a_forbidden_token_adds_nothing_to_the_entropy(backend: Backend) -> None:
    logits_BV = torch.tensor([[0.0, float("-inf"), 0.0, float("-inf")]])
    with using_backend(backend):
        logprobs_B, entropy_B = logit_stats(logits_BV, torch.tensor([2]))
    torch.testing.assert_close(logprobs_B.exp(), torch.tensor([0.5]))
    torch.testing.assert_close(entropy_B.exp(), torch.tensor([2.0]))


HIDDEN, WEIGHT, TARGETS = torch.zeros(3, 8), torch.zeros(20, 8), torch.zeros(3, dtype=torch.int64)
BAD_HEADS = {
    "hidden has shape": (HIDDEN[0], WEIGHT),
    "weight has shape": (HIDDEN, WEIGHT[0]),
    "must be equal": (HIDDEN, WEIGHT[:, :4]),
    "weight is float16": (HIDDEN, WEIGHT.half()),
    "weight is on meta": (HIDDEN, WEIGHT.to("meta")),
    "cannot be empty": (HIDDEN, WEIGHT[:0]),
}


@pytest.mark.parametrize("message", list(BAD_HEADS))
def test_operands_that_cannot_be_are_refused(message: str) -> None:
    hidden_TD, weight_VD = BAD_HEADS[message]
    with pytest.raises(ValueError, match=message):
        token_stats(hidden_TD, weight_VD, TARGETS)
    with pytest.raises(ValueError, match=message):
        head_logits(hidden_TD, weight_VD)


@pytest.mark.parametrize(
    ("targets_T", "temperature", "message"),
    [
        (TARGETS[:2], 1.0, "targets has shape"),
        (TARGETS.int(), 1.0, "targets is int32"),
        (TARGETS.to("meta"), 1.0, "targets are on meta"),
        (TARGETS, 0.0, "temperature is 0.0"),
        (TARGETS, float("nan"), "temperature is nan"),
        (TARGETS, float("inf"), "temperature is inf"),
    ],
)
def test_targets_and_temperatures_that_cannot_be_are_refused(
    targets_T: Tensor, temperature: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        token_stats(HIDDEN, WEIGHT, targets_T, temperature)
    with pytest.raises(ValueError, match=message):
        logit_stats(torch.zeros(3, 20), targets_T, temperature)


@pytest.mark.parametrize(
    ("logits_BV", "message"),
    [(torch.zeros(20), "logits has shape"), (torch.zeros(3, 0), "logits have no columns")],
)
def test_logits_that_cannot_be_are_refused(logits_BV: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        logit_stats(logits_BV, TARGETS)


def test_logits_go_where_they_are_wanted() -> None:
    hidden_TD, weight_VD = torch.randn(5, 16), torch.randn(40, 16)
    out_TV = torch.full((5, 40), float("nan"))
    assert head_logits(hidden_TD, weight_VD, out_TV) is out_TV
    assert torch.equal(out_TV, head_logits(hidden_TD, weight_VD))
    for wrong in (torch.empty(5, 41), torch.empty(5, 40, dtype=torch.float64), torch.empty(40, 5).t()):
        with pytest.raises(ValueError, match="out"):
            head_logits(hidden_TD, weight_VD, wrong)
