"""Cold start: supervised training on worked examples, so that reinforcement starts from a policy that is
sometimes right.

    check the files --> newest checkpoint, or the beginning --> step, step, ... --> the result appears whole
                                                                 |       |
                                                       held-out loss   checkpoint

Only what a policy would have drawn counts. The result is a model folder in the published layout with its
tokenizer, and the weights as rollout would compute with them.
"""

from __future__ import annotations

import tempfile
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from forklight_core.errors import PreconditionError
from forklight_core.runfile.schema import RunFile
from forklight_model.device import choose_device
from forklight_trainer.checkpoints.reading import read_json
from forklight_trainer.durable import canonical_json, staged_folder
from forklight_trainer.engines import open_engine
from forklight_trainer.publishing.folders import export_model
from forklight_trainer.sft.data import StageData, open_data, report_data
from forklight_trainer.sft.events import DataReport, Event, SftResult, Tell
from forklight_trainer.sft.saves import Identity, StageFolder, StageState, hold_stage, identity_of, read_state
from forklight_trainer.sft.schedule import Pace
from forklight_trainer.sft.steps import StageSteps

RESULT_FILE = "sft.json"
SCHEMA_VERSION = 1


def tell_nobody(_: Event) -> None:
    """Nothing is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SftOptions:
    """How a stage is run; no number depends on it."""

    device: str = "auto"
    resume: bool = False
    """Go on with what an earlier call left; begin when there is nothing."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Once set: finish the step, save, return."""


def run_sft(
    run_file: RunFile, out: Path | str, tell: Tell = tell_nobody, options: SftOptions | None = None
) -> SftResult:
    """Train on `sft.demonstrations` and write a model folder, unless told to stop before."""
    out, options = Path(out).absolute(), options or SftOptions()
    if run_file.trainer.threads:
        torch.set_num_threads(run_file.trainer.threads)
    with hold_stage(out) as folder:
        steps = folder.list_steps()
        if steps and not options.resume:
            raise PreconditionError(
                f"{folder.path} holds a cold start that is not finished (a checkpoint of step {steps[-1]}): "
                "go on with --resume, or remove the folder to start anew"
            )
        with open_data(run_file, folder.data, tell) as data:
            identity = identity_of(run_file, data.train.key)
            finished = _find_result(out, identity) if options.resume and not steps else None
            result = finished or _train(run_file, out, folder, data, tell=tell, options=options)
    tell(result)
    return result


def check_sft(run_file: RunFile, tell: Tell = tell_nobody) -> DataReport:
    """What a stage would learn from, with the errors it would meet; nothing stays on disk."""
    with tempfile.TemporaryDirectory() as folder, open_data(run_file, Path(folder), tell) as data:
        report = report_data(run_file, data)
    tell(report)
    return report


def follow_sft(run_file: RunFile, device: str) -> None:
    """Any process but the first of several: compute what that one says, until it ends the stage."""
    from forklight_trainer.adapters.deepspeed.start import follow_first

    if run_file.trainer.threads:
        torch.set_num_threads(run_file.trainer.threads)
    follow_first(as_stage(run_file), choose_device(device))


def as_stage(run_file: RunFile) -> RunFile:
    """The run file with the stage's optimizer in the place of the trainer's: an engine is opened with it."""
    names = ("weight_decay", "adam_beta1", "adam_beta2", "adam_eps")
    optimizer = {name: getattr(run_file.sft, name) for name in names}
    return run_file.model_copy(update={"trainer": run_file.trainer.model_copy(update=optimizer)})


def _train(
    run_file: RunFile, out: Path, folder: StageFolder, data: StageData, *, tell: Tell, options: SftOptions
) -> SftResult:
    """Restore, make the steps that are left, and write the result when they are made."""
    pace, identity = Pace(), identity_of(run_file, data.train.key)
    tell(report_data(run_file, data))
    engine = open_engine(as_stage(run_file), choose_device(options.device), folder.checkpoints)
    steps = StageSteps(
        run_file.sft, data, engine, save=lambda state: folder.save(engine, state, identity), tell=tell
    )
    state = steps.run(folder.restore_latest(engine, identity), options.stop, pace)
    is_finished = steps.is_over(state)
    if is_finished:
        with staged_folder(out) as staging:
            export_model(engine, staging)
            data.tokenizer.save(staging)
            content = {"schema_version": SCHEMA_VERSION, "identity": identity, "num_steps": data.num_steps}
            (staging / RESULT_FILE).write_bytes(canonical_json({**content, "state": asdict(state)}))
        folder.remove()
    engine.close()
    return _result(out, state, data.num_steps, is_finished=is_finished, seconds=pace.seconds)


def _result(
    out: Path, state: StageState, num_steps: int, *, is_finished: bool, seconds: float = 0.0
) -> SftResult:
    return SftResult(
        folder=out,
        is_finished=is_finished,
        step=state.step,
        num_steps=num_steps,
        loss=state.loss,
        num_tokens=state.num_tokens,
        seconds=seconds,
        holdout_loss=state.holdout.loss if state.holdout else None,
    )


def _find_result(out: Path, identity: Identity) -> SftResult | None:
    """What an earlier call with the same identity left as its result."""
    path = out / RESULT_FILE
    content = read_json(path) if path.is_file() else {}
    if content.get("identity") != identity:
        return None
    return _result(out, read_state(content, path), int(str(content["num_steps"])), is_finished=True)
