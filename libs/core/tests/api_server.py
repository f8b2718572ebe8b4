"""The part of a Kubernetes API server that our workloads need: lists in pages, merge patches, refusals."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

PATHS = re.compile(r"^/(api/v1|apis/[\w.-]+/\w+)/namespaces/([\w-]+)/([a-z]+)(?:/([\w.-]+)(/scale)?)?$")
MERGE = "application/merge-patch+json"


class ApiServer:
    """Objects by (group, namespace, plural), and how the server misbehaves."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
        self.refusals: dict[str, tuple[int, str]] = {}
        """Status and words for requests whose method and path begin like this."""
        self.silent_s = 0.0
        self.page = 0
        self.requests: list[tuple[str, str, dict[str, list[str]]]] = []
        self.authorization = ""
        """Of the last request."""
        self.url = ""

    def add(self, where: str, item: dict[str, Any], *, namespace: str = "forklight") -> None:
        """`where`: group and plural, as apps/v1:deployments."""
        group, _, plural = where.partition(":")
        prefix = "api/v1" if group == "v1" else f"apis/{group}"
        self.objects.setdefault((prefix, namespace, plural), {})[item["metadata"]["name"]] = item

    def write_kubeconfig(self, path: Path, *, namespace: str = "forklight") -> Path:
        """A kubeconfig with the contexts `here` (active) and `nobody`, whose server does not exist."""
        servers = {"here": self.url, "nobody": "http://127.0.0.1:1"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "clusters": [{"name": name, "cluster": {"server": url}} for name, url in servers.items()],
            "users": [{"name": "someone", "user": {"token": "secret"}}],
            "contexts": [
                {"name": name, "context": {"cluster": name, "user": "someone", "namespace": namespace}}
                for name in servers
            ],
        }
        path.write_text(json.dumps(config))
        return path


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    api: ApiServer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""

    def _reply(self, body: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with suppress(BrokenPipeError):  # who asked did not wait
            self.wfile.write(data)

    def _fail(self, status: int, message: str) -> None:
        self._reply({"kind": "Status", "status": "Failure", "message": message, "code": status}, status)

    def _find(self) -> tuple[re.Match[str], dict[str, dict[str, Any]]] | None:
        """The list a path is about; None when the answer is given already."""
        parts = urlsplit(self.path)
        self.api.authorization = self.headers.get("Authorization", "")
        self.api.requests.append((self.command, parts.path, parse_qs(parts.query)))
        if self.api.silent_s:
            time.sleep(self.api.silent_s)
        for start, (status, message) in self.api.refusals.items():
            if f"{self.command} {parts.path}".startswith(start):
                self._fail(status, message)
                return None
        found = PATHS.match(parts.path)
        known = {(group, plural) for group, _, plural in self.api.objects}
        if found is None or (found[1], found[3]) not in known:
            self._fail(404, "the server could not find the requested resource")
            return None
        return found, self.api.objects.get((found[1], found[2], found[3]), {})

    def do_GET(self) -> None:
        """A list, in pages when the server has a page size."""
        answer = self._find()
        if answer is None:
            return
        query = parse_qs(urlsplit(self.path).query)
        wanted = dict(pair.split("=") for pair in query.get("labelSelector", [""])[0].split(",") if pair)
        items = [
            item
            for _, item in sorted(answer[1].items())
            if wanted.items() <= item["metadata"].get("labels", {}).items()
        ]
        start = int(query.get("continue", ["0"])[0])
        end = start + self.api.page if self.api.page else len(items)
        metadata = {"continue": str(end)} if end < len(items) else {}
        self._reply({"kind": "List", "metadata": metadata, "items": items[start:end]})

    def do_PATCH(self) -> None:
        """A merge into an object, or into its scale."""
        change = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = self._find()
        if answer is None:
            return
        path, objects = answer
        if self.headers["Content-Type"] != MERGE:
            self._fail(415, f"the body of the request was in an unknown format: {MERGE} is known")
            return
        if path[4] not in objects:
            self._fail(404, f'{path[3]} "{path[4]}" not found')
            return
        before = objects[path[4]]
        after = merge(before, change)
        if "dryRun" not in parse_qs(urlsplit(self.path).query):
            objects[path[4]] = after
        self._reply({"kind": "Scale", "spec": {"replicas": after["spec"]["replicas"]}} if path[5] else after)


def merge(value: Any, change: Any) -> Any:
    """RFC 7386."""
    if not isinstance(change, dict):
        return change
    merged = dict(value) if isinstance(value, dict) else {}
    for key, each in change.items():
        if each is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), each)
    return merged


def workload(name: str, *, replicas: int = 1, ready: int = 0, component: str = "") -> dict[str, Any]:
    """A Deployment or StatefulSet of ours, as a server tells it."""
    own = {"app.kubernetes.io/name": name}
    labels = own | {
        "app.kubernetes.io/part-of": "forklight",
        "app.kubernetes.io/component": component or name,
        "app.kubernetes.io/version": "0.1.0",
    }
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": own},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "main", "image": f"forklight/{name}:1"}]},
            },
        },
        "status": {"readyReplicas": ready} if ready else {},
    }


@contextmanager
def serve_api() -> Iterator[ApiServer]:
    """A server on a port of its own that knows the kinds every cluster has."""
    api = ApiServer()
    for group, plural in (
        ("apis/apps/v1", "deployments"),
        ("apis/apps/v1", "statefulsets"),
        ("apis/autoscaling/v2", "horizontalpodautoscalers"),
        ("api/v1", "pods"),
    ):
        api.objects[(group, "forklight", plural)] = {}
    handler = type("BoundHandler", (Handler,), {"api": api})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
