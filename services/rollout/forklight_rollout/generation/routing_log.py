"""What the routers chose for one running sample, as compact bytes that grow with it.

What it began with is shared: all samples forked from a prefill hold the same arrays.
Legend: F fed tokens, L layers, K experts a token.
"""

from __future__ import annotations

import numpy as np

from forklight_core.wire import RoutingArrays


class RoutingLog:
    """Five bytes a token, layer and chosen expert."""

    __slots__ = ("_experts", "_first", "_weights", "num_tokens")

    def __init__(self, first: RoutingArrays) -> None:
        self.num_tokens = len(first.experts)
        self._first = first
        self._experts = bytearray()
        self._weights = bytearray()

    def add(self, fed: RoutingArrays) -> None:
        """The choices for the next tokens."""
        self.num_tokens += len(fed.experts)
        self._experts += fed.experts.tobytes()
        self._weights += fed.weights.tobytes()

    def close(self, start: int = 0) -> RoutingArrays:
        """The choices from fed token `start` on, [F, L, K], in arrays of their own."""
        shape = (-1, *self._first.experts.shape[1:])
        # Copies: a bytearray whose memory an array looks into could not grow any more.
        experts_FLK = np.frombuffer(bytes(self._experts), dtype=np.uint8).reshape(shape)
        weights_FLK = np.frombuffer(bytes(self._weights), dtype=np.float32).reshape(shape)
        return RoutingArrays(
            experts=np.concatenate([self._first.experts, experts_FLK])[start:],
            weights=np.concatenate([self._first.weights, weights_FLK])[start:],
        )
