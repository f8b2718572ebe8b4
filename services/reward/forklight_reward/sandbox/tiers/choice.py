"""Opens the runner that the run file names, and proves it before it serves."""

from __future__ import annotations

import logging
from collections.abc import Callable

from pydantic import ValidationError

from forklight_core.errors import ConfigError, UnavailableError
from forklight_core.runfile.schema import SandboxSection
from forklight_reward.sandbox import self_test
from forklight_reward.sandbox.jail_runner import open_jail_runner
from forklight_reward.sandbox.runner import Runner, Tier
from forklight_reward.sandbox.tiers.container import open_container_runner
from forklight_reward.sandbox.tiers.pod import open_pod_runner
from forklight_reward.sandbox.tiers.process import WARNING, ProcessRunner

logger = logging.getLogger(__name__)

# What a bare process can keep: limits. The rest an operator who allowed it has given away.
NEEDED_OF_PROCESS = frozenset({"accepts honest programs", *self_test.BREAKERS})


def open_runner(section: SandboxSection, *, jails: Callable[[], Runner] = open_jail_runner) -> Runner:
    """The runner of the section's tier, not yet proven; `jails` makes that of tier jail. UnavailableError
    says why there is none.
    """
    match Tier(section.tier):
        case Tier.PROCESS:
            return ProcessRunner(allow_unsafe=section.allow_unsafe)
        case Tier.CONTAINER:
            return open_container_runner(image=section.image, runtime=section.runtime, warm=section.warm)
        case Tier.POD:
            return open_pod_runner(section)
        case Tier.JAIL:
            return jails()


def section_of(*, tier: str, image: str, allow_unsafe: bool) -> SandboxSection:
    """A section from a command line, with nothing kept warm. ConfigError says what is wrong."""
    try:
        return SandboxSection.model_validate(
            {"tier": tier, "image": image, "allow_unsafe": allow_unsafe, "warm": 0}
        )
    except ValidationError as error:
        raise ConfigError(
            f"sandbox: {'; '.join(item['msg'].removeprefix('Value error, ') for item in error.errors())}"
        ) from error


def prove(runner: Runner, *, compiler: str = "") -> None:
    """Run the self-test in the runner's own places. UnavailableError names every check that did not hold."""
    if runner.tier is not Tier.PROCESS:
        self_test.run_self_test(runner, compiler=compiler)
        return
    failed = [check.name for check in self_test.all_checks(compiler=compiler) if not check.passes(runner)]
    if missing := NEEDED_OF_PROCESS.intersection(failed):
        names = ", ".join(sorted(missing))
        raise UnavailableError(f"sandbox self-test failed even for tier process: {names}")
    logger.warning("UNSAFE sandbox serves: %s", WARNING, extra={"open_to_a_program": failed})
