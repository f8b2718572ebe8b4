"""Which judges have passed the canaries. One that has not grades nothing; asking for it starts its check."""

from __future__ import annotations

import asyncio
import logging

from forklight_core.errors import ForklightError, UnavailableError
from forklight_reward.judge.canaries import check_canaries
from forklight_reward.judge.contract import JudgeEngine

logger = logging.getLogger(__name__)


class Prover:
    """By version: another prompt or way to judge is another judge."""

    def __init__(self, *, timeout_s: float, pause_s: float) -> None:
        self._timeout_s = timeout_s
        self._pause_s = pause_s
        self._proven: set[str] = set()
        self._checks: dict[str, asyncio.Task[None]] = {}

    def require(self, engine: JudgeEngine) -> None:
        """UnavailableError while it has not passed; asking again later helps if it does then."""
        if engine.version in self._proven:
            return
        if engine.version not in self._checks:
            self._checks[engine.version] = asyncio.create_task(self._check(engine))
        raise UnavailableError(f"judge {engine.version} has not passed the canaries: it grades nothing")

    async def prove(self, engine: JudgeEngine) -> int:
        """Check it now, unless it has passed: how many answers it judged. PreconditionError when it pays for
        worthless ones.
        """
        if engine.version in self._proven:
            return 0
        num_judged = await check_canaries(engine, timeout_s=self._timeout_s)
        self._proven.add(engine.version)
        return num_judged

    async def close(self) -> None:
        """End what runs."""
        checks = list(self._checks.values())
        for check in checks:
            check.cancel()
        await asyncio.gather(*checks, return_exceptions=True)

    async def _check(self, engine: JudgeEngine) -> None:
        """In the background; after a failure the next check waits."""
        try:
            await self.prove(engine)
        except ForklightError as error:
            logger.error("judge does not grade", extra={"judge": engine.version, "reason": str(error)})
            await asyncio.sleep(self._pause_s)
        finally:
            self._checks.pop(engine.version, None)
