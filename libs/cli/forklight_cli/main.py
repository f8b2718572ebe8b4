"""Entry point of `forklight`: imports only the called command; errors are one message and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass

import click

from forklight_cli.exits import ExitCode, exit_code_of
from forklight_core.errors import ForklightError

EPILOG = "Exit codes: 0 done, 1 a check or run failed, 2 wrong input, 3 something needed does not answer."


@dataclass(frozen=True, slots=True)
class Entry:
    """A command that is not imported yet."""

    module: str
    attribute: str
    summary: str


def _entry(name: str, summary: str, *, module: str = "") -> tuple[str, Entry]:
    return name, Entry(f"forklight_cli.commands.{module or name}", name, summary)


COMMANDS = dict(
    (
        _entry("demo", "Teach a tiny model arithmetic on this machine, from nothing to a held-out reward."),
        _entry("up", "Start the whole system of a run file in this terminal."),
        _entry("resume", "Go on with the run of a run folder.", module="up"),
        _entry("pause", "Let a run finish its step and wait.", module="control"),
        _entry("rollback", "Have a run go on from an older checkpoint."),
        _entry("sft", "Supervised cold start of a run file."),
        _entry("status", "Where a run stands."),
        _entry("audit", "Prove that the ledger, the queues and the checkpoints of a run agree."),
        _entry("steer", "What a run file's length window and alarms say of a recorded run."),
        _entry("track", "Send a run's step records to TensorBoard, Weights & Biases or MLflow."),
        _entry("scale", "How many pods a workload of a cluster has."),
        _entry("queue", "Dead letters of a run: list them, open their prompts again."),
        _entry("config", "Check, explain and print run files."),
        _entry("plan", "Memory, time and cost of a run on given GPUs, and what does not fit."),
        _entry("doctor", "Check this machine, each problem with the command that mends it."),
        _entry("score", "Log-probabilities of given tokens under a checkpoint."),
        _entry("generate", "Sample a response from a checkpoint."),
        _entry("verify", "Compare an answer with a reference, as the reward service does."),
        _entry("verdict", "Verdicts of a run: show one, score it again, prove that none was changed."),
        _entry("logic", "Write logic puzzles as a prompt file; list their tasks."),
        _entry("data", "Import, curate, count and split prompts with their answers."),
        _entry("judge", "Choose reference answers; check a model as a judge."),
        _entry("sandbox", "Run programs as the reward service does: jailed and limited."),
        _entry("repo", "Repository tasks: prove, export and import them."),
    )
)


class LazyGroup(click.Group):
    """Lists commands from a table and imports only the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(entry.module), entry.attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table's summaries: help imports no command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="forklight-cli", prog_name="forklight")
def cli() -> None:
    """Forklight trains reasoning models with reinforcement learning (MiniMax-M1's recipe)."""


def main() -> None:
    """Run the command line; errors of our own tree are messages, not tracebacks."""
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("aborted", err=True)
        sys.exit(ExitCode.FAILED)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.BAD_INPUT)
    except ForklightError as error:
        click.echo(f"forklight: {error}", err=True)
        sys.exit(exit_code_of(error))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("forklight"):
            raise
        click.echo(f"forklight: the package {error.name} is missing: run `make setup`", err=True)
        sys.exit(ExitCode.UNAVAILABLE)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.FAILED)
    except OSError as error:
        click.echo(f"forklight: {error}", err=True)
        sys.exit(ExitCode.UNAVAILABLE)
    sys.exit(int(code) if isinstance(code, int) else ExitCode.OK)


if __name__ == "__main__":
    main()
