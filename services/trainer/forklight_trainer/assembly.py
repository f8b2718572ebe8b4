"""What the loop is put together from."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from forklight_core.blobs import BlobStore
from forklight_core.runfile import RunFile
from forklight_trainer.checkpoints.store import CheckpointStore
from forklight_trainer.ports import BufferPort, TrainEngine
from forklight_trainer.publishing.versions import WeightsStore
from forklight_trainer.status import StatusBoard
from forklight_trainer.steps.step import StepSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopParts:
    """Of one run."""

    run_id: str
    run_file: RunFile
    step_settings: StepSettings
    engine: TrainEngine
    buffer: BufferPort
    blobs: BlobStore
    checkpoints: CheckpointStore
    weights: WeightsStore
    steps_file: Path
    export_folder: Path
    board: StatusBoard
    stop: threading.Event
    lease_wait_s: float
