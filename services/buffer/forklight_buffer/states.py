"""The words for where a sample, a group and the run stand. Numbers are those of the proto."""

from __future__ import annotations

from enum import IntEnum, StrEnum


class State(IntEnum):
    """Where a sample stands."""

    QUEUED = 1
    GENERATED = 2
    SCORED = 3
    READY = 4
    LEASED = 5
    TRAINED = 10
    FILTERED = 11
    STALE = 12
    REWARD_FAILED = 13
    INFRA_FAILED = 14
    CANCELLED = 15

    @property
    def terminal(self) -> bool:
        """Terminal states are final."""
        return self >= State.TRAINED

    @property
    def wire(self) -> str:
        """Its name in the proto."""
        return f"SAMPLE_STATE_{self.name}"


class Status(StrEnum):
    """Where a group stands in Redis."""

    OPEN = "open"
    READY = "ready"
    LEASED = "leased"
    CLOSED = "closed"


class Purpose(IntEnum):
    """What a group is for."""

    TRAIN = 1
    EVALUATE = 2

    @property
    def wire(self) -> str:
        """Its name in the proto."""
        return f"PURPOSE_{self.name}"


class Phase(IntEnum):
    """Where the run stands."""

    RUNNING = 1
    PAUSED = 2
    DRAINING = 3
    FINISHED = 4

    @property
    def wire(self) -> str:
        """Its name in the proto."""
        return f"RUN_PHASE_{self.name}"


class RoundState(StrEnum):
    """Where an evaluation round stands."""

    OPEN = "open"
    COMPLETE = "complete"
    CUT = "cut"
    """The run ended first."""
    SKIPPED = "skipped"
    """It was due while too many others were open."""


class Reason(StrEnum):
    """Why a sample ended, where the state alone does not say. Free text may follow after a colon."""

    ALL_EQUAL = "all_equal"
    TOO_FEW_SCORED = "too_few_scored"
    EVALUATION = "evaluation"
    LEFT_OUT = "left_out"
    STALE_ON_ARRIVAL = "stale_on_arrival"
    STALE_IN_QUEUE = "stale_in_queue"
    STALE_UNFINISHED = "stale_unfinished"
    GENERATION_CANCELLED = "generation_cancelled"
    RUN_FINISHED = "run_finished"
    DEAD_LETTER = "dead_letter"
    BLOB_LOST = "blob_lost"
    BLOB_CORRUPT = "blob_corrupt"
    PROMPT_LOST = "prompt_lost"
    INFRA_ERROR = "infra_error"
    ABSTAIN = "abstain"


class Outcome(IntEnum):
    """What became of a submission."""

    ACCEPTED = 1
    DUPLICATE = 2
    DROPPED = 3

    @property
    def wire(self) -> str:
        """Its name in the proto."""
        return f"SUBMIT_OUTCOME_{self.name}"


def with_detail(reason: Reason, detail: str) -> str:
    """A reason and what a person should know, short enough for a table."""
    text = " ".join(detail.split())[:300]
    return f"{reason}: {text}" if text else str(reason)


def short_reason(reason: str) -> str:
    """The countable part of a reason."""
    return reason.partition(":")[0]
