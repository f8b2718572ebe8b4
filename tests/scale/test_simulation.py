"""A small fleet through every fault, in seconds; and the sleeping engine held to what all engines promise."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from forklight_rollout.ports import EngineLimits
from forklight_rollout.weights.manifest import PublishedWeights
from services.rollout.tests import engine_contract
from services.rollout.tests.engine_contract import EngineCase
from tests.scale.engine import Manner, SleepingEngine
from tests.scale.report import to_json, window_figures
from tests.scale.scenario import FaultShares, Simulation
from tests.scale.simulate import main, read_plan
from tests.scale.world import Shape, open_world

LIMITS = EngineLimits(num_sequences=4, max_tokens=200, vocabulary_size=103)
QUICK = Manner(tokens_per_s=4000.0, mean_tokens=8.0, sigma=0.8, tick_s=0.002)
SMALL = Shape(
    group_size=4,
    num_sequences=4,
    mean_tokens=16.0,
    tokens_per_s=16.0,
    segment_tokens=8,
    lease_s=1.5,
    drain_s=1.0,
    groups_per_step=4,
    steps_per_version=4,
    pods_per_host=20,
    fewest_hosts=2,
)
CHECKS = (
    engine_contract.check_a_partial_response_goes_on_as_the_whole,
    engine_contract.check_draws_do_not_depend_on_what_else_runs,
    engine_contract.check_a_stop_token_ends_on_the_exact_token,
    engine_contract.check_length_counts_the_prefix,
    engine_contract.check_a_full_engine_loses_nobody,
    engine_contract.check_nothing_of_a_retired_sequence_is_delivered,
    engine_contract.check_versions_switch_once_over_a_swap,
    engine_contract.check_logprobs_are_aligned_and_never_positive,
)


@dataclass(frozen=True)
class Named:
    """All that a sleeping engine looks at."""

    version: int


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_the_sleeping_engine_keeps_the_contract_of_engines(check: Callable[[EngineCase], None]) -> None:
    weights: tuple[PublishedWeights, PublishedWeights] = (Named(0), Named(1))  # type: ignore[assignment]
    check(EngineCase(make=lambda: SleepingEngine(LIMITS, QUICK), weights=weights, is_model=False))


@pytest.mark.chaos
def test_twenty_pods_lose_nothing_when_some_die_hang_slow_down_and_leave(tmp_path: Path) -> None:
    said: list[str] = []
    with open_world(tmp_path, SMALL, 20) as world:
        simulation = Simulation(world, seed=3, say=said.append)
        try:
            stage = simulation.run_stage(
                20, quiet_s=1.5, faults=FaultShares(slow=0.05, stalled=0.05, drained=0.05, freezes=False)
            )
            ending = simulation.end()
        finally:
            simulation.close()
    faults = stage.faults
    assert faults is not None
    assert (faults.num_killed, faults.num_stalled, faults.num_slow, faults.num_drained) == (10, 1, 1, 1)
    assert faults.num_redelivered >= faults.num_leases - faults.num_not_taken > 0, said
    assert ending.audit.violations == ()
    assert (ending.num_trained_twice, ending.is_clean) == (0, True)
    assert ending.num_trained >= 16
    assert ending.tokens_accepted <= ending.tokens_drawn
    figures = window_figures(stage.quiet)
    assert all(figures[name] > 0 for name in ("samples_per_s", "rpc_p99_ms", "redis_mib", "buffer_mib"))
    json.dumps(to_json([stage], ending))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pods", "ten"], "whole numbers"),
        (["--pods", "50,10"], "must rise"),
        (["--minutes", "0"], "--minutes"),
        (["--out", "/no/such/folder/x.json"], "there is no folder"),
    ],
)
def test_bad_arguments_are_refused_by_name(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        read_plan(arguments)
    assert said in capsys.readouterr().err


def test_a_dry_run_says_what_would_be_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dry-run", "--pods", "10,20"]) == 0
    assert "pods 10, 20" in capsys.readouterr().out
