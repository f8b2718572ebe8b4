"""`python -m forklight_reward front|verifier|sandbox|judge`: one role of the reward service."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from forklight_core.lifecycle import EXIT_BAD_INPUT, run_service
from forklight_core.logs import setup_logging
from forklight_core.settings import ServiceSettings, describe_settings, load_settings
from forklight_core.telemetry import setup_telemetry
from forklight_reward.app import run_front, run_judge, run_sandbox, run_verifier
from forklight_reward.settings import FrontSettings, JudgeSettings, SandboxSettings, VerifierSettings


def prepare(role: str, settings: ServiceSettings) -> Callable[[], None]:
    """Logging and telemetry under the role's name; returns what flushes and stops them."""
    setup_logging(f"reward-{role}", settings.pod)
    return setup_telemetry(f"reward-{role}", settings.pod, settings.otlp_endpoint)


def start(role: str, settings: ServiceSettings, main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run one role until it ends."""
    shutdown = prepare(role, settings)
    try:
        run_service(main)
    finally:
        shutdown()


def start_front() -> None:
    settings = load_settings(FrontSettings)
    start("front", settings, lambda stop: run_front(settings, stop))


def start_verifier() -> None:
    settings = load_settings(VerifierSettings)
    start("verifier", settings, lambda stop: run_verifier(settings, stop))


def start_sandbox() -> None:
    settings = load_settings(SandboxSettings)
    start("sandbox", settings, lambda stop: run_sandbox(settings, stop))


def start_judge() -> None:
    settings = load_settings(JudgeSettings)
    start("judge", settings, lambda stop: run_judge(settings, stop))


@dataclass(frozen=True, slots=True)
class Role:
    """A role, its settings and its start."""

    settings: type[ServiceSettings]
    start: Callable[[], None]


ROLES = {
    "front": Role(FrontSettings, start_front),
    "verifier": Role(VerifierSettings, start_verifier),
    "sandbox": Role(SandboxSettings, start_sandbox),
    "judge": Role(JudgeSettings, start_judge),
}


def help_text(names: list[str]) -> str:
    """What the roles are and what each reads."""
    parts = [f"{name}:\n{describe_settings(ROLES[name].settings)}\n" for name in names]
    return "\n".join([f"{__doc__}\n", *parts])


def main() -> None:
    """Choose the role by the first argument."""
    arguments = sys.argv[1:]
    named = [name for name in arguments if name in ROLES]
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(help_text(named or list(ROLES)))
        return
    if len(arguments) != 1 or not named:
        sys.stderr.write(
            f"expected one role of {', '.join(ROLES)}, got {' '.join(arguments) or 'nothing'}; see --help\n"
        )
        sys.exit(EXIT_BAD_INPUT)
    ROLES[named[0]].start()


if __name__ == "__main__":
    main()
