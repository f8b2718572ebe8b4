"""Sampling a batch by inverting cumulative distributions.

Legend: B sequences, V vocabulary, F filtered rows.
"""

import torch
from torch import Tensor

from forklight_kernels.sampler.randomness import uniform_numbers
from forklight_kernels.sampler.types import SampledTokens, SamplingRequest


def sampler(logits_BV: Tensor, request: SamplingRequest) -> SampledTokens:
    raw_BV = torch.log_softmax(logits_BV.float(), dim=-1)
    is_greedy_B = request.temperatures_B == 0
    temperatures_B1 = request.temperatures_B.masked_fill(is_greedy_B, 1.0)[:, None].double()
    # float64: in fp32 a cumulative sum over a large vocabulary would skew the tail.
    kept_BV = torch.softmax(raw_BV.double() / temperatures_B1, dim=-1)
    if request.is_filtered is not False:
        _filter_rows(kept_BV, logits_BV, request)
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


def _filter_rows(probabilities_BV: Tensor, logits_BV: Tensor, request: SamplingRequest) -> None:
    """Set what the filters take out to 0. Only rows that have a filter and are drawn at all are looked at."""
    is_filtered_B = request.top_ps_B < 1
    if request.top_ks_B is not None:
        is_filtered_B = is_filtered_B | (request.top_ks_B > 0)
    if request.min_ps_B is not None:
        is_filtered_B = is_filtered_B | (request.min_ps_B > 0)
    rows_F = (is_filtered_B & (request.temperatures_B > 0)).nonzero()[:, 0]
    if len(rows_F):
        probabilities_FV = probabilities_BV[rows_F]
        sorted_FV, ids_FV = torch.sort(logits_BV[rows_F], dim=-1, descending=True, stable=True)
        masses_FV = probabilities_FV.gather(1, ids_FV)
        masses_FV.masked_fill_(~_is_left(sorted_FV, request, rows_F), 0.0)
        masses_FV.masked_fill_(~_is_nucleus(masses_FV, request.top_ps_B[rows_F, None]), 0.0)
        probabilities_BV[rows_F] = torch.zeros_like(masses_FV).scatter_(1, ids_FV, masses_FV)


def _is_left(sorted_FV: Tensor, request: SamplingRequest, rows_F: Tensor) -> Tensor:
    """What top_k and min_p leave of logits in falling order."""
    is_left_FV = torch.ones_like(sorted_FV, dtype=torch.bool)
    if request.top_ks_B is not None:
        limits_F1 = request.top_ks_B[rows_F, None]
        ranks_V = torch.arange(sorted_FV.shape[1], device=sorted_FV.device)
        is_left_FV &= (ranks_V < limits_F1) | (limits_F1 <= 0)
    if request.min_ps_B is not None:
        scaled_FV = sorted_FV.double() / request.temperatures_B[rows_F, None].double()
        shares_F1 = request.min_ps_B[rows_F, None].double().clamp(max=1.0)
        is_left_FV &= scaled_FV >= scaled_FV[:, :1] + shares_F1.log()
    return is_left_FV


def _is_nucleus(masses_FV: Tensor, top_ps_F1: Tensor) -> Tensor:
    """Of masses in falling order, the fewest that reach top_p of their sum; at least one."""
    before_FV = masses_FV.cumsum(dim=-1) - masses_FV
    is_nucleus_FV = (before_FV < top_ps_F1 * masses_FV.sum(dim=-1, keepdim=True)) | (top_ps_F1 >= 1)
    is_nucleus_FV[:, 0] = True
    return is_nucleus_FV
