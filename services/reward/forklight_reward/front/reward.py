"""From parts to one reward. The parts stay separate in the verdict; only the score joins them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from forklight_core.errors import ConfigError
from forklight_core.runfile import RunFile, first_window, largest_window
from forklight_reward.ports import Outcome, Part

Shape = Callable[[float], tuple[float, float]]
"""What clipping adds to a reward, and what normalising adds to that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """What the overlong penalty looks at: tokens of the response, the window it was generated under (0: the
    run file's first), and whether it counts for this sample.
    """

    num_response_tokens: int
    window_tokens: int = 0
    counts: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardPolicy:
    """Weights and the overlong zone, which is at the end of whatever window a sample was generated under."""

    correct_weight: float = 1.0
    format_weight: float = 0.0
    window_tokens: int = 0
    """The run file's first, for samples that name none."""
    zone_tokens: int = 0
    """0: no overlong penalty."""

    def base_of(self, outcome: Outcome) -> float:
        """The weighted reward of a scored outcome, before shaping and penalty."""
        right = outcome.parts.get(Part.CORRECT, outcome.parts.get(Part.JUDGE, 0.0))
        score = self.correct_weight * right
        if right > 0.0:
            score += self.format_weight * outcome.parts.get(Part.FORMAT, 0.0)
        return score

    def compose(
        self, outcome: Outcome, length: Length, shape: Shape | None = None
    ) -> tuple[float, dict[Part, float]]:
        """The reward of a scored outcome, and all its parts: what was found unweighted, and what shaping and
        penalty add to the score.
        """
        parts, score = dict(outcome.parts), self.base_of(outcome)
        if shape is not None and length.counts:
            parts[Part.CLIP], parts[Part.NORMALISED] = shape(score)
            score += parts[Part.CLIP] + parts[Part.NORMALISED]
        if self.zone_tokens and length.counts:
            window = length.window_tokens or self.window_tokens
            zone = zone_of(window, self.zone_tokens)
            parts[Part.OVERLONG] = overlong_penalty(length.num_response_tokens, window, zone)
            score += parts[Part.OVERLONG]
        return score, parts


def zone_of(window_tokens: int, zone_tokens: int) -> int:
    """The soft zone of a window: as long as the run file says, but never more than half of the window. A zone
    made for a large window must not reach over all of a small one, where it would punish every answer.
    """
    return min(zone_tokens, window_tokens // 2)


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
    recipe, largest = run_file.recipe, largest_window(run_file)
    if recipe.overlong_penalty and recipe.overlong_tokens > largest:
        name = "the largest of length.windows" if run_file.length.windows else "sampling.max_new_tokens"
        raise ConfigError(
            f"recipe.overlong_tokens ({recipe.overlong_tokens}) must not exceed {name} ({largest}): it is "
            "the end of a window; lower it (DAPO takes a fifth of the window) or set "
            "recipe.overlong_penalty = false"
        )
    return RewardPolicy(
        correct_weight=run_file.reward.correct_weight,
        format_weight=run_file.reward.format_weight,
        window_tokens=first_window(run_file),
        zone_tokens=recipe.overlong_tokens if recipe.overlong_penalty else 0,
    )
