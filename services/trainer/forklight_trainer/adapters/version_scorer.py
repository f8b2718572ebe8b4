"""Scoring with weights that were published earlier, as a pod computes with them: whole, in one process."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import torch
from torch import Tensor

from forklight_core.errors import CheckpointError, ConfigError, WeightsError
from forklight_core.weights.manifest import MANIFEST_FILE
from forklight_core.weights.reading import open_layers
from forklight_model.logprobs import token_logprobs
from forklight_model.policy import Policy
from forklight_model.routing import RecordedRouting, Routing
from forklight_trainer.batches.packing import Pack
from forklight_trainer.publishing.folders import load_version

log = logging.getLogger(__name__)

MOST_PARAMETERS = 500_000_000  # a larger model is not held beside the one that learns


class VersionScorer:
    """Holds the version that was asked for last."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype, self._device = dtype, device
        self._held: tuple[Path, Policy | None] | None = None

    @torch.no_grad()
    def score(self, folder: Path, pack: Pack, temperature: float) -> Tensor | None:
        """Log-probs of a pack's tokens, on the CPU; None for too large a model, or one that is not sound."""
        if self._held is None or self._held[0] != folder:
            self._held = None
            try:
                self._held = folder, self._load(folder)
            except (CheckpointError, ConfigError, WeightsError) as error:
                log.warning(
                    "published weights cannot be read, parity is not gated", extra={"reason": str(error)}
                )
                return None
        policy = self._held[1]
        if policy is None:
            return None
        ids_T, cu_seqlens = pack.input_ids_T.to(self._device), pack.cu_seqlens.to(self._device)
        return token_logprobs(policy, ids_T, cu_seqlens, temperature, self._replayed(pack)).logprobs_T.cpu()

    def forget(self) -> None:
        """Folders may hold other weights now."""
        self._held = None

    def _load(self, folder: Path) -> Policy | None:
        entries = open_layers(folder / MANIFEST_FILE)[0].manifest.tensors.values()
        if sum(math.prod(entry.shape) for entry in entries) > MOST_PARAMETERS:
            return None
        return load_version(folder, self._dtype, device=self._device)

    def _replayed(self, pack: Pack) -> Routing | None:
        if pack.routing is None:
            return None
        experts_LTK, weights_LTK = (
            each.to(self._device) for each in (pack.routing.experts_LTK, pack.routing.weights_LTK)
        )
        return Routing(RecordedRouting(experts_LTK=experts_LTK, weights_LTK=weights_LTK))
