"""From parts to one reward. The parts stay separate in the verdict; only the score joins them."""

from __future__ import annotations

from dataclasses import dataclass

from forklight_core.errors import ConfigError
from forklight_core.runfile import RunFile
from forklight_reward.ports import Outcome, Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """What the overlong penalty looks at: tokens of the response, and whether it counts for this sample."""

    num_response_tokens: int
    counts: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardPolicy:
    """Weights and the overlong zone. `window_tokens` of 0 means no overlong penalty."""

    correct_weight: float = 1.0
    format_weight: float = 0.0
    window_tokens: int = 0
    zone_tokens: int = 0

    def compose(self, outcome: Outcome, length: Length) -> tuple[float, dict[Part, float]]:
        """The reward of a scored outcome, and all its unweighted parts."""
        parts = dict(outcome.parts)
        right = parts.get(Part.CORRECT, parts.get(Part.JUDGE, 0.0))
        score = self.correct_weight * right
        if right > 0.0:
            score += self.format_weight * parts.get(Part.FORMAT, 0.0)
        if self.window_tokens and length.counts:
            parts[Part.OVERLONG] = overlong_penalty(
                length.num_response_tokens, self.window_tokens, self.zone_tokens
            )
            score += parts[Part.OVERLONG]
        return score, parts


def overlong_penalty(num_tokens: int, window_tokens: int, zone_tokens: int) -> float:
    """DAPO's soft penalty: 0 before the zone at the end of the window, then down to -1 at its end."""
    start = window_tokens - zone_tokens
    if num_tokens <= start:
        return 0.0
    if num_tokens >= window_tokens:
        return -1.0
    return (start - num_tokens) / zone_tokens


def policy_of(run_file: RunFile) -> RewardPolicy:
    """The policy a run file asks for."""
    recipe, window = run_file.recipe, run_file.sampling.max_new_tokens
    if recipe.overlong_penalty and recipe.overlong_tokens > window:
        raise ConfigError(
            f"recipe.overlong_tokens ({recipe.overlong_tokens}) must not exceed sampling.max_new_tokens "
            f"({window}): every response would be punished; lower it (DAPO takes a fifth of the window) or "
            "set recipe.overlong_penalty = false"
        )
    return RewardPolicy(
        correct_weight=run_file.reward.correct_weight,
        format_weight=run_file.reward.format_weight,
        window_tokens=window if recipe.overlong_penalty else 0,
        zone_tokens=recipe.overlong_tokens if recipe.overlong_penalty else 0,
    )
