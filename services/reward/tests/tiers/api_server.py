"""The part of a Kubernetes API server that tier pod uses, over real HTTP and WebSockets.

A pod here is the command of its manifest, really started, as the first process of a pid namespace of its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from forklight_reward.sandbox.jail import open_jail

DENY_ALL = {
    "metadata": {"name": "deny-all"},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
}
PODS = re.compile(r"^/api/v1/namespaces/([\w-]+)/pods(?:/([\w-]+)(/attach)?)?$")
POLICIES = re.compile(r"^/apis/networking\.k8s\.io/v1/namespaces/([\w-]+)/networkpolicies$")
ACCEPT_KEY = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
STDOUT, STDERR, STATUS = 1, 2, 3


class Cluster:
    """Pods and policies of one namespace."""

    def __init__(self) -> None:
        self.pods: dict[str, dict[str, Any]] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.policies: list[dict[str, Any]] = [DENY_ALL]
        self.created: list[dict[str, Any]] = []
        self.queries: list[dict[str, list[str]]] = []
        self.deleted: list[str] = []
        self.waiting = ""
        self.terminated = ""
        self.url = ""
        self.lock = threading.Lock()

    def start(self, pod: dict[str, Any]) -> None:
        """Run the command of a new pod, in a box of the size that it asked for."""
        container = pod["spec"]["containers"][0]
        name = pod["metadata"]["name"]
        sizes = {
            volume["name"]: int(volume["emptyDir"]["sizeLimit"][:-2]) << 20
            for volume in pod["spec"]["volumes"]
        }
        jail = open_jail()
        argv = [
            jail.bwrap,
            "--unshare-pid",
            "--unshare-ipc",
            "--unshare-net",
            "--as-pid-1",
            "--die-with-parent",
        ]
        user = str(pod["spec"]["securityContext"]["runAsUser"])
        argv += ["--unshare-user", "--uid", user, "--gid", user, "--cap-drop", "ALL", "--new-session"]
        argv += ["--clearenv", *jail.mounts, "--size", str(sizes["box"]), "--tmpfs", container["workingDir"]]
        for variable in container["env"]:
            argv += ["--setenv", variable["name"], variable["value"]]
        argv += ["--chdir", container["workingDir"], "--remount-ro", "/", jail.interpreter]
        argv += container["command"][1:]
        self.processes[name] = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={}, bufsize=0
        )

    def stop(self, name: str) -> None:
        """End a pod's processes: all of them, by the first of their namespace."""
        process = self.processes.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()

    def view(self, name: str) -> dict[str, Any]:
        """A pod with its status."""
        process = self.processes.get(name)
        if self.waiting:
            state: dict[str, Any] = {"waiting": {"reason": self.waiting}}
        elif process is not None and process.poll() is not None:
            state = {"terminated": {"reason": self.terminated or "Error", "exitCode": 137}}
        else:
            state = {"running": {}}
        phase = {"waiting": "Pending", "terminated": "Failed", "running": "Running"}[next(iter(state))]
        status = {
            "name": "job",
            "image": "i",
            "imageID": "i",
            "ready": True,
            "restartCount": 0,
            "state": state,
        }
        return self.pods[name] | {"status": {"phase": phase, "containerStatuses": [status]}}


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    cluster: Cluster

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""

    def _reply(self, body: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _missing(self) -> None:
        self._reply({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}, 404)

    def do_POST(self) -> None:
        """A new pod."""
        pod = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        parts = urlsplit(self.path)
        with self.cluster.lock:
            self.cluster.created.append(pod)
            self.cluster.queries.append(parse_qs(parts.query))
            self.cluster.pods[pod["metadata"]["name"]] = pod
            if not self.cluster.waiting:
                self.cluster.start(pod)
        self._reply(pod, 201)

    def do_DELETE(self) -> None:
        """The end of a pod."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = PODS.match(urlsplit(self.path).path)
        name = found[2] if found else ""
        with self.cluster.lock:
            if name not in self.cluster.pods:
                return self._missing()
            pod = self.cluster.pods.pop(name)
            self.cluster.deleted.append(name)
            self.cluster.stop(name)
        return self._reply(pod)

    def do_GET(self) -> None:
        """A pod, all pods, the policies, or a stream."""
        path = urlsplit(self.path).path
        if POLICIES.match(path):
            return self._reply({"kind": "NetworkPolicyList", "items": self.cluster.policies})
        found = PODS.match(path)
        if found is None:
            return self._missing()
        name = found[2]
        if name is None:
            return self._reply(
                {"kind": "PodList", "items": [self.cluster.view(each) for each in self.cluster.pods]}
            )
        if name not in self.cluster.pods:
            return self._missing()
        if found[3]:
            return self._attach(self.cluster.processes[name])
        return self._reply(self.cluster.view(name))

    def _attach(self, process: subprocess.Popen[bytes]) -> None:
        """Switch to WebSocket and pass bytes on in both directions."""
        accept = base64.b64encode(
            hashlib.sha1((self.headers["Sec-WebSocket-Key"] + ACCEPT_KEY).encode()).digest()
        )
        self.send_response(101, "Switching Protocols")
        for name, value in (("Upgrade", "websocket"), ("Connection", "Upgrade")):
            self.send_header(name, value)
        self.send_header("Sec-WebSocket-Accept", accept.decode())
        self.send_header("Sec-WebSocket-Protocol", "v4.channel.k8s.io")
        self.end_headers()
        sending = threading.Lock()
        pumps = [
            threading.Thread(target=self._pump, args=(stream.fileno(), channel, sending), daemon=True)
            for channel, stream in ((STDOUT, process.stdout), (STDERR, process.stderr))
            if stream is not None
        ]
        for pump in pumps:
            pump.start()
        self._feed(process)
        self.close_connection = True

    def _pump(self, descriptor: int, channel: int, sending: threading.Lock) -> None:
        while True:
            try:
                data = os.read(descriptor, 16384)
                with sending:
                    self.wfile.write(
                        frame(bytes([channel if data else STATUS]) + (data or b'{"status":"Success"}'))
                    )
            except OSError:
                return
            if not data:
                return

    def _feed(self, process: subprocess.Popen[bytes]) -> None:
        """What the client sends, until it closes."""
        while (message := read_message(self.rfile)) is not None:
            if message[:1] == b"\0" and process.stdin is not None:
                try:
                    write_all(process.stdin.fileno(), message[1:])
                except (OSError, ValueError):
                    return


def write_all(descriptor: int, data: bytes) -> None:
    """Write everything."""
    while data:
        data = data[os.write(descriptor, data) :]


def frame(data: bytes) -> bytes:
    """One unmasked binary message."""
    head = bytes([0x82, len(data)]) if len(data) < 126 else b"\x82\x7e" + struct.pack(">H", len(data))
    return head + data


def read_message(stream: Any) -> bytes | None:
    """One masked message; None at the end."""
    head = stream.read(2)
    if len(head) < 2 or head[0] & 0x0F == 8:
        return None
    size = head[1] & 0x7F
    if size == 126:
        size = struct.unpack(">H", stream.read(2))[0]
    elif size == 127:
        size = struct.unpack(">Q", stream.read(8))[0]
    mask = stream.read(4)
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    return (int.from_bytes(stream.read(size), "big") ^ key).to_bytes(size, "big")


@contextmanager
def serve_cluster() -> Iterator[Cluster]:
    """A cluster on a port of its own; afterwards none of its pods lives."""
    cluster = Cluster()
    handler = type("BoundHandler", (Handler,), {"cluster": cluster})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    cluster.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield cluster
    finally:
        server.shutdown()
        server.server_close()
        for name in list(cluster.processes):
            cluster.stop(name)
