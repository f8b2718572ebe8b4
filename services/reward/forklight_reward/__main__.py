"""`python -m forklight_reward front|verifier|sandbox|judge`: one role of the reward service."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial

from forklight_core.lifecycle import EXIT_BAD_INPUT, start_service
from forklight_reward.app import run_front, run_judge, run_sandbox, run_verifier
from forklight_reward.settings import FrontSettings, JudgeSettings, SandboxSettings, VerifierSettings

ABOUT = __doc__ or ""

ROLES: Mapping[str, Callable[[], None]] = {
    "front": partial(start_service, "reward-front", ABOUT, FrontSettings, run_front),
    "verifier": partial(start_service, "reward-verifier", ABOUT, VerifierSettings, run_verifier),
    "sandbox": partial(start_service, "reward-sandbox", ABOUT, SandboxSettings, run_sandbox),
    "judge": partial(start_service, "reward-judge", ABOUT, JudgeSettings, run_judge),
}


def main() -> None:
    """Choose the role by the first argument; `ROLE --help` lists what it reads from the environment."""
    role = sys.argv[1] if len(sys.argv) > 1 else ""
    if role in ("-h", "--help"):
        sys.stdout.write(f"{ABOUT}\nEach role explains its environment with --help behind its name.\n")
    elif role in ROLES:
        ROLES[role]()
    else:
        sys.stderr.write(f"expected a role, one of {', '.join(ROLES)}; got {role or 'nothing'}\n")
        sys.exit(EXIT_BAD_INPUT)


if __name__ == "__main__":
    main()
