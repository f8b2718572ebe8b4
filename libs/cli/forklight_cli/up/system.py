"""The running system: Redis and the services, started in order, watched, each started again when it dies."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from forklight_cli.run_folder import SystemRecord, write_system
from forklight_cli.up.plan import Kind, SystemPlan
from forklight_cli.up.process import ManagedProcess, ProcessState, RestartPolicy
from forklight_cli.up.ready import is_ready
from forklight_cli.up.signals import StopSignals
from forklight_core.errors import UnavailableError
from forklight_core.redis_server import EmbeddedRedis

READY_DEADLINE_S = 120.0
CHECK_EVERY_S = 0.2
Report = Callable[[str], None]


class System:
    """All children of one `forklight up`."""

    def __init__(
        self,
        plan: SystemPlan,
        *,
        redis: EmbeddedRedis | None,
        lock: int,
        policy: RestartPolicy | None = None,
        report: Report,
    ) -> None:
        self.plan = plan
        self.redis = redis
        self.report = report
        inherit = (lock,) if lock >= 0 else ()
        self.processes = {
            process.name: ManagedProcess(
                process, plan.folder.log_of(process.name), policy=policy, inherit=inherit
            )
            for process in plan.processes
        }
        self._redis_url = plan.processes[0].environment.get("FORKLIGHT_REDIS_URL", "")

    def of_kind(self, *kinds: Kind) -> list[ManagedProcess]:
        """The children of some kinds."""
        return [process for process in self.processes.values() if process.plan.kind in kinds]

    def start(self, *kinds: Kind) -> None:
        """Start the children of some kinds."""
        for child in self.of_kind(*kinds):
            child.start()
        self.record()

    def await_ready(self, kind: Kind, stops: StopSignals) -> None:
        """Wait until the essential children of a kind serve, or until asked to stop."""
        waiting = [child for child in self.of_kind(kind) if child.plan.essential]
        deadline = time.monotonic() + READY_DEADLINE_S
        while waiting and not stops.wait(CHECK_EVERY_S):
            self.check()
            lost = self.lost()
            if lost:
                raise UnavailableError(f"{lost.plan.name} does not start; its log is {lost.log_path}")
            waiting = [child for child in waiting if not _ready(child)]
            if waiting and time.monotonic() > deadline:
                raise UnavailableError(_not_ready(waiting[0]))

    def check(self) -> None:
        """Look after every child once: notice deaths, start again what is due."""
        if self.redis and self.redis.process.poll() is not None:
            self.report(
                f"redis ended with code {self.redis.process.returncode}: starting it again on its port"
            )
            self.redis.restart()
        changed = False
        for child in self.processes.values():
            happened = child.check()
            if happened:
                self.report(happened)
                changed = True
        if changed:
            self.record()

    def lost(self) -> ManagedProcess | None:
        """An essential child that was given up, if there is one."""
        given_up = (child for child in self.processes.values() if child.state is ProcessState.GIVEN_UP)
        return next((child for child in given_up if child.plan.essential), None)

    def trainer_has_ended(self) -> bool:
        """Whether the trainer ended by itself, without an error."""
        trainers = self.of_kind(Kind.TRAINER)
        return bool(trainers) and all(child.state is ProcessState.ENDED for child in trainers)

    def revive_trainer(self) -> None:
        """Somebody told the trainer to end, and the run is not over."""
        for child in self.of_kind(Kind.TRAINER):
            self.report(child.revive())

    def record(self) -> None:
        """Write down who runs where, for `forklight status` and its siblings."""
        pids = {name: child.pid for name, child in self.processes.items() if child.pid}
        if self.redis:
            pids["redis"] = self.redis.process.pid
        record = SystemRecord(
            run_id=self.plan.run_id,
            supervisor=os.getpid(),
            redis_url=self._redis_url,
            addresses=self.plan.addresses,
            pids=pids,
        )
        write_system(self.plan.folder, record)

    def kill(self) -> None:
        """End everything now."""
        for child in self.processes.values():
            child.kill()
        if self.redis:
            self.redis.stop()


def _ready(child: ManagedProcess) -> bool:
    return child.state is ProcessState.RUNNING and is_ready(child.plan)


def _not_ready(child: ManagedProcess) -> str:
    return (
        f"{child.plan.name} did not become ready at {child.plan.address} within {READY_DEADLINE_S:.0f} s; "
        f"its log is {child.log_path}\n{child.log_tail()}"
    )
