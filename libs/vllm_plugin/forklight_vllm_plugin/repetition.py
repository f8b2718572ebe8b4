"""Counting certain tokens: when a sequence has drawn too many in a row, it repeats itself."""

from __future__ import annotations

from collections.abc import Sequence

from forklight_vllm_plugin.arguments import RequestArguments


class CertainRun:
    """One sequence's tokens in a row that were each more probable than its rule says."""

    __slots__ = ("_bound", "_limit", "num_certain")

    def __init__(self, arguments: RequestArguments) -> None:
        self._limit = arguments.repetition_tokens
        self._bound = arguments.certain_logprob if self._limit else 0.0
        self.num_certain = arguments.num_certain

    def add(self, raw_logprobs: Sequence[float]) -> bool:
        """Take the next tokens' log-probs at temperature 1; whether the last one reaches the limit."""
        if not self._limit:
            return False
        for raw_logprob in raw_logprobs:
            self.num_certain = self.num_certain + 1 if raw_logprob > self._bound else 0
        return self.num_certain >= self._limit
