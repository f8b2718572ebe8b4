"""Several addresses a worker kind: every question about a sample goes to the next one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forklight_core.errors import ConfigError
from forklight_reward.front.route import Case, Router, TaskKind
from forklight_reward.ports import Judge, Outcome, Sandbox, Verifier


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Routers side by side; where a kind has fewer workers than there are routers, some share one."""

    routers: tuple[Router, ...]
    num_workers: Mapping[str, int]
    """By task kind; of kinds not named there is one."""

    async def route(self, case: Case, timeout_s: float, turn: int) -> Outcome:
        """One question to the worker whose turn it is."""
        return await self.routers[turn % self.num_workers.get(case.spec.kind, 1)].route(case, timeout_s)


def fleet_of(verifiers: Sequence[Verifier], sandboxes: Sequence[Sandbox], judges: Sequence[Judge]) -> Fleet:
    """The fleet of these workers."""
    workers = {
        TaskKind.MATH: len(verifiers),
        TaskKind.CODE: len(sandboxes),
        TaskKind.GYM: len(sandboxes),
        TaskKind.JUDGE: len(judges),
    }
    if not all(workers.values()):
        raise ConfigError("a front needs the address of at least one verifier, one sandbox and one judge")
    routers = tuple(
        Router(
            verifier=verifiers[index % len(verifiers)],
            sandbox=sandboxes[index % len(sandboxes)],
            judge=judges[index % len(judges)],
        )
        for index in range(max(workers.values()))
    )
    return Fleet(routers=routers, num_workers={kind.value: number for kind, number in workers.items()})
