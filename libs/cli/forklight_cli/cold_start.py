"""The supervised cold start in a process of its own, so that the caller stays free of torch.

Child: `python -m forklight_cli.cold_start RUN.toml OUT`, one JSON line a step. Parent: `run_cold_start`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from forklight_core.child import die_with_parent
from forklight_core.errors import ConfigError, ForklightError, UnavailableError

Progress = Callable[[Mapping[str, float]], None]


def run_cold_start(run_file: Path, out: Path, *, log: Path, progress: Progress) -> None:
    """Train on the demonstrations of a run file; `out` is a model folder afterwards."""
    command = [sys.executable, "-m", "forklight_cli.cold_start", str(run_file), str(out)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("ab") as errors,
        subprocess.Popen(
            die_with_parent(command),
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
                progress(json.loads(line))
        except BaseException:
            child.terminate()
            raise
    if child.returncode:
        tail = "\n".join(f"    {line}" for line in log.read_text(errors="replace").splitlines()[-5:])
        error = ConfigError if child.returncode == 2 else UnavailableError
        raise error(f"the cold start ended with code {child.returncode}; its log is {log}\n{tail}")


def main(run_file_path: str, out: str) -> None:
    """The child."""
    from forklight_core.runfile import load_run_file
    from forklight_trainer.sft.stage import SftProgress, run_sft

    def tell(step: SftProgress) -> None:
        sys.stdout.write(json.dumps(asdict(step)) + "\n")
        sys.stdout.flush()

    try:
        run_sft(load_run_file(run_file_path), out, tell)
    except ForklightError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2 if isinstance(error, ValueError) else 1)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
