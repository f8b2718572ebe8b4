"""The supervised cold start in a process of its own, so that the caller stays free of torch.

Child: `python -m forklight_cli.cold_start RUN.toml OUT`, one JSON line an event; told to stop (SIGTERM), it
saves and says so. Parent: `run_cold_start`, `check_demonstrations`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from forklight_cli.up.plan import gang_arguments
from forklight_core.child import die_with_parent
from forklight_core.errors import ConfigError, ForklightError, UnavailableError, all_errors
from forklight_core.runfile import RunFile, load_run_file

if TYPE_CHECKING:
    from forklight_trainer.sft.events import Event

SftEvent = Mapping[str, object]
"""`event` says which kind; the rest are the fields of a record in `forklight_trainer.sft.events`."""
Progress = Callable[[SftEvent], None]
CHILD = ("-m", "forklight_cli.cold_start")
DEVICES = ("auto", "cpu", "cuda")
ERROR_EVENT = "error"


def run_cold_start(
    run_file: Path, out: Path, *, log: Path, progress: Progress, resume: bool = False
) -> SftEvent:
    """Train on the demonstrations of a run file; the last event, which says whether `out` is there."""
    trainer = load_run_file(run_file).trainer
    many = ("-m", *gang_arguments(trainer.processes)) if trainer.engine == "deepspeed" else ()
    return _run_child(
        (*many, *CHILD, str(run_file), str(out), *(["--resume"] if resume else [])), log, progress
    )


def check_demonstrations(run_file: Path, *, log: Path, progress: Progress) -> SftEvent:
    """Check the demonstrations of a run file; the event with what was found. Nothing is trained."""
    return _run_child((*CHILD, str(run_file)), log, progress)


def _run_child(arguments: Sequence[str], log: Path, progress: Progress) -> SftEvent:
    """Every event of the child is told, the last one returned; an error event is raised.

    Whatever `progress` raises (or Ctrl-C here) has the child save and end first.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    last: SftEvent = {}
    with (
        log.open("ab") as errors,
        subprocess.Popen(
            die_with_parent([sys.executable, *arguments]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # the terminal's Ctrl-C is for the parent alone
        ) as child,
    ):
        assert child.stdout is not None
        try:
            for line in child.stdout:
                last = json.loads(line)
                if last["event"] != ERROR_EVENT:
                    progress(last)
        except BaseException:
            child.terminate()
            child.stdout.read()
            child.wait()
            raise
    if last.get("event") == ERROR_EVENT:
        raise all_errors().get(str(last["kind"]), ForklightError)(str(last["message"]))
    if child.returncode or not last:
        tail = "\n".join(f"    {line}" for line in log.read_text(errors="replace").splitlines()[-5:])
        raise UnavailableError(f"the cold start ended with code {child.returncode}; its log is {log}\n{tail}")
    return last


def main(arguments: Sequence[str] | None = None) -> None:
    """The child. Events alone go to its output; what anything else prints there joins the log."""
    given = _parse(arguments)
    told = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        _do(given, load_run_file(given.run_file), told)
    except (ForklightError, OSError) as error:
        known = [each for each in type(error).__mro__ if each.__module__ == ForklightError.__module__]
        kind = (known or [UnavailableError])[0].__name__
        told.write(json.dumps({"event": ERROR_EVENT, "kind": kind, "message": str(error)}) + "\n")
        sys.exit(1)


def _do(given: argparse.Namespace, run_file: RunFile, told: TextIO) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    device = os.environ.get("FORKLIGHT_DEVICE", "auto")
    if device not in DEVICES:
        raise ConfigError(f"FORKLIGHT_DEVICE is {device!r}: set it to one of {', '.join(DEVICES)}")
    from forklight_trainer.sft.stage import SftOptions, check_sft, follow_sft, run_sft

    if given.out is None:
        check_sft(run_file, _teller(told, stop))
    elif int(os.environ.get("RANK", "0")):
        follow_sft(run_file, device)
    else:
        options = SftOptions(device=device, resume=given.resume, stop=stop)
        run_sft(run_file, given.out, _teller(told, stop), options)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m forklight_cli.cold_start")
    parser.add_argument("run_file", type=Path)
    parser.add_argument("out", type=Path, nargs="?", help="Model folder to write; without it, only check.")
    parser.add_argument("--resume", action="store_true")
    return parser.parse_args(arguments)


def _teller(told: TextIO, stop: threading.Event) -> Callable[[Event], None]:
    """Writes events; a check of the files, which has nothing to save, ends when it is told to stop."""
    from forklight_trainer.sft.check import CheckProgress
    from forklight_trainer.sft.events import event_line

    def tell(event: Event) -> None:
        told.write(event_line(event) + "\n")
        if stop.is_set() and isinstance(event, CheckProgress):
            sys.exit(128 + signal.SIGTERM)

    return tell


if __name__ == "__main__":
    main()
