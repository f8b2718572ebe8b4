"""The pod of one job, in the API's own types: what the cluster's restricted profile wants, and more."""

from __future__ import annotations

import itertools
import secrets
from typing import TYPE_CHECKING

from forklight_core.runfile.schema import SandboxSection
from forklight_reward.sandbox.tiers.owner import OWNER_LABEL, label_value
from forklight_reward.sandbox.tiers.shape import (
    FIRST_USER,
    GUEST_MEMORY_MB,
    KERNEL_MEMORY_MB,
    NUM_USERS,
    Shape,
)
from forklight_reward.sandbox.tiers.wire import ENVIRONMENT, guest_command

if TYPE_CHECKING:
    from kubernetes.client import V1Container, V1Pod, V1SecurityContext

CONTAINER = "job"
DEADLINE_S = 1800
"""A pod ends after this whatever happens: longer than it may wait and its job may last, together."""
LOCAL_DISK = "64Mi"
_numbers = itertools.count()


def pod_of(section: SandboxSection, shape: Shape) -> V1Pod:
    """One pod that holds a guest."""
    from kubernetes import client

    user = FIRST_USER + next(_numbers) % NUM_USERS
    memory_disk = [
        client.V1Volume(
            name=name,
            empty_dir=client.V1EmptyDirVolumeSource(medium="Memory", size_limit=f"{shape.disk_mb}Mi"),
        )
        for name in ("box", "tmp")
    ]
    return client.V1Pod(
        api_version="v1",
        kind="Pod",
        metadata=client.V1ObjectMeta(
            name=f"forklight-job-{secrets.token_hex(8)}",
            namespace=section.namespace,
            labels={"app.kubernetes.io/name": "forklight-sandbox-job", OWNER_LABEL: label_value()},
        ),
        spec=client.V1PodSpec(
            containers=[container_of(section, shape)],
            volumes=memory_disk,
            restart_policy="Never",
            runtime_class_name=section.runtime_class or None,
            host_users=None if section.runtime_class else False,
            automount_service_account_token=False,
            enable_service_links=False,
            share_process_namespace=False,
            host_network=False,
            host_pid=False,
            host_ipc=False,
            hostname="box",
            dns_policy="None",
            dns_config=client.V1PodDNSConfig(nameservers=["127.0.0.1"]),
            active_deadline_seconds=DEADLINE_S,
            termination_grace_period_seconds=0,
            security_context=client.V1PodSecurityContext(
                run_as_non_root=True,
                run_as_user=user,
                run_as_group=user,
                fs_group=user,
                seccomp_profile=client.V1SeccompProfile(type="RuntimeDefault"),
            ),
        ),
    )


def container_of(section: SandboxSection, shape: Shape) -> V1Container:
    """The only container: requests are limits, so the pod is of class Guaranteed."""
    from kubernetes import client

    memory_mb = shape.memory_mb + 2 * shape.disk_mb + GUEST_MEMORY_MB
    memory_mb += KERNEL_MEMORY_MB if section.runtime_class else 0
    amounts = {"cpu": "1", "memory": f"{memory_mb}Mi", "ephemeral-storage": LOCAL_DISK}
    return client.V1Container(
        name=CONTAINER,
        image=section.image,
        image_pull_policy="IfNotPresent",
        command=guest_command("python3"),
        working_dir="/box",
        env=[client.V1EnvVar(name=name, value=value) for name, value in ENVIRONMENT.items()],
        stdin=True,
        stdin_once=True,
        tty=False,
        resources=client.V1ResourceRequirements(requests=amounts, limits=dict(amounts)),
        security_context=walls(),
        volume_mounts=[
            client.V1VolumeMount(name="box", mount_path="/box"),
            client.V1VolumeMount(name="tmp", mount_path="/tmp"),
        ],
    )


def walls() -> V1SecurityContext:
    """Nothing that a program could do without."""
    from kubernetes import client

    return client.V1SecurityContext(
        privileged=False,
        allow_privilege_escalation=False,
        read_only_root_filesystem=True,
        run_as_non_root=True,
        capabilities=client.V1Capabilities(drop=["ALL"]),
        seccomp_profile=client.V1SeccompProfile(type="RuntimeDefault"),
    )
