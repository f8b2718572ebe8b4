"""Chosen-token log-probability and entropy from full logits. Legend: T tokens, D width, V vocabulary."""

import torch
from torch import Tensor

from forklight_kernels.packing import accumulation_dtype


def token_stats(
    hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(hidden_TD)
    logits_TV = hidden_TD.to(dtype) @ weight_VD.to(dtype).T / temperature
    logprobs_TV = torch.log_softmax(logits_TV, dim=-1)
    entropy_T = -(logprobs_TV.exp() * logprobs_TV).sum(dim=-1)
    return logprobs_TV.gather(1, targets_T[:, None]).squeeze(1), entropy_T


def head_logits(hidden_BD: Tensor, weight_VD: Tensor) -> Tensor:
    dtype = accumulation_dtype(hidden_BD)
    return hidden_BD.to(dtype) @ weight_VD.to(dtype).T


def logit_stats(logits_BV: Tensor, targets_B: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    logprobs_BV = torch.log_softmax(logits_BV.to(accumulation_dtype(logits_BV)) / temperature, dim=-1)
    # A forbidden token has p = 0 and log p = -inf; it adds nothing to the entropy.
    entropy_B = -(logprobs_BV.exp() * logprobs_BV).nan_to_num(nan=0.0).sum(dim=-1)
    return logprobs_BV.gather(1, targets_B[:, None]).squeeze(1), entropy_B
