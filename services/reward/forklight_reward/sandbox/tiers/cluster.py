"""Speaks to a Kubernetes cluster through its client: makes, attaches to, looks at and deletes pods."""

from __future__ import annotations

import select
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import ValidationError

from forklight_core.errors import UnavailableError
from forklight_reward.sandbox.tiers.manifest import CONTAINER
from forklight_reward.sandbox.tiers.owner import OWNER_LABEL

if TYPE_CHECKING:
    from kubernetes.client import ApiClient, V1Pod
    from kubernetes.stream.ws_client import WSClient

INSTALL = "install forklight-reward[kubernetes]"
CALL_LIMIT_S = 30
PIECE_BYTES = 32768
STDIN, STDOUT, STDERR, STATUS = 0, 1, 2, 3


@contextmanager
def cluster_errors(what: str) -> Iterator[None]:
    """Whatever the cluster or the way to it does wrong is a failure of the machinery."""
    from kubernetes.client.exceptions import OpenApiException
    from urllib3.exceptions import HTTPError
    from websocket import WebSocketException

    try:
        yield
    except (OpenApiException, HTTPError, WebSocketException, OSError, ValidationError) as error:
        said = " ".join(str(error).split())[:400] or type(error).__name__
        raise UnavailableError(f"sandbox: the cluster failed to {what}: {said}") from error


def connect_cluster() -> ApiClient:
    """The cluster this runs in, else the one of the kubeconfig. UnavailableError says what to do."""
    try:
        from kubernetes import client, config
    except ImportError as error:
        raise UnavailableError(f"sandbox: tier pod needs the kubernetes package: {INSTALL}") from error
    settings = client.Configuration()
    try:
        try:
            config.load_incluster_config(client_configuration=settings)
        except config.ConfigException:
            config.load_kube_config(client_configuration=settings)
    except (config.ConfigException, OSError) as error:
        raise UnavailableError(
            f"sandbox: tier pod finds no cluster: {error}; run inside one, or set KUBECONFIG"
        ) from error
    return client.ApiClient(settings)


class PodChannel:
    """Channel to the guest of one pod over an attached stream.

    Attached, not executed: what is executed beside a pod's first process could be killed by the job.
    """

    def __init__(self, api_client: ApiClient, namespace: str, name: str) -> None:
        from kubernetes import client
        from kubernetes.stream import stream

        # The library's stream() changes its client while it connects, so it gets one of its own.
        own = client.CoreV1Api(client.ApiClient(api_client.configuration))
        with cluster_errors("attach to a pod"):
            self._stream: WSClient = stream(
                own.connect_get_namespaced_pod_attach,
                name,
                namespace,
                container=CONTAINER,
                stdin=True,
                stdout=True,
                stderr=True,
                tty=False,
                binary=True,
                _preload_content=False,
                _request_timeout=CALL_LIMIT_S,
            )
        self._socket = self._stream.sock
        self._socket.settimeout(CALL_LIMIT_S)
        self._poller = select.poll()
        self._poller.register(self._socket.sock, select.POLLIN)
        self.complaint = bytearray()

    def send(self, data: bytes) -> None:
        """Everything, in pieces that every proxy on the way takes."""
        with cluster_errors("take a job"):
            for start in range(0, len(data), PIECE_BYTES):
                self._stream.write_channel(STDIN, data[start : start + PIECE_BYTES])

    def receive(self, timeout_s: float) -> bytes | None:
        """One frame, read here: the library's own update() reads as long as there is more."""
        from websocket import ABNF, WebSocketConnectionClosedException

        if not self._has_more() and not self._poller.poll(timeout_s * 1000):
            return None
        with cluster_errors("pass on a pod's output"):
            try:
                kind, frame = self._socket.recv_data_frame(True)
            except (WebSocketConnectionClosedException, ConnectionResetError):
                return b""
        if kind == ABNF.OPCODE_CLOSE:
            return b""
        data = bytes(frame.data)
        if kind not in (ABNF.OPCODE_BINARY, ABNF.OPCODE_TEXT) or len(data) < 2:
            return None
        if data[0] == STDOUT:
            return data[1:]
        if data[0] == STATUS:
            return b""
        if data[0] == STDERR:
            self.complaint = (self.complaint + data[1:])[-500:]
        return None

    def _has_more(self) -> bool:
        """Bytes that TLS has decrypted already and no poll would show."""
        inner = self._socket.sock
        return isinstance(inner, ssl.SSLSocket) and inner.pending() > 0

    def cpu_s(self) -> float:
        """No cluster says it quickly enough; the guest and the clock do."""
        return 0.0

    def close(self) -> None:
        """End the stream, with it the guest's input."""
        with cluster_errors("close a stream"):
            self._socket.shutdown()


class Cluster:
    """The few calls that pods need."""

    def __init__(self, api_client: ApiClient, namespace: str) -> None:
        from kubernetes import client

        self._api_client = api_client
        self._core = client.CoreV1Api(api_client)
        self._network = client.NetworkingV1Api(api_client)
        self._namespace = namespace

    def create(self, pod: V1Pod) -> str:
        """The new pod's name."""
        with cluster_errors("make a pod"):
            made = self._core.create_namespaced_pod(
                self._namespace, pod, _request_timeout=CALL_LIMIT_S, field_validation="Strict"
            )
        return str(made.metadata.name)

    def read(self, name: str) -> V1Pod:
        """The pod as it is."""
        with cluster_errors("look at a pod"):
            return self._core.read_namespaced_pod(name, self._namespace, _request_timeout=CALL_LIMIT_S)

    def attach(self, name: str) -> PodChannel:
        """A stream to its guest."""
        return PodChannel(self._api_client, self._namespace, name)

    def delete(self, name: str) -> None:
        """At once; one that is gone already is fine."""
        from kubernetes.client.exceptions import ApiException

        with cluster_errors("delete a pod"):
            try:
                self._core.delete_namespaced_pod(
                    name, self._namespace, grace_period_seconds=0, _request_timeout=CALL_LIMIT_S
                )
            except ApiException as error:
                if error.status != 404:
                    raise
            except ValidationError:
                return  # done, and answered with a status in place of the pod

    def owners(self) -> dict[str, str]:
        """Pods of sandboxes by name, and whose they are."""
        with cluster_errors("list pods"):
            found = self._core.list_namespaced_pod(
                self._namespace, label_selector=OWNER_LABEL, _request_timeout=CALL_LIMIT_S
            )
        return {pod.metadata.name: pod.metadata.labels[OWNER_LABEL] for pod in found.items}

    def denies_traffic(self) -> bool:
        """Whether a policy of the namespace selects every pod and allows nothing, in and out."""
        with cluster_errors("list network policies"):
            found = self._network.list_namespaced_network_policy(
                self._namespace, _request_timeout=CALL_LIMIT_S
            )
        specs = [policy.spec for policy in found.items]
        everyone = [
            spec
            for spec in specs
            if not (
                spec.pod_selector and (spec.pod_selector.match_labels or spec.pod_selector.match_expressions)
            )
        ]
        allows = any(spec.ingress or spec.egress for spec in specs)
        kinds = {kind for spec in everyone for kind in spec.policy_types or ()}
        return not allows and kinds >= {"Ingress", "Egress"}

    def close(self) -> None:
        """Free the connections."""
        self._api_client.close()
