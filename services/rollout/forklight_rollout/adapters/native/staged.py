"""New weights beside those in use: loaded and checked in any thread, taken between two steps."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from forklight_core.errors import WeightsError
from forklight_model.model import HybridModel
from forklight_rollout.adapters.published import load_weights
from forklight_rollout.weights.manifest import PublishedWeights


class StagedWeights:
    """A candidate becomes staged once it is known to be whole everywhere; an older one waits until then."""

    def __init__(self, model: HybridModel) -> None:
        self._model = model
        self._candidate: tuple[HybridModel, int] | None = None
        self._kept: tuple[HybridModel, int] | None = None
        self._lock = threading.Lock()

    def load(self, weights: PublishedWeights) -> HybridModel:
        """The candidate: of the same architecture, dtype and device, and the same part of it."""
        weight = self._model.lm_head.weight
        self.forget()  # two at once might not fit
        with _own_stream(weight.device):
            model = load_weights(
                weights,
                dtype=weight.dtype,
                device=weight.device,
                expected=self._model.config,
                shard=self._model.shard,
                gather=self._model.gather,
            )
        self._candidate = (model, weights.version)
        return model

    def keep(self) -> None:
        """Stage the candidate."""
        with self._lock:
            self._kept, self._candidate = self._candidate, None

    def forget(self) -> None:
        """Drop the candidate."""
        self._candidate = None

    def take(self) -> tuple[HybridModel, int]:
        """The staged weights and their version, once."""
        with self._lock:
            if self._kept is None:
                raise WeightsError("no weights are staged: call stage first")
            taken, self._kept = self._kept, None
        model, _ = taken
        if model.lm_head.weight.is_cuda:
            # Their memory belongs to the stream that loaded them; it must outlive what this one does with it.
            for weight in model.parameters():
                weight.record_stream(torch.cuda.current_stream(weight.device))
        return taken


@contextmanager
def _own_stream(device: torch.device) -> Iterator[None]:
    """On a GPU, copies of the block go beside decoding instead of between its steps; done at its end."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        yield
    stream.synchronize()
