"""Names of runs, groups and samples, and the trace each sample owns.

Ids are functions of position, so whatever is opened again after a crash gets the same name again.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time

from forklight_core.errors import InvalidInputError

RUN_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def new_run_id(name: str) -> str:
    """A fresh run id: the name, the date and four random hex digits."""
    return check_run_id(f"{name}-{time.strftime('%Y%m%d')}-{secrets.token_hex(2)}")


def check_run_id(run_id: str) -> str:
    """Return the id, or say what is wrong with it."""
    if not RUN_ID.fullmatch(run_id):
        raise InvalidInputError(
            f"run id {run_id!r} is not allowed: use 1 to 63 lower-case letters, digits and '-', "
            "not starting with '-'"
        )
    return run_id


def training_group_id(run_id: str, index: int) -> str:
    """The group opened as the `index`-th of the run."""
    return f"{run_id}/g{index:08d}"


def evaluation_group_id(run_id: str, version: int, index: int) -> str:
    """The `index`-th group of the evaluation round opened at a policy version."""
    return f"{run_id}/e{version:06d}-{index:05d}"


def sample_id(group_id: str, index: int) -> str:
    """The `index`-th sample of a group."""
    return f"{group_id}/s{index:03d}"


def sample_index(sample: str) -> int:
    """Position of a sample in its group."""
    return int(sample.rpartition("/s")[2])


def group_of(sample: str) -> str:
    """Group id of a sample id."""
    group, mark, index = sample.rpartition("/s")
    if not mark or not index.isdigit():
        raise InvalidInputError(f"{sample!r} is not a sample id: expected RUN/gNNNNNNNN/sNNN")
    return group


def batch_id(run_id: str, step: int) -> str:
    """The batch of an optimizer step."""
    return f"{run_id}/b{step:08d}"


def trace_id(sample: str) -> int:
    """128-bit trace id of a sample: any service and the console can compute it."""
    return int.from_bytes(hashlib.blake2b(sample.encode(), digest_size=16).digest(), "big") or 1


def root_span_id(sample: str) -> int:
    """64-bit span id of the sample's root span."""
    return (
        int.from_bytes(hashlib.blake2b(sample.encode(), digest_size=8, person=b"root-span").digest(), "big")
        or 1
    )


def sample_traceparent(sample: str) -> str:
    """W3C trace context of the sample's root span."""
    return f"00-{trace_id(sample):032x}-{root_span_id(sample):016x}-01"
