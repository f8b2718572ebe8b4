"""Tokens on their way from vLLM's event loop to the engine's thread, and who still wants them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from forklight_core.errors import ForklightError, UnavailableError
from forklight_rollout.ports import FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """New tokens of one sequence, all drawn by one version of the weights."""

    key: int
    epoch: int  # of the weights: how many swaps came before
    ids: Sequence[int]
    logprobs: Sequence[float]
    raw_logprobs: Sequence[float]
    reason: FinishReason | None


class Outbox:
    """Filled by the event loop, emptied by the engine's thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._deltas: deque[Delta] = deque()
        self._open: set[int] = set()
        self._failure: BaseException | None = None

    @property
    def is_awaited(self) -> bool:
        """Whether any sequence is open."""
        return bool(self._open)

    def open(self, keys: Iterable[int]) -> None:
        """Expect tokens of these sequences."""
        with self._changed:
            self._open.update(keys)

    def close(self, keys: Iterable[int]) -> list[int]:
        """No token of these comes out any more; those that were open."""
        with self._changed:
            closed = [key for key in keys if key in self._open]
            self._open.difference_update(closed)
            gone = set(closed)
            self._deltas = deque(delta for delta in self._deltas if delta.key not in gone)
            return closed

    def put(self, delta: Delta) -> None:
        """Add tokens; those of a closed sequence are dropped."""
        with self._changed:
            if delta.key in self._open:
                self._deltas.append(delta)
                self._changed.notify()

    def fail(self, error: BaseException) -> None:
        """Nothing will come any more; the first failure is the one told."""
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify()

    def take(self, timeout_s: float) -> list[Delta]:
        """What has come since, of one version of the weights; waits for something if there is nothing."""
        with self._changed:
            self._changed.wait_for(lambda: self._deltas or self._failure is not None, timeout_s)
            taken: list[Delta] = []
            while self._deltas and self._deltas[0].epoch == (taken or self._deltas)[0].epoch:
                taken.append(self._deltas.popleft())
            self._open.difference_update(delta.key for delta in taken if delta.reason is not None)
            if not taken:
                self.check()
            return taken

    def check(self) -> None:
        """Raise what vLLM failed with."""
        if self._failure is None:
            return
        if isinstance(self._failure, ForklightError):
            raise self._failure
        raise UnavailableError(
            f"vLLM's engine died: {type(self._failure).__name__}: {self._failure}; its own log says more. "
            "Its sequences are lost: end the pod, others take its groups"
        ) from self._failure
