"""The port of trackers and its adapters, each imported only when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from forklight_core.errors import ConfigError


class TrackerName(StrEnum):
    """Which trackers there are; the value is the package that is needed."""

    TENSORBOARD = "tensorboard"
    WANDB = "wandb"
    MLFLOW = "mlflow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a run's records go."""

    run_id: str
    folder: Path
    """Of what is written on this machine."""
    project: str
    keys: Mapping[str, str]
    """The run file, flat."""


class Tracker(Protocol):
    """Takes the numbers of one step after the other."""

    def log(self, step: int, at: float, numbers: Mapping[str, float]) -> None:
        """The numbers of a step that ended at a unix time."""

    def close(self) -> None:
        """Write out what is still held back."""


def open_tracker(name: TrackerName, target: Target) -> Tracker:
    """The tracker, ready to take steps; ConfigError when its package is not there."""
    module = importlib.import_module(f"forklight_cli.trackers.to_{name.value}")
    try:
        opened: Tracker = module.open_target(target)
    except ImportError as error:
        raise ConfigError(
            f"{name.value} cannot be fed: {error}; install it with pip install {name.value}"
        ) from error
    return opened
