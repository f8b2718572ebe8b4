"""Every document is what Kubernetes' schemas, or the controllers' that we use, say it may be."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest

from tests.deploy.custom_resources import SPECS, check_custom
from tests.deploy.rendering import Doc, Rendered, folders, look, render

SUPPORTED = ("1.33", "1.37")
"""The oldest and the newest that is meant."""
GANG = ("JobSet", "trainer")
SCALER = ("ScaledObject", "rollout")
GROUPS = ("LeaderWorkerSet", "rollout")


def _documents() -> dict[str, tuple[str, Doc]]:
    """Every different document, with the first kustomization that has it."""
    found: dict[str, tuple[str, Doc]] = {}
    for folder in folders():
        for doc in look(folder):
            found.setdefault(json.dumps(doc, sort_keys=True), (folder, doc))
    return found


def _is_custom(doc: Doc) -> bool:
    return (doc["apiVersion"], doc["kind"]) in SPECS


@pytest.fixture(scope="module")
def schemas() -> Iterator[Any]:
    """The validator, which would read a file of megabytes for every document."""
    found = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate==1.37.0")
    read = found.utils.schema_contents
    found.utils.schema_contents = cache(read)
    yield found
    found.utils.schema_contents = read


@pytest.mark.parametrize("version", SUPPORTED)
def test_documents_are_what_kubernetes_knows(version: str, schemas: Any) -> None:
    problems = []
    for folder, doc in _documents().values():
        if _is_custom(doc):
            continue
        try:
            schemas.validate(doc, version, strict=True)
        except schemas.ValidationError as error:
            problems.append(f"{folder}: {doc['kind']}/{doc['metadata']['name']}: {error}")
    assert problems == []


def test_a_misspelt_field_is_noticed(schemas: Any) -> None:
    doc = Rendered(render("overlays/local")).one("Deployment", "buffer")
    main = doc["spec"]["template"]["spec"]["containers"][0]
    main["readinesProbe"] = main.pop("readinessProbe")
    with pytest.raises(schemas.ValidationError):
        schemas.validate(doc, SUPPORTED[-1], strict=True)


def test_every_kind_is_known_to_somebody() -> None:
    builtin = ("apps/v1", "v1", "policy/v1", "batch/v1", "autoscaling/v2")
    for folder, doc in _documents().values():
        is_builtin = doc["apiVersion"] in builtin or doc["apiVersion"].split("/")[0].endswith(".k8s.io")
        assert _is_custom(doc) or is_builtin, f"{folder}: {doc['apiVersion']} {doc['kind']}"


def test_custom_resources_have_the_fields_of_their_kinds() -> None:
    seen = set()
    for _, doc in _documents().values():
        if _is_custom(doc):
            check_custom(doc)
            seen.add((doc["apiVersion"], doc["kind"]))
    assert seen == set(SPECS)


Change = Callable[[Doc], Any]
CHANGES: list[tuple[tuple[str, str], Change]] = [
    (SCALER, lambda spec: spec.update(maxReplicas=4)),
    (SCALER, lambda spec: spec["triggers"][0].update(type="redis-streams")),
    (SCALER, lambda spec: spec["triggers"][0]["metadata"].pop("scalerAddress")),
    (SCALER, lambda spec: spec.update(minReplicaCount="one")),
    (GANG, lambda spec: spec["failurePolicy"].update(maxRestart=3)),
    (GANG, lambda spec: spec["replicatedJobs"][0]["template"]["spec"].update(parallelism=63)),
    (GANG, lambda spec: spec["replicatedJobs"][0]["template"]["spec"].update(backoffLimit=6)),
    (GANG, lambda spec: spec["network"].update(publishNotReadyAddresses=False)),
    (GROUPS, lambda spec: spec["leaderWorkerTemplate"].update(restartPolicy="Always")),
    (GROUPS, lambda spec: spec["rolloutStrategy"]["rollingUpdateConfiguration"].update(maxSurge=1)),
]


@pytest.mark.parametrize(("what", "change"), CHANGES)
def test_a_wrong_custom_resource_is_noticed(what: tuple[str, str], change: Change) -> None:
    doc = Rendered(render("overlays/h800")).one(*what)
    check_custom(doc)
    change(doc["spec"])
    with pytest.raises(ValueError, match="validation error"):
        check_custom(doc)
