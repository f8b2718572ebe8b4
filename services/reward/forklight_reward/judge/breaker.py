"""A circuit breaker: an endpoint that failed several times in a row is left alone for a while."""

from __future__ import annotations

import time
from collections.abc import Callable

LONGEST_REST_S = 60.0


class Breaker:
    """Closed: calls pass. Open: none pass until the rest is over. Then one trial call decides; each failed
    trial doubles the rest.
    """

    def __init__(
        self, *, num_failures: int = 5, rest_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most_failures = num_failures
        self._first_rest_s = rest_s
        self._rest_s = rest_s
        self._clock = clock
        self._num_failures = 0
        self._open_until: float | None = None
        self._on_trial = False

    @property
    def is_open(self) -> bool:
        """Whether no call may pass now."""
        if self._open_until is None:
            return False
        return self._on_trial or self._clock() < self._open_until

    def enter(self) -> None:
        """A call begins that `is_open` allowed."""
        self._on_trial = self._open_until is not None

    def succeed(self) -> None:
        """The endpoint answered."""
        self._num_failures, self._open_until, self._on_trial = 0, None, False
        self._rest_s = self._first_rest_s

    def give_up(self) -> None:
        """The call ended without telling anything about the endpoint."""
        self._on_trial = False

    def fail(self) -> None:
        """The endpoint did not answer as it should."""
        self._num_failures += 1
        if self._open_until is not None:
            if not self._on_trial:
                return  # began before the breaker opened
            self._rest_s = min(2 * self._rest_s, LONGEST_REST_S)
        elif self._num_failures < self._most_failures:
            return
        self._open_until, self._on_trial = self._clock() + self._rest_s, False
