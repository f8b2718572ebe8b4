"""The one tree of errors.

ForklightError
 |- InvalidInputError     INVALID_ARGUMENT     somebody asked for the impossible (a ValueError too)
 |   `- ConfigError       INVALID_ARGUMENT     run file, settings or model configuration
 |- NotFoundError         NOT_FOUND            an id nobody knows
 |- FencedError           ABORTED              a newer holder of the lease or epoch exists; drop what you have
 |- PreconditionError     FAILED_PRECONDITION  the order was broken: a commit gap, a second terminal state
 |   `- ParityError       FAILED_PRECONDITION  trainer and rollout disagree about probabilities
 |- BusyError             RESOURCE_EXHAUSTED   a bounded queue or the disk is full; try later
 |- UnavailableError      UNAVAILABLE          a peer does not answer; try again
 |   `- VersionSkewError  FAILED_PRECONDITION  a peer of another contract; it passes when one is replaced
 |- DeadlineError         DEADLINE_EXCEEDED    a peer did not answer in time (a TimeoutError too)
 `- DataLossError         DATA_LOSS            bytes are not what they were: blob, weights, checkpoint
     |- WeightsError      DATA_LOSS
     `- CheckpointError   DATA_LOSS

Messages say what, where, why and how to mend it. `forklight_core.rpc` maps the tree to gRPC codes and back.
"""

from __future__ import annotations


class ForklightError(Exception):
    """Everything Forklight raises on purpose."""

    code = "INTERNAL"


class InvalidInputError(ForklightError, ValueError):
    """A person or a caller asked for something impossible."""

    code = "INVALID_ARGUMENT"


class ConfigError(InvalidInputError):
    """A run file, a setting or a model configuration is wrong."""


class NotFoundError(ForklightError, LookupError):
    """An id nobody knows."""

    code = "NOT_FOUND"


class FencedError(ForklightError):
    """A newer holder of the lease or epoch exists."""

    code = "ABORTED"


class PreconditionError(ForklightError):
    """The order of things was broken."""

    code = "FAILED_PRECONDITION"


class ParityError(PreconditionError):
    """Trainer and rollout disagree about the probability of the same tokens."""


class BusyError(ForklightError):
    """A bounded resource is full. `retry_after_s` says when to try again, where somebody can tell."""

    code = "RESOURCE_EXHAUSTED"

    def __init__(self, *words: object, retry_after_s: float | None = None) -> None:
        super().__init__(*words)
        self.retry_after_s = retry_after_s


class UnavailableError(ForklightError, ConnectionError):
    """A peer does not answer."""

    code = "UNAVAILABLE"


class VersionSkewError(UnavailableError):
    """A peer is built for another contract: nothing it has is lost, it waits as if the other were away."""

    code = "FAILED_PRECONDITION"


class DeadlineError(ForklightError, TimeoutError):
    """A peer did not answer in time."""

    code = "DEADLINE_EXCEEDED"


class DataLossError(ForklightError):
    """Bytes are not what they were when they were written."""

    code = "DATA_LOSS"


class WeightsError(DataLossError):
    """Published weights are missing, torn or not what their manifest says."""


class CheckpointError(DataLossError):
    """A checkpoint is missing, torn or of another architecture."""


def all_errors() -> dict[str, type[ForklightError]]:
    """Every class of the tree by name; the wire carries the name."""
    found: dict[str, type[ForklightError]] = {}
    waiting: list[type[ForklightError]] = [ForklightError]
    while waiting:
        error = waiting.pop()
        found[error.__name__] = error
        waiting.extend(error.__subclasses__())
    return found
