"""What a request tells our code inside vLLM, as the `extra_args` of its sampling parameters.

vLLM's own temperature, filters and seed are not used: it would round a low temperature up, and its random
stream starts anew when a response is continued from a prefix.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from forklight_core.errors import InvalidInputError

KEY = "forklight"
"""Of the mapping inside extra_args."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestArguments:
    """One sequence's rules. The defaults are those of a request that only scores."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0  # as a signed number of 64 bits
    repetition_tokens: int = 0
    repetition_probability: float = 0.99
    num_certain: int = 0

    @property
    def certain_logprob(self) -> float:
        """Raw log-probs above it count as repetition."""
        return math.log(self.repetition_probability)

    @property
    def is_filtered(self) -> bool:
        """Whether some tokens cannot be drawn."""
        return self.temperature > 0 and (self.top_p < 1 or self.top_k > 0 or self.min_p > 0)


def read_arguments(extra_args: Mapping[str, object] | None) -> RequestArguments:
    """A request's arguments; names that this build does not know are refused."""
    given = (extra_args or {}).get(KEY, {})
    if not isinstance(given, Mapping):
        raise InvalidInputError(f"extra_args[{KEY!r}] is {given!r}; it must be a mapping")
    known = {field.name for field in fields(RequestArguments)}
    if unknown := sorted(set(given) - known):
        raise InvalidInputError(
            f"extra_args[{KEY!r}] holds {', '.join(unknown)}, which this forklight-vllm-plugin does "
            "not know: bring the plugin and forklight-rollout to the same release"
        )
    return RequestArguments(**given)
