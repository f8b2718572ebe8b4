"""What happens to a fleet, stage by stage: credit grows, pods join, a quiet look, faults of every kind, a
look at what they cost; at the end everybody drains and the buffer's audit decides.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from forklight_buffer.audit import AuditReport, audit_run
from tests.scale.fleet import Fleet
from tests.scale.observations import Lines, Observer, Window
from tests.scale.world import World

JOIN_S = 60.0
SETTLE_S = 3.0
LAST_TRAINING_S = 15.0
LOOK_S = 1.5
"""Between two looks; children speak every second."""
FREEZE_LEASES = 1.3
TAKEOVER_LEASES = 2.5
RPCS = ("GetPendingSamples", "SaveSegment", "SubmitTrajectories")


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultShares:
    """Parts of the fleet, at least one pod each; 0: none."""

    slow: float = 0.05
    stalled: float = 0.02
    drained: float = 0.05
    kills: bool = True
    freezes: bool = True


@dataclass(slots=True, kw_only=True)
class Faults:
    """What was done to a stage, and what it cost."""

    num_pods: int
    num_killed: int = 0
    num_stalled: int = 0
    num_frozen: int = 0
    num_slow: int = 0
    num_drained: int = 0
    num_leases: int = 0
    """Held by killed, stalled and frozen pods when it happened."""
    takeover_s: float = 0.0
    """Until others had all of them."""
    num_not_taken: int = 0
    """Still in their name after that: nobody else had room, and the lease is renewed when they come back."""
    drain_s: float = 0.0
    num_redelivered: int = 0
    tokens_resumed: int = 0
    lost_by_healthy: int = 0
    after: Window = field(default_factory=Window)


@dataclass(slots=True, kw_only=True)
class Stage:
    """One size of the fleet."""

    num_pods: int
    buffer_away_s: float = 0.0
    join_s: float = 0.0
    """From the order to the last new pod's first lease."""
    num_without_work: int = 0
    lost_by_healthy: int = 0
    quiet: Window = field(default_factory=Window)
    faults: Faults | None = None


@dataclass(slots=True, kw_only=True)
class Ending:
    """What the audit and the sums say."""

    audit: AuditReport
    num_trained: int
    num_trained_twice: int
    tokens_drawn: int
    tokens_accepted: int
    tokens_saved: int
    num_not_drained: int
    failures: Counter[str]

    @property
    def tokens_wasted(self) -> int:
        """Drawn, and neither in a sample that was accepted nor saved to go on from."""
        return max(0, self.tokens_drawn - self.tokens_accepted - self.tokens_saved)

    @property
    def is_clean(self) -> bool:
        return self.audit.ok and not self.num_trained_twice


class Simulation:
    """A world, a fleet in it, and somebody who looks on."""

    def __init__(self, world: World, seed: int, say: Callable[[str], None]) -> None:
        self.world, self.say = world, say
        self.lines = Lines([world.hands])
        self.fleet = Fleet(world, self.lines)
        self.observer = Observer(world, self.lines)
        self._chance = random.Random(seed)
        self._last_pods = 0
        self.failure = ""
        """Why it was not seen through to the end."""

    def run_stage(self, num_pods: int, *, quiet_s: float, faults: FaultShares | None) -> Stage:
        """Grow to so many pods and see how it goes."""
        stage = Stage(num_pods=num_pods)
        if self._last_pods:
            stage.buffer_away_s = self.world.allow(num_pods)
        self._last_pods = num_pods
        stage.join_s, stage.num_without_work = self._join(num_pods)
        self._watch(min(SETTLE_S, self.world.shape.lease_s))
        stage.quiet = self._watch(quiet_s)
        stage.lost_by_healthy = self._lost_by_healthy(stage.quiet)
        if faults is not None:
            stage.faults = self._break(faults)
        return stage

    def end(self) -> Ending:
        """Everybody leaves; what is complete is trained; the books are closed and audited."""
        self.say("draining all pods")
        self.fleet.close()
        self._train_rest()
        self.lines.children[0].close(30.0)
        self.lines.read()
        self.world.stop_buffer()
        audit = audit_run(self.world.folder, self.world.server.url)
        totals = self.lines.totals
        failures = Counter({name: count for name, count in totals.items() if name.endswith("Error")})
        return Ending(
            audit=audit,
            num_trained=totals["trained"],
            num_trained_twice=totals["trained_twice"],
            tokens_drawn=totals["drawn"],
            tokens_accepted=totals["tokens_accepted"],
            tokens_saved=audit.num_saved_tokens,
            num_not_drained=len(self.fleet.not_drained),
            failures=failures,
        )

    def close(self) -> None:
        """Leave nothing behind."""
        self.fleet.kill_all()
        self.observer.redis.close()

    def _watch(self, seconds: float) -> Window:
        window = self.observer.watch(seconds)
        self.fleet.note_ended()
        return window

    def _lost_by_healthy(self, window: Window) -> int:
        return sum(count for pod, count in window.lost.items() if pod not in self.fleet.faulted)

    def _join(self, num_pods: int) -> tuple[float, int]:
        """Seconds until every new pod has a lease, and how many have none when the time is over."""
        self.fleet.make_room(num_pods, fewest_hosts=self.world.shape.fewest_hosts)
        started = time.monotonic()
        joined = set(self.fleet.grow(num_pods))
        self.say(f"{len(joined)} pods join")

        def are_at_work() -> bool:
            self.lines.read()
            self.fleet.note_ended()
            return joined <= set(self.lines.took)

        self.world.check()
        while not are_at_work() and time.monotonic() - started < JOIN_S:
            time.sleep(0.1)
        return time.monotonic() - started, len(joined - set(self.lines.took))

    def _break(self, shares: FaultShares) -> Faults:
        """Everything at once: whoever is left has to see it through."""
        fleet, lease_s = self.fleet, self.world.shape.lease_s
        self.lines.clear()
        found = Faults(num_pods=len(fleet.pods))
        dead = set(fleet.kill_host()) if shares.kills and len(fleet.alive) > 1 else set()
        frozen = fleet.freeze_host() if shares.freezes and len(fleet.alive) > 1 else None
        stalled, slow, drained = (
            self._pick(share) for share in (shares.stalled, shares.slow, shares.drained)
        )
        stuck = dead | set(stalled) | (frozen.pods if frozen is not None else set())
        fleet.stall(stalled)
        fleet.slow(slow)
        fleet.faulted |= set(slow)
        found.num_killed, found.num_stalled, found.num_slow = len(dead), len(stalled), len(slow)
        found.num_frozen = len(frozen.pods) if frozen is not None else 0
        found.num_leases = self.observer.held_by(stuck)
        self.say(
            f"killed {len(dead)}, stopped {found.num_frozen}, stalled {len(stalled)}, slowed {len(slow)}, "
            f"draining {len(drained)} pods"
        )
        started = time.monotonic()
        found.num_drained, found.drain_s = len(drained), fleet.drain(drained)
        fleet.make_room(found.num_pods, fewest_hosts=1)
        joined = fleet.grow(found.num_pods)  # what has died is replaced, as a Deployment does it
        self.say(f"{len(joined)} pods take their place")
        while (
            left := self.observer.held_by(stuck)
        ) and time.monotonic() - started < TAKEOVER_LEASES * lease_s:
            time.sleep(0.2)
        found.takeover_s, found.num_not_taken = time.monotonic() - started, left
        if frozen is not None:
            time.sleep(max(0.0, started + FREEZE_LEASES * lease_s - time.monotonic()))
            fleet.thaw(frozen)
        self._add_costs(found)
        found.after = self._watch(lease_s)
        found.lost_by_healthy += self._lost_by_healthy(found.after)
        found.num_redelivered += found.after.counts["redelivered"]
        found.tokens_resumed += found.after.counts["tokens_resumed"]
        return found

    def _add_costs(self, found: Faults) -> None:
        self.lines.read()
        self.fleet.note_ended()
        found.num_redelivered = self.lines.counts["redelivered"]
        found.tokens_resumed = self.lines.counts["tokens_resumed"]
        lost = self.lines.lost.items()
        found.lost_by_healthy = sum(count for pod, count in lost if pod not in self.fleet.faulted)

    def _pick(self, share: float) -> list[str]:
        """Healthy pods of hosts that run: a share of them, and at least one unless none is asked for."""
        choice = self.fleet.healthy
        number = max(1, round(share * len(choice))) if share else 0
        picked = self._chance.sample(choice, min(number, len(choice)))
        self.fleet.faulted |= set(picked)
        return picked

    def _train_rest(self) -> None:
        """Until no batch is full any more, or the time is over."""
        end = time.monotonic() + LAST_TRAINING_S
        while time.monotonic() < end:
            self.lines.clear()
            time.sleep(LOOK_S)
            self.lines.read()
            if not self.lines.counts["trained"] and not self.lines.counts["verdicts"]:
                return
