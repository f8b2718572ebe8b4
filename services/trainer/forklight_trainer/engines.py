"""Which engine a run file asks for, and what becomes of a process that is not the first of several."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import torch

from forklight_core.runfile import RunFile, load_run_file
from forklight_model.device import choose_device
from forklight_trainer.adapters.torch_plain import TorchEngine, optimizer_settings
from forklight_trainer.initial import DTYPES, initial_policy
from forklight_trainer.memory import plan_recomputation
from forklight_trainer.ports import TrainEngine
from forklight_trainer.settings import TrainerSettings

log = logging.getLogger(__name__)


def is_follower() -> bool:
    """Whether torchrun started this process to follow the first one."""
    return int(os.environ.get("RANK", "0")) > 0


def open_engine(run_file: RunFile, device: str, checkpoints: Path) -> TrainEngine:
    """The engine of the first process, or of the only one. Many write their parts beside `checkpoints`."""
    if run_file.trainer.engine == "deepspeed":
        from forklight_trainer.adapters.deepspeed.start import lead

        return lead(run_file, device, checkpoints)
    policy = initial_policy(run_file)
    policy.recomputation = plan_recomputation(run_file.trainer, policy.config, device)
    dtype = DTYPES[run_file.model.dtype]
    return TorchEngine(policy, optimizer_settings(run_file.trainer), dtype=dtype, device=device)


def follow(settings: TrainerSettings, stop: threading.Event) -> None:
    """Compute what the first process says until it ends. Told to stop, go on: it stops first, and says so."""
    from forklight_trainer.adapters.deepspeed.start import follow_first

    run_file = load_run_file(settings.run_file)
    if run_file.trainer.threads:
        torch.set_num_threads(run_file.trainer.threads)
    follow_first(run_file, choose_device(settings.device))
