"""Manifests are true to the code: environment, ports, health, time to drain, rights, run files, secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from forklight_buffer.settings import BufferSettings
from forklight_console.settings import ConsoleSettings
from forklight_core.rpc.server import GRACE_S, READY
from forklight_core.runfile import RunFile, load_run_file
from forklight_core.settings import PREFIX, ServiceSettings
from forklight_core.telemetry.prometheus_names import series_names
from forklight_core.telemetry.registry import METRICS
from forklight_reward.settings import FrontSettings, JudgeSettings, SandboxSettings, VerifierSettings
from forklight_rollout.settings import RolloutSettings
from forklight_rollout.worker import LAST_SUBMITS_S
from forklight_trainer.settings import TrainerSettings
from tests.deploy.rendering import K8S, ROOT, Doc, Rendered, Workload, folders, look, render

SETTINGS: Mapping[str, type[ServiceSettings]] = {
    "buffer": BufferSettings,
    "console": ConsoleSettings,
    "reward-front": FrontSettings,
    "reward-judge": JudgeSettings,
    "reward-sandbox": SandboxSettings,
    "reward-verifier": VerifierSettings,
    "rollout": RolloutSettings,
    "trainer": TrainerSettings,
}
FOREIGN = ("redis", "otel-collector")
OTHERS_NAMES = ("AWS_", "NCCL_", "GRPC_", "REDIS_", "NODE_RANK", "REDISCLI_AUTH")
SLACK_S = 5
"""Between the last thing a service waits for and the kubelet's patience."""


@pytest.fixture(params=folders())
def rendered(request: pytest.FixtureRequest) -> Rendered:
    return Rendered(look(request.param))


def ours(rendered: Rendered) -> Iterator[Workload]:
    return (each for each in rendered.workloads if each.component not in FOREIGN)


def environment_of(each: Workload, rendered: Rendered) -> dict[str, str]:
    """What its main container is told, as far as it is written down here."""
    found = dict(rendered.configuration("environment"))
    return found | {item["name"]: item.get("value", "<given>") for item in each.main.get("env", [])}


def known_names(settings: type[ServiceSettings]) -> set[str]:
    return {PREFIX + name.upper() for name in settings.model_fields}


def load(rendered: Rendered, tmp_path: Path) -> RunFile:
    path = tmp_path / "run.toml"
    path.write_text(rendered.configuration("run-file")["run.toml"])
    return load_run_file(path)


def test_every_variable_is_a_setting(rendered: Rendered) -> None:
    everybody = set().union(*(known_names(each) for each in SETTINGS.values()))
    shared = {name for name in rendered.configuration("environment") if name.startswith(PREFIX)}
    assert shared <= everybody
    for each in ours(rendered):
        names = {item["name"] for item in each.main.get("env", [])}
        unknown = names - known_names(SETTINGS[each.component])
        assert not {name for name in unknown if not name.startswith(OTHERS_NAMES)}, each.where


def test_every_service_is_told_what_it_needs(rendered: Rendered) -> None:
    for each in ours(rendered):
        told = environment_of(each, rendered)
        fields = SETTINGS[each.component].model_fields
        missing = [name for name, field in fields.items() if field.is_required()]
        assert not [name for name in missing if not told.get(PREFIX + name.upper())], each.where
        plain = {
            name: told[PREFIX + name.upper()]
            for name in fields
            if told.get(PREFIX + name.upper(), "<given>") != "<given>"
        }
        given = dict.fromkeys((name for name in missing if name not in plain), "<given>")
        SETTINGS[each.component].model_validate(plain | given)


def test_ports_are_those_that_are_listened_on(rendered: Rendered) -> None:
    for each in ours(rendered):
        port = int(environment_of(each, rendered)["FORKLIGHT_LISTEN"].rpartition(":")[2])
        assert port in {item["containerPort"] for item in each.main["ports"]}, each.where
        service = rendered.one("Service", each.component)["spec"]
        assert service["selector"].items() >= {"app.kubernetes.io/component": each.component}.items()
        assert {item["port"] for item in service["ports"]} == {port}, each.where


def test_addresses_are_those_of_services(rendered: Rendered) -> None:
    found = {}
    for doc in rendered.of("Service"):
        found[doc["metadata"]["name"]] = {item["port"] for item in doc["spec"]["ports"]}
    for name, value in rendered.configuration("environment").items():
        if name.endswith("_ADDRESS"):
            for address in value.split(","):
                host, _, port = address.rpartition(":")
                assert int(port) in found[host], f"{name}={value}"


def _probed_ports(each: Workload) -> Iterator[int]:
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        probe = each.main[kind]
        if "grpc" in probe:
            assert probe["grpc"].get("service", "") in ("", READY)
            yield probe["grpc"]["port"]
        elif "exec" in probe:
            yield int(re.search(r"forklight-health 127\.0\.0\.1:(\d+)", str(probe))[1])  # type: ignore[index]


def test_probes_ask_where_health_is_answered_in_plaintext(rendered: Rendered) -> None:
    for each in ours(rendered):
        told = environment_of(each, rendered)
        health = told.get("FORKLIGHT_HEALTH_LISTEN", "")
        where = health or told["FORKLIGHT_LISTEN"]
        assert set(_probed_ports(each)) <= {int(where.rpartition(":")[2])}, each.where
        assert health or "FORKLIGHT_TLS_CERT" not in told or each.component == "console", each.where


def test_doors_have_certificates_for_the_names_they_are_called_by(rendered: Rendered) -> None:
    told = rendered.configuration("environment")
    certificates = {doc["spec"]["secretName"]: doc["spec"] for doc in rendered.of("Certificate")}
    assert bool(certificates) == ("FORKLIGHT_TLS_CERT" in told)
    if not certificates:
        return
    for each in ours(rendered):
        mount = next(item for item in each.main["volumeMounts"] if item["name"] == "tls")
        assert told["FORKLIGHT_TLS_CERT"] == f"{mount['mountPath']}/tls.crt"
        volume = next(item for item in each.pod["volumes"] if item["name"] == "tls")
        names = set(certificates[volume["secret"]["secretName"]]["dnsNames"])
        special = environment_of(rendered.workload("console"), rendered)["FORKLIGHT_TLS_NAME"]
        assert {each.component, f"{each.component}.forklight.svc", special} <= names, each.where


def drain_s(each: Workload, told: Mapping[str, str], run_file: RunFile) -> float:
    """How long a service may take to end once it is told to."""
    if each.component == "rollout":
        return run_file.rollout.drain_s + LAST_SUBMITS_S + GRACE_S
    if each.component == "reward-front":
        return float(told["FORKLIGHT_DRAIN_S"]) + GRACE_S
    if each.component == "trainer" and each.doc["kind"] == "JobSet":
        return float(re.search(r"--shutdown-timeout=(\d+)", str(each.main["args"]))[1])  # type: ignore[index]
    if each.component == "trainer":
        return 600.0  # as `forklight up`: its step, a checkpoint, the commit
    return {"reward-sandbox": 60.0, "buffer": 30.0}.get(each.component, 10.0)


def test_there_is_time_to_drain(rendered: Rendered, tmp_path: Path) -> None:
    run_file = load(rendered, tmp_path)
    for each in ours(rendered):
        told = environment_of(each, rendered)
        before = each.main.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        needed = before + drain_s(each, told, run_file) + SLACK_S
        assert each.pod["terminationGracePeriodSeconds"] >= needed, each.where
        limit = float(told.get("FORKLIGHT_STOP_WITHIN_S", "0"))
        assert limit + SLACK_S <= drain_s(each, told, run_file) or not limit, each.where


def test_a_rollout_pod_that_saves_less_long_than_it_drains_is_noticed(tmp_path: Path) -> None:
    docs = render("overlays/gpu")
    Rendered(docs).one("Deployment", "rollout")["spec"]["template"]["spec"][
        "terminationGracePeriodSeconds"
    ] = 60
    with pytest.raises(AssertionError, match="rollout"):
        test_there_is_time_to_drain(Rendered(docs), tmp_path)


def test_run_files_are_sound_and_name_what_is_mounted(rendered: Rendered, tmp_path: Path) -> None:
    run_file = load(rendered, tmp_path)
    buffer = Rendered(rendered.docs).workload("buffer")
    mounted = [item["mountPath"] for item in buffer.main["volumeMounts"]]
    for path in filter(None, (run_file.prompts.train, run_file.prompts.holdout)):
        assert any(path.startswith(f"{mount}/") for mount in mounted), path
    told = rendered.configuration("environment")
    blobs = told["FORKLIGHT_BLOBS_URL"]
    if blobs.startswith("file://"):
        users = [each for each in ours(rendered) if "blobs_url" in SETTINGS[each.component].model_fields]
        for each in users:
            paths = [item["mountPath"] for item in each.main["volumeMounts"]]
            assert blobs.removeprefix("file://") in paths, each.where
    else:
        assert run_file.publication.url, "pods on other nodes get weights from a store"
        for each in ours(rendered):
            if "blobs_url" in SETTINGS[each.component].model_fields:
                assert {"secretRef": {"name": "blob-store"}} in each.main["envFrom"], each.where


def test_a_gang_has_as_many_processes_as_its_run_file_says(rendered: Rendered, tmp_path: Path) -> None:
    trainer = load(rendered, tmp_path).trainer
    gangs = list(rendered.of("JobSet"))
    assert bool(gangs) == (trainer.engine == "deepspeed")
    for gang in map(Workload, gangs):
        job = gang.doc["spec"]["replicatedJobs"][0]["template"]["spec"]
        arguments = dict(item.removeprefix("--").split("=") for item in gang.main["args"] if "=" in item)
        gpus = int(gang.main["resources"]["limits"]["nvidia.com/gpu"])
        assert int(arguments["nnodes"]) == job["parallelism"]
        assert int(arguments["nproc-per-node"]) == gpus
        assert trainer.processes == job["parallelism"] * gpus
        network, name = gang.doc["spec"]["network"], gang.name
        first = f"{name}-{gang.doc['spec']['replicatedJobs'][0]['name']}-0-0.{network['subdomain']}"
        assert arguments["master-addr"] == first
        door = rendered.one("Service", "trainer")["spec"]["selector"]
        assert door["batch.kubernetes.io/job-completion-index"] == "0"


def test_groups_of_pods_have_one_engine_each(rendered: Rendered, tmp_path: Path) -> None:
    """An engine's processes are started on the host of the first: a group of several would idle."""
    for doc in rendered.of("LeaderWorkerSet"):
        gpus = int(Workload(doc).main["resources"]["limits"]["nvidia.com/gpu"])
        assert doc["spec"]["leaderWorkerTemplate"]["size"] == 1
        assert load(rendered, tmp_path).rollout.tensor_parallel == gpus


def test_autoscalers_see_what_is_in_flight(rendered: Rendered) -> None:
    workloads = {(each.doc["kind"], each.name): each.doc for each in rendered.workloads}
    names = {name for spec in METRICS for name in series_names(spec)}
    scalers = [*rendered.of("ScaledObject"), *rendered.of("HorizontalPodAutoscaler")]
    for scaler in scalers:
        target = scaler["spec"]["scaleTargetRef"]
        assert "replicas" not in workloads[target["kind"], target["name"]]["spec"]
    for scaler in rendered.of("ScaledObject"):
        (trigger,) = scaler["spec"]["triggers"]
        assert trigger["metadata"]["runId"] == rendered.configuration("environment")["FORKLIGHT_RUN_ID"]
        assert trigger["metadata"]["scalerAddress"] == "buffer.forklight.svc:7100"
        assert bool(trigger.get("authenticationRef")) == (
            "FORKLIGHT_TLS_CERT" in rendered.configuration("environment")
        )
    for scaler in rendered.of("HorizontalPodAutoscaler"):
        (metric,) = scaler["spec"]["metrics"]
        assert metric["external"]["metric"]["name"] in names
    assert len(scalers) <= 1


def _secrets_of(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("secretKeyRef", "secretRef"):
                yield value["name"]
            else:
                yield from _secrets_of(value)
    elif isinstance(node, list):
        for each in node:
            yield from _secrets_of(each)


def test_secrets_are_by_reference_and_told_of(rendered: Rendered) -> None:
    readme = (K8S / "README.md").read_text()
    assert not list(rendered.of("Secret"))
    for doc in rendered.docs:
        for name in _secrets_of(doc):
            assert f"`{name}`" in readme, f"README.md does not say what the secret {name} holds"


def test_the_namespace_of_programs_is_the_sandbox_s_own_word() -> None:
    path = ROOT / "services/reward/forklight_reward/sandbox/tiers/namespace.yaml"
    wanted: list[Doc] = list(yaml.safe_load_all(path.read_text()))
    rendered = Rendered(look("overlays/gpu"))
    for doc in wanted:
        found = next(
            each
            for each in rendered.of(doc["kind"])
            if each["metadata"]["name"] == doc["metadata"]["name"]
            and each["metadata"].get("namespace") == doc["metadata"].get("namespace")
        )
        for key in set(doc) - {"metadata"}:
            assert found[key] == doc[key], f"{doc['kind']}: {key}"


def test_the_console_may_do_what_its_code_does() -> None:
    source = (ROOT / "libs/core/forklight_core/cluster/kubernetes_api.py").read_text()
    (role,) = [
        doc for doc in Rendered(look("overlays/gpu")).of("Role") if doc["metadata"]["name"] == "console"
    ]
    allowed = {(name, verb) for rule in role["rules"] for name in rule["resources"] for verb in rule["verbs"]}
    for plural in re.findall(r'"(?:api|apis)/[\w./-]+:(\w+)"', source):
        wanted = "patch" if plural == "scaledobjects" else "list"
        assert (plural, wanted) in allowed, plural
    assert {("deployments/scale", "patch"), ("leaderworkersets/scale", "patch"), ("pods", "patch")} <= allowed
