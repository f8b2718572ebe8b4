"""Chosen-token log-probability and entropy, logits in pieces and recomputed in the backward.

Legend: T tokens, S tokens of one piece, D width, V vocabulary.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from forklight_kernels.gradient import Context
from forklight_kernels.packing import accumulation_dtype

MAX_PIECE_ELEMENTS = 1 << 18
"""Logits held at once (1 MiB in fp32): a piece stays in a core's cache."""
LEAST_PIECE_TOKENS = 32
"""A large vocabulary takes more: each piece reads the whole head, which is then what a piece costs."""


def token_stats(
    hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    logprobs_T, entropy_T = _TokenStats.apply(hidden_TD, weight_VD, targets_T, temperature)
    return logprobs_T, entropy_T


class _Context(Context):
    temperature: float


class _TokenStats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        hidden_TD: Tensor,
        weight_VD: Tensor,
        targets_T: Tensor,
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        dtype = accumulation_dtype(hidden_TD)
        wide_VD = weight_VD.to(dtype)
        logprobs_T = hidden_TD.new_empty(len(hidden_TD), dtype=dtype)
        entropy_T = torch.empty_like(logprobs_T)
        for piece in _pieces(len(hidden_TD), len(weight_VD)):
            logprobs_SV = _log_probabilities(hidden_TD[piece].to(dtype), wide_VD, temperature)
            torch.gather(logprobs_SV, 1, targets_T[piece, None], out=logprobs_T[piece, None])
            torch.neg(torch.linalg.vecdot(logprobs_SV.exp(), logprobs_SV), out=entropy_T[piece])
        ctx.save_for_backward(hidden_TD, weight_VD, targets_T, entropy_T)
        ctx.temperature = temperature
        return logprobs_T, entropy_T

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden_TD, weight_VD, targets_T, entropy_T = ctx.saved_tensors
        dlogprobs_T, dentropy_T = gradients
        dtype = entropy_T.dtype
        wide_VD = weight_VD.to(dtype)
        dhidden_TD = torch.empty_like(hidden_TD)
        dweight_VD = torch.zeros_like(wide_VD)
        for piece in _pieces(len(hidden_TD), len(weight_VD)):
            hidden_SD = hidden_TD[piece].to(dtype)
            logprobs_SV = _log_probabilities(hidden_SD, wide_VD, ctx.temperature)
            # d entropy / d logit = -p (log p + entropy); d logprob / d logit = onehot - p
            pull_SV = logprobs_SV.exp()
            logprobs_SV.add_(entropy_T[piece, None]).mul_(dentropy_T[piece, None]).add_(
                dlogprobs_T[piece, None]
            )
            pull_SV.mul_(logprobs_SV).neg_()
            pull_SV.scatter_add_(1, targets_T[piece, None], dlogprobs_T[piece, None])
            pull_SV.div_(ctx.temperature)
            dhidden_TD[piece] = torch.mm(pull_SV, wide_VD)
            dweight_VD.addmm_(pull_SV.t(), hidden_SD)
        return dhidden_TD, dweight_VD.to(weight_VD.dtype), None, None


def _pieces(num_tokens: int, vocab_size: int) -> Iterator[slice]:
    size = max(LEAST_PIECE_TOKENS, MAX_PIECE_ELEMENTS // vocab_size)
    for start in range(0, num_tokens, size):
        yield slice(start, min(start + size, num_tokens))


def _log_probabilities(hidden_SD: Tensor, weight_VD: Tensor, temperature: float) -> Tensor:
    return torch.log_softmax(torch.mm(hidden_SD, weight_VD.t()).div_(temperature), dim=-1)


def head_logits(hidden_BD: Tensor, weight_VD: Tensor) -> Tensor:
    dtype = accumulation_dtype(hidden_BD)
    return torch.mm(hidden_BD.to(dtype), weight_VD.to(dtype).t())


def logit_stats(logits_BV: Tensor, targets_B: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    logits_BV = logits_BV.to(accumulation_dtype(logits_BV)) / temperature
    logprobs_BV = torch.log_softmax(logits_BV, dim=-1)
    entropy_B = torch.special.entr(logprobs_BV.exp()).sum(dim=-1)
    return logprobs_BV.gather(1, targets_B[:, None]).squeeze(1), entropy_B
