"""Sampling a batch by inverting cumulative distributions. Legend: B sequences, V vocabulary."""

import torch
from torch import Tensor

from forklight_kernels.sampler.randomness import uniform_numbers
from forklight_kernels.sampler.types import SampledTokens, SamplingRequest


def sampler(logits_BV: Tensor, request: SamplingRequest) -> SampledTokens:
    raw_BV = torch.log_softmax(logits_BV.float(), dim=-1)
    is_greedy_B = request.temperatures_B == 0
    kept_BV = _kept_probabilities(raw_BV, request, is_greedy_B)
    cumulative_BV = kept_BV.cumsum(dim=-1)
    total_B1 = cumulative_BV[:, -1:]
    uniforms_B = uniform_numbers(request.seeds_B.cpu().numpy(), request.positions_B.cpu().numpy())
    uniforms_B1 = torch.from_numpy(uniforms_B)[:, None].to(raw_BV.device)
    ids_B1 = torch.searchsorted(cumulative_BV, uniforms_B1 * total_B1, right=True)
    if bool(is_greedy_B.any()):
        ids_B1 = torch.where(is_greedy_B[:, None], raw_BV.argmax(dim=-1, keepdim=True), ids_B1)
    logprobs_B1 = torch.log(kept_BV.gather(1, ids_B1) / total_B1).masked_fill_(is_greedy_B[:, None], 0.0)
    return SampledTokens(
        ids_B=ids_B1.squeeze(1),
        logprobs_B=logprobs_B1.squeeze(1).float(),
        raw_logprobs_B=raw_BV.gather(1, ids_B1).squeeze(1),
    )


def _kept_probabilities(raw_BV: Tensor, request: SamplingRequest, is_greedy_B: Tensor) -> Tensor:
    """float64: in fp32 a cumulative sum over a large vocabulary would skew the tail."""
    temperatures_B1 = request.temperatures_B.masked_fill(is_greedy_B, 1.0)[:, None].double()
    probabilities_BV = torch.softmax(raw_BV.double() / temperatures_B1, dim=-1)
    if bool((request.top_ps_B >= 1).all()):
        return probabilities_BV
    sorted_BV, ids_BV = torch.sort(probabilities_BV, dim=-1, descending=True, stable=True)
    mass_before_BV = sorted_BV.cumsum(dim=-1) - sorted_BV
    is_dropped_BV = (mass_before_BV >= request.top_ps_B[:, None]) & (request.top_ps_B < 1)[:, None]
    is_dropped_BV[:, 0] = False
    return torch.zeros_like(probabilities_BV).scatter_(1, ids_BV, sorted_BV.masked_fill_(is_dropped_BV, 0.0))
