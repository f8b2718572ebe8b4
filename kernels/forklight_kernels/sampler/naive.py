"""Sampling sequence by sequence in float64. Legend: B sequences, V vocabulary."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from forklight_kernels.sampler.randomness import uniform_numbers
from forklight_kernels.sampler.types import SampledTokens, SamplingRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    temperature: float
    top_k: int
    min_p: float
    top_p: float
    uniform: float


def sampler(logits_BV: Tensor, request: SamplingRequest) -> SampledTokens:
    rows = [
        _draw(row.double(), settings) for row, settings in zip(logits_BV, _settings(request), strict=True)
    ]
    ids, logprobs, raw_logprobs = zip(*rows, strict=True)
    return SampledTokens(
        ids_B=torch.tensor(ids), logprobs_B=torch.tensor(logprobs), raw_logprobs_B=torch.tensor(raw_logprobs)
    )


def _settings(request: SamplingRequest) -> Iterator[_Settings]:
    uniforms = uniform_numbers(request.seeds_B.cpu().numpy(), request.positions_B.cpu().numpy()).tolist()
    for row, uniform in enumerate(uniforms):
        yield _Settings(
            temperature=float(request.temperatures_B[row]),
            top_k=0 if request.top_ks_B is None else int(request.top_ks_B[row]),
            min_p=0.0 if request.min_ps_B is None else float(request.min_ps_B[row]),
            top_p=float(request.top_ps_B[row]),
            uniform=uniform,
        )


def _draw(logits_V: Tensor, settings: _Settings) -> tuple[int, float, float]:
    raw_V = torch.log_softmax(logits_V, dim=-1)
    if settings.temperature == 0:
        choice = int(logits_V.argmax())
        return choice, 0.0, float(raw_V[choice])
    kept_V = _kept_probabilities(logits_V / settings.temperature, settings)
    target = settings.uniform * float(kept_V.sum())
    total, choice = 0.0, 0
    for token, probability in enumerate(kept_V.tolist()):
        total += probability
        if probability > 0:
            choice = token
        if total > target:
            break
    return choice, float(torch.log(kept_V[choice] / kept_V.sum())), float(raw_V[choice])


def _kept_probabilities(scaled_V: Tensor, settings: _Settings) -> Tensor:
    """Probabilities before the filters, 0 for tokens that one of them takes out."""
    probabilities_V = torch.softmax(scaled_V, dim=-1)
    tokens = torch.sort(scaled_V, descending=True, stable=True).indices.tolist()
    if settings.top_k > 0:
        tokens = tokens[: settings.top_k]
    if settings.min_p > 0:
        least = float(scaled_V[tokens[0]]) + math.log(min(settings.min_p, 1.0))
        tokens = [token for token in tokens if float(scaled_V[token]) >= least]
    if settings.top_p < 1:
        tokens = _nucleus(tokens, probabilities_V, settings.top_p)
    kept_V = torch.zeros_like(probabilities_V)
    kept_V[tokens] = probabilities_V[tokens]
    return kept_V


def _nucleus(tokens: list[int], probabilities_V: Tensor, top_p: float) -> list[int]:
    """Of tokens in falling order, the fewest that reach this share of all of them; at least one."""
    wanted = top_p * float(probabilities_V[tokens].sum())
    total = 0.0
    for count, token in enumerate(tokens, start=1):
        total += float(probabilities_V[token])
        if total >= wanted:
            return tokens[:count]
    return tokens
