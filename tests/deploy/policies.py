"""What every rendering must hold to. Each policy says what is wrong, in words; nothing: it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from tests.deploy.rendering import Doc, Rendered, Workload

Policy: TypeAlias = Callable[[Rendered], Iterator[str]]
NOBODY = 65532
NEEDS_TOKEN = {"console", "reward-sandbox"}
SERVES_NO_RPC = {"redis", "console", "otel-collector"}
RESTRICTED = "pod-security.kubernetes.io/enforce"
SHARED = {"redis": "buffer", "console": "reward", "otel-collector": "reward"}
PRIORITIES = ("rollout", "reward", "buffer", "trainer")


def no_root(rendered: Rendered) -> Iterator[str]:
    """Pod Security `restricted`, a read-only root, one user."""
    for each in rendered.workloads:
        context = each.pod.get("securityContext", {})
        if context.get("runAsNonRoot") is not True or context.get("runAsUser") != NOBODY:
            yield f"{each.where} does not run as {NOBODY}"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{each.where} has no seccomp profile"
        if any(each.pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{each.where} shares a namespace of the host"
        if any("hostPath" in volume for volume in each.pod.get("volumes", [])):
            yield f"{each.where} mounts a folder of the host"
        for container in each.containers:
            own = container.get("securityContext", {})
            wants = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}
            if any(own.get(name) is not value for name, value in wants.items()) or own.get("privileged"):
                yield f"{each.where}/{container['name']} may write its root or gain rights"
            if own.get("capabilities") != {"drop": ["ALL"]}:
                yield f"{each.where}/{container['name']} keeps capabilities"


def namespaces_are_restricted(rendered: Rendered) -> Iterator[str]:
    """Every namespace refuses pods that are not."""
    names = set()
    for doc in rendered.of("Namespace"):
        names.add(doc["metadata"]["name"])
        if doc["metadata"].get("labels", {}).get(RESTRICTED) != "restricted":
            yield f"namespace {doc['metadata']['name']} does not enforce restricted"
    used = {doc["metadata"]["namespace"] for doc in rendered.docs if doc["metadata"].get("namespace")}
    yield from (f"namespace {name} is used and not made here" for name in sorted(used - names))


def resources_are_bounded(rendered: Rendered) -> Iterator[str]:
    """Requests and limits of processor, memory and disk, for every container."""
    for each in rendered.workloads:
        for container in each.containers:
            resources = container.get("resources", {})
            for side in ("requests", "limits"):
                missing = {"cpu", "memory", "ephemeral-storage"} - set(resources.get(side, {}))
                if missing:
                    yield f"{each.where}/{container['name']} has no {side} of {', '.join(sorted(missing))}"
            gpus = {resources.get(side, {}).get("nvidia.com/gpu") for side in ("requests", "limits")}
            if len(gpus) > 1:
                yield f"{each.where}/{container['name']} asks for other GPUs than it is limited to"
        for volume in each.pod.get("volumes", []):
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                yield f"{each.where} has a scratch volume without a size: {volume['name']}"


def probes_are_set(rendered: Rendered) -> Iterator[str]:
    """Startup, liveness and readiness of every service; readiness asks something else than liveness."""
    for each in rendered.workloads:
        probes = {name: each.main.get(f"{name}Probe") for name in ("startup", "liveness", "readiness")}
        for name, probe in probes.items():
            if not probe:
                yield f"{each.where} has no {name} probe"
            elif sum(kind in probe for kind in ("grpc", "exec", "httpGet", "tcpSocket")) != 1:
                yield f"{each.where}: its {name} probe asks in no way, or in several"
        ready, live = probes["readiness"], probes["liveness"]
        is_apart = "ready" in str(ready) and "ready" not in str(live)
        if each.component not in SERVES_NO_RPC and not is_apart:
            yield f"{each.where}: readiness must ask for `ready`, and liveness must not"


def images_are_pinned(rendered: Rendered) -> Iterator[str]:
    """A version or a digest each; skaffold puts the tag of an image's contents in its place."""
    for each in rendered.workloads:
        for container in each.containers:
            tag = container["image"].rpartition("/")[2].partition(":")[2]
            if tag in ("", "latest"):
                yield f"{each.where}/{container['name']}: image {container['image']} is not pinned"


def rights_are_least(rendered: Rendered) -> Iterator[str]:
    """A ServiceAccount each, a token only where the API is asked, no wild cards, nothing of the cluster."""
    accounts = {doc["metadata"]["name"] for doc in rendered.of("ServiceAccount")}
    for each in rendered.workloads:
        if each.pod.get("serviceAccountName") != each.component or each.component not in accounts:
            yield f"{each.where} has no ServiceAccount of its own"
        if each.pod.get("automountServiceAccountToken") is not False and each.component not in NEEDS_TOKEN:
            yield f"{each.where} is given a token"
        if each.pod.get("enableServiceLinks") is not False:
            yield f"{each.where} gets every service's address in its environment"
    for kind in ("ClusterRole", "ClusterRoleBinding"):
        yield from (f"{kind}/{doc['metadata']['name']}: rights over the cluster" for doc in rendered.of(kind))
    for doc in rendered.of("Role"):
        for rule in doc["rules"]:
            if "*" in str(rule) or "secrets" in rule["resources"] or "pods/exec" in rule["resources"]:
                yield f"Role/{doc['metadata']['name']} allows more than it needs: {rule}"
    bound = {
        (subject["name"]) for doc in rendered.of("RoleBinding") for subject in doc["subjects"]
    } - NEEDS_TOKEN
    yield from (f"{name} has a role and needs none" for name in sorted(bound))


def traffic_is_closed(rendered: Rendered) -> Iterator[str]:
    """Everything is denied first, each workload has its policy, and the sandbox reaches nothing."""
    policies = list(rendered.of("NetworkPolicy"))
    closed = [doc["metadata"]["namespace"] for doc in policies if _denies_all(doc)]
    for doc in rendered.of("Namespace"):
        if doc["metadata"]["name"] not in closed:
            yield f"namespace {doc['metadata']['name']} has no policy that denies all traffic"
    for each in rendered.workloads:
        own = [doc for doc in policies if doc["metadata"]["name"] == each.component]
        if not own or set(own[0]["spec"]["policyTypes"]) != {"Ingress", "Egress"}:
            yield f"{each.where} has no NetworkPolicy for both ways"
    sandbox = {"app.kubernetes.io/component": "reward-sandbox", "app.kubernetes.io/part-of": "forklight"}
    for doc in policies:
        is_api = doc["metadata"]["name"] == "reward-sandbox-api" and _runs_pods(rendered)
        if doc["spec"].get("egress") and selects(doc["spec"]["podSelector"], sandbox) and not is_api:
            yield f"NetworkPolicy/{doc['metadata']['name']} lets the sandbox out"


def _denies_all(doc: Doc) -> bool:
    spec = doc["spec"]
    everything = not spec["podSelector"] and set(spec["policyTypes"]) == {"Ingress", "Egress"}
    return everything and not spec.get("ingress") and not spec.get("egress")


def _runs_pods(rendered: Rendered) -> bool:
    return bool(rendered.run_file["reward"]["sandbox"]["tier"] == "pod")


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector takes a pod."""
    for name, value in selector.get("matchLabels", {}).items():
        if labels.get(name) != value:
            return False
    for rule in selector.get("matchExpressions", []):
        is_in = labels.get(rule["key"]) in rule["values"]
        if is_in != (rule["operator"] == "In"):
            return False
    return True


def drains_are_safe(rendered: Rendered) -> Iterator[str]:
    """A budget that never blocks a node for ever; a gang, which has none, is kept from being moved."""
    budgets = list(rendered.of("PodDisruptionBudget"))
    for each in rendered.workloads:
        own = [doc["spec"] for doc in budgets if selects(doc["spec"]["selector"], each.labels)]
        if each.doc["kind"] == "JobSet":
            kept = each.template["metadata"].get("annotations", {})
            if own or kept.get("cluster-autoscaler.kubernetes.io/safe-to-evict") != "false":
                yield f"{each.where} is a gang: no budget, and not safe to evict"
        elif len(own) != 1:
            yield f"{each.where} has {len(own)} PodDisruptionBudgets"
        elif own[0].get("unhealthyPodEvictionPolicy") != "AlwaysAllow" or not own[0].get("maxUnavailable"):
            yield f"{each.where}: its PodDisruptionBudget may hold up a drain for ever"


def priorities_are_ordered(rendered: Rendered) -> Iterator[str]:
    """trainer > buffer and Redis > reward > rollout, which preempts nobody."""
    classes = {doc["metadata"]["name"]: doc for doc in rendered.of("PriorityClass")}
    values = [classes.get(f"forklight-{name}", {}).get("value", 0) for name in PRIORITIES]
    if values != sorted(set(values)):
        yield f"priorities are out of order: {dict(zip(PRIORITIES, values, strict=True))}"
    if classes.get("forklight-rollout", {}).get("preemptionPolicy") != "Never":
        yield "rollout pods may preempt others"
    for each in rendered.workloads:
        kind = SHARED.get(each.component, each.component.partition("-")[0])
        if each.pod.get("priorityClassName") != f"forklight-{kind}":
            yield f"{each.where} has priority {each.pod.get('priorityClassName')}, not forklight-{kind}"


def programs_are_walled(rendered: Rendered) -> Iterator[str]:
    """Away from `local`, programs of a model run in pods of gVisor's kernel."""
    sandbox = rendered.run_file["reward"]["sandbox"]
    if sandbox["tier"] == "process":
        return
    classes = [doc["metadata"]["name"] for doc in rendered.of("RuntimeClass")]
    pod = rendered.workload("reward-sandbox").pod
    if pod.get("runtimeClassName") not in classes or sandbox.get("runtime_class") not in classes:
        yield "the sandbox or its programs have no RuntimeClass that is here"


def one_writer(rendered: Rendered) -> Iterator[str]:
    """Buffer and trainer: one, the old one gone before the new one comes. GPUs: no surge."""
    for each in rendered.workloads:
        spec = each.doc["spec"]
        if each.doc["kind"] != "Deployment":
            continue
        is_one = spec.get("replicas") == 1 and spec.get("strategy", {}).get("type") == "Recreate"
        if each.component in ("buffer", "trainer") and not is_one:
            yield f"{each.where} could run twice"
        if each.component == "rollout" and spec["strategy"]["rollingUpdate"]["maxSurge"] != 0:
            yield f"{each.where} would wait for a GPU that only an old pod frees"


def references_resolve(rendered: Rendered) -> Iterator[str]:
    """ConfigMaps, claims and classes that a pod names are here; a stale hash would keep it from starting."""
    here = {(doc["kind"], doc["metadata"]["name"]) for doc in rendered.docs}
    for each in rendered.workloads:
        wanted = (
            {("PriorityClass", each.pod["priorityClassName"])} if "priorityClassName" in each.pod else set()
        )
        for container in each.containers:
            sources = [
                item["configMapRef"] for item in container.get("envFrom", []) if "configMapRef" in item
            ]
            wanted |= {("ConfigMap", source["name"]) for source in sources}
        for volume in each.pod.get("volumes", []):
            if "configMap" in volume:
                wanted.add(("ConfigMap", volume["configMap"]["name"]))
            if "persistentVolumeClaim" in volume:
                wanted.add(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
        yield from (f"{each.where} names {kind}/{name}, which is not here" for kind, name in wanted - here)


POLICIES: tuple[Policy, ...] = (
    no_root,
    namespaces_are_restricted,
    resources_are_bounded,
    probes_are_set,
    images_are_pinned,
    rights_are_least,
    traffic_is_closed,
    drains_are_safe,
    priorities_are_ordered,
    programs_are_walled,
    one_writer,
    references_resolve,
)


def broken(rendered: Rendered, policy: Policy) -> list[str]:
    """All that a policy complains about."""
    return list(policy(rendered))


def workload_named(docs: list[Doc], name: str) -> Workload:
    """For tests that change one."""
    return next(each for each in Rendered(docs).workloads if each.name == name)
