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
