"""The LM head of training: fp32 log-probability of each target token, and the entropy, at a temperature."""

from torch import Tensor

from forklight_kernels.backend import uses_naive
from forklight_kernels.token_stats import naive, torch_cpu


def token_stats(
    hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies [T], fp32; never holds [T, V]. Differentiable in hidden and weight."""
    if uses_naive():
        return naive.token_stats(hidden_TD, weight_VD, targets_T, temperature)
    return torch_cpu.token_stats(hidden_TD, weight_VD, targets_T, temperature)


__all__ = ["token_stats"]
