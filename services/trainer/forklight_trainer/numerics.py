"""Parity or tolerance: what this trainer may demand of rollout's log-probs, said once at start."""

from __future__ import annotations

import logging
from dataclasses import asdict

from forklight.v1 import types_pb2
from forklight_core.numerics import log_numeric_mode
from forklight_core.runfile import RunFile
from forklight_model.policies import numeric_mode_of
from forklight_trainer.initial import DTYPES, initial_config

log = logging.getLogger(__name__)


def announce_numeric_mode(run_file: RunFile, device: str) -> types_pb2.NumericMode:
    """Ask the model's self-test (a small model, sampled and scored) and put its answer into the log."""
    found = numeric_mode_of(initial_config(run_file), device, DTYPES[run_file.model.dtype])
    mode = types_pb2.NumericMode(**asdict(found))
    log_numeric_mode(log, mode)
    if run_file.parity.require_equal and not mode.is_parity:
        log.warning("parity.require_equal has no effect in tolerance mode", extra={"reason": mode.reason})
    return mode
