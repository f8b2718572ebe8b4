"""`python -m forklight_rollout`: one rollout pod."""

from __future__ import annotations

import asyncio

from forklight_core.lifecycle import start_service
from forklight_rollout.settings import RolloutSettings


async def main(settings: RolloutSettings, stop: asyncio.Event) -> None:
    """Imported late: torch takes a second, and wrong settings are told before."""
    from forklight_rollout.app import run

    await run(settings, stop)


if __name__ == "__main__":
    start_service("rollout", __doc__ or "", RolloutSettings, main)
