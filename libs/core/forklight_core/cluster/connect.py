"""Finds the cluster and speaks to its API server: paths in, JSON out, failures as errors of our tree."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from forklight_core.cluster.kubernetes_api import KubernetesCluster
from forklight_core.cluster.replies import Json
from forklight_core.errors import (
    BusyError,
    ConfigError,
    DeadlineError,
    ForklightError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
)

if TYPE_CHECKING:
    from kubernetes.client import ApiClient, Configuration

INSTALL = "install forklight-core[kubernetes]"
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
DEFAULT_NAMESPACE = "default"
CALL_LIMIT_S = 10.0
MERGE = "application/merge-patch+json"


def connect(*, namespace: str, context: str, timeout_s: float = CALL_LIMIT_S) -> KubernetesCluster:
    """The cluster this runs in, unless a context of the kubeconfig is named; else the kubeconfig's own."""
    try:
        from kubernetes import client, config
    except ImportError as error:
        raise ConfigError(f"a cluster needs the kubernetes package: {INSTALL}") from error
    settings = client.Configuration()
    settings.retries = 0  # the library would ask a server that is silent four times over
    try:
        said = _load(settings, context)
    except (config.ConfigException, OSError) as error:
        where = f"context {context!r} of the kubeconfig" if context else "no cluster around this process"
        raise ConfigError(
            f"{where}: {' '.join(str(error).split())}; run inside a cluster, or set KUBECONFIG and --context"
        ) from error
    api = Api(client.ApiClient(settings), timeout_s)
    return KubernetesCluster(api, namespace or said or DEFAULT_NAMESPACE)


def _load(settings: Configuration, context: str) -> str:
    """Fill in address and credentials; returns the namespace that goes with them."""
    from kubernetes import config

    if not context:
        try:
            config.load_incluster_config(client_configuration=settings)
            return NAMESPACE_FILE.read_text().strip() if NAMESPACE_FILE.exists() else ""
        except config.ConfigException:
            pass
    config.load_kube_config(context=context or None, client_configuration=settings)
    contexts, active = config.list_kube_config_contexts()
    chosen = next((each for each in contexts if each["name"] == context), active) if context else active
    return str((chosen or {}).get("context", {}).get("namespace", ""))


class Api:
    """One way to ask an API server."""

    def __init__(self, api_client: ApiClient, timeout_s: float = CALL_LIMIT_S) -> None:
        self._client = api_client
        self._timeout_s = timeout_s
        self.address = str(api_client.configuration.host)

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Json:
        """Read a thing or a list."""
        return self._ask("GET", path, query or {}, None)

    def patch(self, path: str, change: Json, *, dry_run: bool = False) -> Json:
        """Merge a change into a thing."""
        return self._ask("PATCH", path, {"dryRun": "All"} if dry_run else {}, change)

    def _ask(self, method: str, path: str, query: Mapping[str, str], body: Json | None) -> Json:
        from kubernetes.client.exceptions import OpenApiException
        from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError
        from urllib3.exceptions import TimeoutError as SlowError

        what = f"{method} {path} at {self.address}"
        request = self._client.param_serialize(
            method=method,
            resource_path=path,
            query_params=list(query.items()),
            header_params={"Accept": "application/json"} | ({"Content-Type": MERGE} if body else {}),
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            reply = self._client.call_api(*request, _request_timeout=self._timeout_s)
            data = reply.read()
            found = json.loads(data) if data else {}
        except (SlowError, MaxRetryError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, SlowError) and not isinstance(reason, NewConnectionError):
                raise DeadlineError(
                    f"{what}: no answer within {self._timeout_s:g} s; is the API server reachable from here?"
                ) from error
            raise UnavailableError(f"{what}: {_short(reason)}; does the address still hold?") from error
        except (OpenApiException, HTTPError, OSError, ValueError) as error:
            raise UnavailableError(f"{what}: {_short(error)}") from error
        if not 200 <= reply.status <= 299:
            raise refusal(reply.status, found, what)
        if not isinstance(found, dict):
            raise UnavailableError(f"{what}: answered with {type(found).__name__}, no object")
        return found

    def close(self) -> None:
        """Free the connections."""
        self._client.close()


def refusal(status: int, reply: object, what: str) -> ForklightError:
    """What a status means here, with the server's own words."""
    said = str(reply.get("message", "")) if isinstance(reply, dict) else ""
    message = f"{what}: {status} {said or 'without a word'}"
    match status:
        case 401:
            return PreconditionError(f"{message}; the credentials are not accepted (any more): sign in again")
        case 403:
            return PreconditionError(
                f"{message}; the right is missing: bind this account to a Role that has it (infra/k8s)"
            )
        case 404:
            return NotFoundError(message)
        case 409:
            return BusyError(f"{message}; somebody else changed it at the same time: try again")
        case 429:
            return BusyError(f"{message}; the API server is busy or a budget forbids it now: try again")
        case 400 | 405 | 415 | 422:
            return InvalidInputError(message)
    return UnavailableError(message)


def _short(error: object) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
