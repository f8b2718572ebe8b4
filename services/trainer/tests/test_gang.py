"""A sharded trainer of two processes against one process: loss, norm, weights, checkpoints, publication."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from services.trainer.tests.gang import run_gang
from services.trainer.tests.gang_rank import Job

pytest.importorskip("deepspeed", reason="the extra deepspeed is not installed")

EXACT = 3e-6
"""fp32: sums over two processes in another order."""
JOBS = (
    Job(name="zero1-bf16", zero_stage=1, dtype="bfloat16", clip=1e9),
    Job(name="zero1-experts", zero_stage=1, expert_parallel=2),
    Job(name="zero2-states", zero_stage=2, clip=0.1, sequence_parallel=2, lightning="states"),
    Job(name="zero3-bf16", zero_stage=3, dtype="bfloat16", clip=1e9),
    Job(
        name="zero3-all",
        zero_stage=3,
        sequence_parallel=2,
        expert_parallel=2,
        recomputes=True,
        adds_router_loss=True,
    ),
)
FOUR = (
    Job(name="experts4-tokens2", zero_stage=3, expert_parallel=4, sequence_parallel=2),
    Job(name="experts2-tokens4", zero_stage=3, expert_parallel=2, sequence_parallel=4, recomputes=True),
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    return run_gang(tmp_path_factory.mktemp("gang"), JOBS, num_ranks=2)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_two_processes_learn_as_one(found: dict[str, dict[str, float]], job: Job) -> None:
    figures = found[job.name]
    # A CPU's product of half of the rows may round otherwise; of all of them it may not.
    assert figures["first_logprobs"] <= (0.0 if job.sequence_parallel == 1 else 2e-6)
    assert figures["loss"] < EXACT and figures["norm"] < EXACT
    assert figures["score"] < (0.1 if job.dtype == "bfloat16" else 2e-5)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_a_checkpoint_goes_on_at_any_number_of_processes(
    found: dict[str, dict[str, float]], job: Job
) -> None:
    figures = found[job.name]
    assert figures["resumed_norm"] == 0.0 and figures["resumed_weights"] == 0.0
    assert figures["to_plain_norm"] < EXACT and figures["from_plain_norm"] < EXACT
    assert figures["to_plain_weights"] < (0.01 if job.dtype == "bfloat16" else 2e-5)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_every_tensor_is_published_once_and_bad_gradients_are_refused(
    found: dict[str, dict[str, float]], job: Job
) -> None:
    figures = found[job.name]
    assert figures["num_published"] > 60
    assert figures["published"] < (0.01 if job.dtype == "bfloat16" else 2e-5)
    assert figures["refuses_nan"] == 1.0


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_a_published_version_is_scored_as_a_pod_would_after_the_weights_have_moved(
    found: dict[str, dict[str, float]], job: Job
) -> None:
    figures = found[job.name]
    assert figures["version_is_plain"] == 0.0
    is_whole = job.sequence_parallel == job.expert_parallel == 1
    assert figures["version_is_live"] <= (0.0 if is_whole else 2e-6)
    assert figures["version_has_moved"] > 1e-3


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_a_full_disk_elsewhere_is_waited_out_and_errors_keep_their_kind(
    found: dict[str, dict[str, float]], job: Job
) -> None:
    figures = found[job.name]
    assert figures["num_written_at_last"] == figures["num_published"]
    assert figures["errors_keep_their_kind"] == 1.0


def test_four_processes_learn_as_one_where_key_heads_run_out(tmp_path: Path) -> None:
    for figures in run_gang(tmp_path, FOUR, num_ranks=4).values():
        assert figures["loss"] < EXACT and figures["norm"] < EXACT and figures["published"] < 2e-5
        assert figures["resumed_weights"] == 0.0 and figures["to_plain_weights"] < 2e-5


def test_layouts_that_cannot_be_are_refused() -> None:
    from forklight_core.errors import ConfigError
    from forklight_core.runfile.schema import TrainerSection
    from forklight_trainer.adapters.deepspeed.layout import plan_layout

    trainer = TrainerSection(engine="deepspeed", processes=4, sequence_parallel=3)
    with pytest.raises(ConfigError, match="sequence_parallel = 3 does not divide the trainer's 4 processes"):
        plan_layout(trainer, 4)
    with pytest.raises(ConfigError, match="trainer.processes = 4, and 2 were started"):
        plan_layout(trainer, 2)


def test_failures_become_one_error_that_is_tried_again_only_if_all_may_go_away() -> None:
    from forklight_core.errors import BusyError, PreconditionError, UnavailableError, WeightsError
    from forklight_trainer.adapters.deepspeed.gang import Failure, join_failures

    full = Failure.of(OSError(errno.ENOSPC, "No space left on device"), 1)
    away, torn = Failure.of(UnavailableError("store is away"), 2), Failure.of(WeightsError("torn"), 3)
    assert full is not None and away is not None and torn is not None
    joined = join_failures([full, away])
    assert type(joined) is BusyError
    assert str(joined).startswith("process 1: no room on its disk") and "process 2: store is away" in str(
        joined
    )
    assert type(join_failures([full, torn])) is WeightsError
    assert type(join_failures([Failure(rank=0, kind="Strange", message="?")])) is PreconditionError
    assert Failure.of(OSError(errno.EIO, "Input/output error"), 1) is None
