"""What every kustomization renders to, by a real kubectl, and how tests look at it."""

from __future__ import annotations

import copy
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "infra" / "k8s"
OLDEST = (1, 29)
Doc: TypeAlias = dict[str, Any]

PODS = {
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "JobSet": ("spec", "replicatedJobs", 0, "template", "spec", "template"),
    "LeaderWorkerSet": ("spec", "leaderWorkerTemplate", "workerTemplate"),
}


def folders() -> list[str]:
    """Every overlay and every combination of components."""
    found = [*K8S.glob("overlays/*/kustomization.yaml"), *K8S.glob("tests/*/kustomization.yaml")]
    return sorted(path.parent.relative_to(K8S).as_posix() for path in found)


@cache
def find_kubectl() -> Path | None:
    """FORKLIGHT_KUBECTL, else the one of get_kubectl.sh, else PATH: the first that is new enough."""
    candidates = [os.environ.get("FORKLIGHT_KUBECTL", ""), str(ROOT / ".venv/bin/kubectl"), "kubectl"]
    for candidate in filter(None, map(shutil.which, candidates)):
        said = subprocess.run([candidate, "version", "--client"], capture_output=True, text=True)
        version = re.search(r"Client Version: v(\d+)\.(\d+)", said.stdout)
        if version and (int(version[1]), int(version[2])) >= OLDEST:
            return Path(candidate)
    return None


def need_kubectl() -> Path:
    """It, or the test is skipped with what to do."""
    kubectl = find_kubectl()
    if kubectl is None:
        pytest.skip("no kubectl 1.29 or newer: run infra/k8s/get_kubectl.sh or set FORKLIGHT_KUBECTL")
    return kubectl


@cache
def render_text(folder: str) -> str:
    """The YAML of a kustomization; raises with kustomize's own words."""
    done = subprocess.run(
        [str(need_kubectl()), "kustomize", str(K8S / folder)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, f"{folder} does not render: {done.stderr}"
    assert "deprecated" not in done.stderr.lower(), f"{folder}: {done.stderr}"
    return done.stdout


@cache
def look(folder: str) -> list[Doc]:
    """Its documents, the same ones for all: not to be changed."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [doc for doc in yaml.load_all(render_text(folder), Loader=loader) if doc]


def render(folder: str) -> list[Doc]:
    """Its documents, fresh ones each time: tests change them."""
    return copy.deepcopy(look(folder))


@dataclass(frozen=True)
class Workload:
    """A document that makes pods."""

    doc: Doc

    @property
    def name(self) -> str:
        return str(self.doc["metadata"]["name"])

    @property
    def where(self) -> str:
        return f"{self.doc['kind']}/{self.name}"

    @cached_property
    def template(self) -> Doc:
        found: Any = self.doc
        for key in PODS[self.doc["kind"]]:
            found = found[key]
        return dict(found)

    @property
    def labels(self) -> Mapping[str, str]:
        return dict(self.template["metadata"]["labels"])

    @property
    def component(self) -> str:
        return self.labels.get("app.kubernetes.io/component", "")

    @property
    def pod(self) -> Doc:
        return dict(self.template["spec"])

    @property
    def main(self) -> Doc:
        return next(each for each in self.pod["containers"] if each["name"] == "main")

    @property
    def containers(self) -> Sequence[Doc]:
        return [*self.pod.get("initContainers", []), *self.pod["containers"]]


@dataclass(frozen=True)
class Rendered:
    """All documents of one kustomization."""

    docs: Sequence[Doc]

    @property
    def workloads(self) -> list[Workload]:
        return [Workload(doc) for doc in self.docs if doc["kind"] in PODS]

    def of(self, kind: str) -> Iterator[Doc]:
        return (doc for doc in self.docs if doc["kind"] == kind)

    def one(self, kind: str, name: str) -> Doc:
        return next(doc for doc in self.of(kind) if doc["metadata"]["name"] == name)

    def workload(self, name: str) -> Workload:
        return next(each for each in self.workloads if each.name == name)

    def configuration(self, name: str) -> Mapping[str, str]:
        """The data of a generated ConfigMap, by its name without the hash."""
        found = [doc for doc in self.of("ConfigMap") if re.sub(r"-[a-z0-9]{10}$", "", _name(doc)) == name]
        assert len(found) == 1, f"{name}: {[_name(doc) for doc in found]}"
        return dict(found[0]["data"])

    @property
    def run_file(self) -> Mapping[str, Any]:
        return tomllib.loads(self.configuration("run-file")["run.toml"])


def _name(doc: Doc) -> str:
    return str(doc["metadata"]["name"])
