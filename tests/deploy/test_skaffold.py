"""skaffold.yaml names what is there: contexts, Dockerfiles, overlays, images, files to synchronise."""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

from tests.deploy.rendering import ROOT, Doc, Rendered, folders, look

CONFIGS: list[Doc] = list(yaml.safe_load_all((ROOT / "skaffold.yaml").read_text()))
PROFILES = {"bare", "dev", "gpu", "h800", "vllm"}
IMAGES = {
    "forklight-buffer": "services/buffer/Dockerfile",
    "forklight-console": "services/console/Dockerfile",
    "forklight-reward": "services/reward/Dockerfile",
    "forklight-rollout": "services/rollout/Dockerfile",
    "forklight-sandbox": "services/reward/Dockerfile.sandbox",
    "forklight-trainer": "services/trainer/Dockerfile",
}


def _parts(name: str) -> Iterator[Doc]:
    """A section of every configuration and of every profile."""
    for config in CONFIGS:
        for part in (config, *config.get("profiles", [])):
            if name in part:
                yield part[name]


def _artifacts() -> list[Doc]:
    return [artifact for build in _parts("build") for artifact in build["artifacts"]]


def test_configurations_are_of_a_known_version_and_require_each_other() -> None:
    names = {config["metadata"]["name"] for config in CONFIGS}
    for config in CONFIGS:
        version = re.fullmatch(r"skaffold/v4beta(\d+)", config["apiVersion"])
        assert version is not None
        assert int(version[1]) >= 13
        for required in config.get("requires", []):
            assert set(required["configs"]) <= names


def test_every_image_of_the_overlays_is_built_from_a_file_that_is_there() -> None:
    artifacts = _artifacts()
    assert {each["image"]: each["docker"]["dockerfile"] for each in artifacts} == IMAGES
    for each in artifacts:
        assert each["context"] == "."
        dockerfile = (ROOT / each["docker"]["dockerfile"]).read_text()
        taken = set(re.findall(r"^ARG (\w+)", dockerfile, re.MULTILINE))
        assert set(each["docker"]["buildArgs"]) <= taken
        assert "BASE_IMAGE" in each["docker"]["buildArgs"]
    for folder in folders():
        for workload in Rendered(look(folder)).workloads:
            for container in workload.containers:
                image, _, tag = container["image"].partition(":")
                assert image in IMAGES or not image.startswith("forklight"), f"{folder}: {image}"
                if image in IMAGES:
                    assert f"ARG VERSION={tag}\n" in (ROOT / IMAGES[image]).read_text()
                    assert workload.labels["app.kubernetes.io/version"] == tag


def test_images_are_named_by_their_contents() -> None:
    for build in _parts("build"):
        if "tagPolicy" in build:
            assert build["tagPolicy"] == {"inputDigest": {}}
            assert build["local"]["useBuildkit"] is False
    assert all("# syntax=" not in (ROOT / path).read_text() for path in IMAGES.values())


def test_what_is_synchronised_is_what_the_image_copies() -> None:
    """To where the image has it: a stage copies the package, and the last one has all under /opt/rooms."""
    for each in _artifacts():
        dockerfile = (ROOT / each["docker"]["dockerfile"]).read_text()
        copied = {line.split()[1] for line in dockerfile.splitlines() if re.match(r"COPY [a-z]+/", line)}
        packages = {path for path in copied if re.search(r"/forklight\w*$", path)}
        rules = each.get("sync", {}).get("manual", [])
        if not rules:
            usual = re.search(r'^ARG ROOMS="(.+)"', dockerfile, re.MULTILINE)
            assert usual is not None
            rooms = each["docker"]["buildArgs"]["ROOMS"].split()  # -p vllm: not for development
            assert set(usual[1].split()) - {"services/rollout"} <= set(rooms)
            continue
        assert {rule["src"].partition("/**")[0] for rule in rules} == packages
        for rule in rules:
            folder = rule["src"].partition("/**")[0]
            assert (ROOT / folder).is_dir()
            assert folder.startswith(rule["strip"])
            assert rule["dest"] == "/opt/rooms"
        assert "/opt/rooms" in dockerfile


def test_profiles_deploy_overlays_that_are_there() -> None:
    named = {profile["name"] for config in CONFIGS for profile in config.get("profiles", [])}
    assert named == PROFILES
    paths = [path for part in _parts("manifests") for path in part["kustomize"]["paths"]]
    assert set(paths) == {f"infra/k8s/overlays/{name}" for name in PROFILES | {"local"}}
    assert all((ROOT / path / "kustomization.yaml").is_file() for path in paths)


def test_skaffold_waits_longer_than_any_workload_may_take() -> None:
    deadlines = [
        doc["spec"]["progressDeadlineSeconds"]
        for doc in look("overlays/local")
        if doc["kind"] == "Deployment"
    ]
    (deploy,) = _parts("deploy")
    assert deploy["statusCheckDeadlineSeconds"] >= max(deadlines)


def test_kinds_that_skaffold_does_not_know_get_their_images() -> None:
    allowed = {item["groupKind"] for part in _parts("resourceSelector") for item in part["allow"]}
    for folder in folders():
        for each in Rendered(look(folder)).workloads:
            group = each.doc["apiVersion"].partition("/")[0]
            assert group == "apps" or f"{each.doc['kind']}.{group}" in allowed
