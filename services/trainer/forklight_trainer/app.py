"""The trainer, wired, and its loop.

                .-----------------------------------------------------------.
                v                                                           |
    start --> lease --> fetch --> learn ------> copy ------> record --> publish
      ^         |                   |             |                         |
      |     not yet, or          refused:         |             (at a version boundary:
      |     paused: asked        the run          |              written and verified)
      |     again                pauses           |                         |
      |                                           v                         v
      |    beside it, one after another:        write --> commit --> prune --> announce
      |
      '-- newest sound checkpoint, else initial weights; tell the buffer, announce its version; open an epoch.
          To go back is to begin again from an older one.

    lease    waits for: a complete batch of the next step        unblocked by: the buffer
    learn    waits for: the disk, when the next update would put more steps at risk than the run file allows
    copy     waits for: the write and commit of the checkpoint before
    commit   waits for: the buffer's ledger                      unblocked by: the buffer coming back
    paused   waits for: a person                                 unblocked by: SetRunPhase(RUNNING)

What goes wrong beside the loop comes out in it. Told to stop, it finishes the step it is in, saves, commits
and returns. A newer trainer fences it: then it raises.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import torch

from forklight_core.blobs import open_blob_store
from forklight_core.retry import TRANSIENT
from forklight_core.runfile import RunFile, load_run_file
from forklight_model.device import choose_device
from forklight_trainer.adapters.grpc_buffer import GrpcBuffer
from forklight_trainer.assembly import LoopParts
from forklight_trainer.checkpoints.retention import Retention
from forklight_trainer.checkpoints.store import CheckpointStore
from forklight_trainer.engines import open_engine
from forklight_trainer.initial import initial_tokenizer
from forklight_trainer.loop import TrainingLoop
from forklight_trainer.numerics import announce_numeric_mode
from forklight_trainer.ports import BufferPort
from forklight_trainer.publishing.contract import contract_hash
from forklight_trainer.publishing.sending import open_sender
from forklight_trainer.publishing.versions import WeightsStore
from forklight_trainer.recipe import check_recipe
from forklight_trainer.servicer import TrainerServicer, open_door
from forklight_trainer.settings import TrainerSettings
from forklight_trainer.status import StatusBoard
from forklight_trainer.steps.step import step_settings

log = logging.getLogger(__name__)

CHECKPOINTS_FOLDER = "checkpoints"
WEIGHTS_FOLDER = "weights"
EXPORT_FOLDER = "final"
STEPS_FILE = "steps.jsonl"


def run(settings: TrainerSettings, stop: threading.Event, *, buffer: BufferPort | None = None) -> None:
    """Train until the run is over or `stop` is set. `buffer` replaces the one at the settings' address."""
    run_file = load_run_file(settings.run_file)
    for deviation in check_recipe(run_file):
        log.warning("the run deviates from MiniMax-M1", extra={"deviation": deviation})
    if run_file.trainer.threads:
        torch.set_num_threads(run_file.trainer.threads)
    torch.manual_seed(run_file.run.seed)
    board = StatusBoard()
    port = buffer or GrpcBuffer(settings.buffer_address, settings.run_id, deadline_s=settings.call_deadline_s)
    servicer = TrainerServicer(board, settings.run_folder / STEPS_FILE)
    try:
        with open_door(settings.listen, servicer, stop=stop, health_listen=settings.health_listen):
            parts = assemble(settings, run_file, board=board, buffer=port, stop=stop)
            loop = TrainingLoop(parts)
            servicer.attach(loop.roll_backs, loop.saves)
            loop.run()
            parts.engine.close()
    except TRANSIENT as error:
        if not stop.is_set():
            raise
        # What was learned is in the checkpoint with its commit record; the next start enters it.
        log.warning("stopped without the buffer", extra={"reason": str(error)})
    finally:
        port.close()


def assemble(
    settings: TrainerSettings,
    run_file: RunFile,
    *,
    board: StatusBoard,
    buffer: BufferPort,
    stop: threading.Event,
) -> LoopParts:
    """The loop's parts for this run."""
    tokenizer = initial_tokenizer(run_file)
    dtype, device = run_file.model.dtype, choose_device(settings.device)
    mode = announce_numeric_mode(run_file, device)
    board.set_numeric_mode(mode)
    engine = open_engine(run_file, device, settings.run_folder / CHECKPOINTS_FOLDER)
    folder, kept = settings.run_folder, run_file.checkpoints
    return LoopParts(
        run_id=settings.run_id,
        run_file=run_file,
        step_settings=step_settings(run_file, is_parity_mode=mode.is_parity),
        engine=engine,
        buffer=buffer,
        blobs=open_blob_store(settings.blobs_url),
        checkpoints=CheckpointStore(
            folder=folder / CHECKPOINTS_FOLDER,
            run_file=Path(settings.run_file),
            config=engine.config,
            tokenizer=tokenizer,
            retention=Retention(keep_last=kept.keep_last, keep_every_steps=kept.keep_every_steps),
        ),
        weights=WeightsStore(
            folder=folder / WEIGHTS_FOLDER,
            run_id=settings.run_id,
            tokenizer=tokenizer,
            dtype=dtype,
            contract=contract_hash(engine.config, dtype),
            mode=mode,
            publication=run_file.publication,
            sender=open_sender(run_file.publication, device),
        ),
        steps_file=folder / STEPS_FILE,
        export_folder=folder / EXPORT_FOLDER,
        board=board,
        stop=stop,
        lease_wait_s=settings.lease_wait_s,
    )
