"""What the routers chose for one running sample, as compact bytes that grow with it.

The part of the prompt is its group's: all samples forked from a prefill hold the same arrays.
Legend: F fed tokens, L layers, K experts a token.
"""

from __future__ import annotations

import numpy as np

from forklight_core.wire import RoutingArrays


class RoutingLog:
    """Five bytes a token, layer and chosen expert."""

    __slots__ = ("_experts", "_prompt", "_weights")

    def __init__(self, prompt: RoutingArrays) -> None:
        self._prompt = prompt
        self._experts = bytearray()
        self._weights = bytearray()

    def add(self, fed: RoutingArrays) -> None:
        """The choices for the next tokens."""
        self._experts += fed.experts.tobytes()
        self._weights += fed.weights.tobytes()

    def close(self) -> RoutingArrays:
        """All choices so far, [F, L, K], in arrays of their own."""
        shape = (-1, *self._prompt.experts.shape[1:])
        experts_FLK = np.frombuffer(self._experts, dtype=np.uint8).reshape(shape)
        weights_FLK = np.frombuffer(self._weights, dtype=np.float32).reshape(shape)
        return RoutingArrays(
            experts=np.concatenate([self._prompt.experts, experts_FLK]),
            weights=np.concatenate([self._prompt.weights, weights_FLK]),
        )
