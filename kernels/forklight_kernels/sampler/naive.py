"""Sampling sequence by sequence in float64. Legend: B sequences, V vocabulary."""

import torch
from torch import Tensor

from forklight_kernels.sampler.randomness import uniform_numbers
from forklight_kernels.sampler.types import SampledTokens, SamplingRequest


def sampler(logits_BV: Tensor, request: SamplingRequest) -> SampledTokens:
    uniforms = uniform_numbers(request.seeds_B.cpu().numpy(), request.positions_B.cpu().numpy()).tolist()
    settings = zip(request.temperatures_B.tolist(), request.top_ps_B.tolist(), uniforms, strict=True)
    rows = [_draw(row.double(), *setting) for row, setting in zip(logits_BV, settings, strict=True)]
    ids, logprobs, raw_logprobs = zip(*rows, strict=True)
    return SampledTokens(
        ids_B=torch.tensor(ids), logprobs_B=torch.tensor(logprobs), raw_logprobs_B=torch.tensor(raw_logprobs)
    )


def _draw(logits_V: Tensor, temperature: float, top_p: float, uniform: float) -> tuple[int, float, float]:
    raw_V = torch.log_softmax(logits_V, dim=-1)
    if temperature == 0:
        choice = int(logits_V.argmax())
        return choice, 0.0, float(raw_V[choice])
    kept_V = _nucleus(torch.softmax(logits_V / temperature, dim=-1), top_p)
    target = uniform * float(kept_V.sum())
    total, choice = 0.0, 0
    for token, probability in enumerate(kept_V.tolist()):
        total += probability
        if probability > 0:
            choice = token
        if total > target:
            break
    return choice, float(torch.log(kept_V[choice] / kept_V.sum())), float(raw_V[choice])


def _nucleus(probabilities_V: Tensor, top_p: float) -> Tensor:
    """Only the fewest most probable tokens that together reach top_p, ties to the lowest id."""
    if top_p >= 1:
        return probabilities_V
    kept_V = torch.zeros_like(probabilities_V)
    total = 0.0
    for token in torch.sort(probabilities_V, descending=True, stable=True).indices.tolist():
        kept_V[token] = probabilities_V[token]
        total += float(probabilities_V[token])
        if total >= top_p:
            break
    return kept_V
