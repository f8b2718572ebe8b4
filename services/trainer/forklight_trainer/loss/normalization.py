"""What each drawn token weighs in the loss of a step. Torch-free.

    token      w = 1 / N                                   every token of the step counts the same
    sample     w = 1 / (S * n)                             every sample counts the same, whatever its length
    combined   w = share / N  +  (1 - share) / (S * n)     the straight line between the two

N drawn tokens in the step, S samples that have any, n drawn tokens of the token's own sample. The weights of
a step sum to 1, and none depends on how samples are packed.
"""

from __future__ import annotations

from collections.abc import Sequence

from forklight_core.runfile.sections.recipe import Normalization


def token_share(normalization: Normalization, combined_token_share: float) -> float:
    """Share of the weight that goes by tokens; the rest goes by samples."""
    return {"token": 1.0, "sample": 0.0, "combined": combined_token_share}[normalization]


def token_weights(num_drawn: Sequence[int], share: float = 1.0) -> list[float]:
    """For samples with so many drawn tokens: what each token of each of them weighs."""
    num_tokens, num_samples = sum(num_drawn), sum(1 for number in num_drawn if number)
    return [
        share / num_tokens + (1.0 - share) / (num_samples * number) if number else 0.0 for number in num_drawn
    ]
