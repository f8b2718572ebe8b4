"""How weights reach rollout: what a run file may say of it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from forklight_core.runfile.sections.publication import PublicationSection


def test_a_broadcast_needs_to_know_where_and_for_how_many() -> None:
    for fields in ({}, {"rendezvous": "trainer:7070"}, {"broadcast_pods": 2}):
        with pytest.raises(ValidationError, match="needs publication.rendezvous"):
            PublicationSection(transport="broadcast", **fields)  # type: ignore[arg-type]
    found = PublicationSection(transport="broadcast", rendezvous="trainer:7070", broadcast_pods=2)
    assert found.broadcast_backend == "gloo"


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "http://bucket"},
        {"url": "bucket/prefix"},
        {"rendezvous": "trainer"},
        {"full_every": 0},
        {"full_every": 65},
        {"delta_base": "next"},
        {"keep_versions": 1},
    ],
)
def test_what_cannot_be_meant_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PublicationSection(**fields)  # type: ignore[arg-type]


def test_sizes_and_times_may_have_units() -> None:
    found = PublicationSection.model_validate({"largest_file": "1GiB", "broadcast_join_s": "30s"})
    assert (found.largest_file, found.broadcast_join_s) == (2**30, 30.0)
