"""`forklight-health ADDRESS`: asks a service whether it serves, for container engines and for people.

Kubernetes asks by itself (native gRPC probes). Exit codes: 0 it serves, 1 it does not, 2 a wrong question.
"""

from __future__ import annotations

import argparse
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from forklight_core.errors import ConfigError
from forklight_core.rpc.client import open_bare_channel

DEFAULT_TIMEOUT_S = 3.0
_STATUS = health_pb2.HealthCheckResponse.ServingStatus


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found, in words."""

    is_serving: bool
    reason: str


def probe(address: str, *, service: str = "", timeout_s: float = DEFAULT_TIMEOUT_S) -> Answer:
    """Ask once: host:port by gRPC's health protocol, an http:// address for a 200."""
    if address.startswith(("http://", "https://")):
        return _probe_http(address, timeout_s)
    return _probe_grpc(address, service, timeout_s)


def _probe_grpc(address: str, service: str, timeout_s: float) -> Answer:
    with open_bare_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            found = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout_s).status
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return Answer(
                    False, f"knows no service {service!r}; leave --service out to ask for the whole"
                )
            return Answer(False, f"does not answer: {error.code().name}: {error.details()}")
    return Answer(found == _STATUS.Value("SERVING"), _STATUS.Name(found))


def _probe_http(address: str, timeout_s: float) -> Answer:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(address, timeout=timeout_s) as reply:
            return Answer(reply.status == 200, f"answers {reply.status}")
    except urllib.error.HTTPError as error:
        return Answer(False, f"answers {error.code}")
    except OSError as error:
        return Answer(False, f"does not answer: {getattr(error, 'reason', error)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script; says in one line what it found."""
    parser = argparse.ArgumentParser(prog="forklight-health", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "address", metavar="ADDRESS", help="host:port of a gRPC door, or http://host:port/path"
    )
    parser.add_argument("--service", default="", help="full proto name of one service; default: the whole")
    parser.add_argument(
        "--timeout", type=float, default=DEFAULT_TIMEOUT_S, help="seconds, default %(default)s"
    )
    given = parser.parse_args(arguments)
    if given.timeout <= 0:
        parser.error(f"--timeout {given.timeout:g}: expected more than 0 seconds")
    if not given.address.startswith(("http://", "https://")) and not _is_host_and_port(given.address):
        parser.error(f"{given.address!r} is neither host:port nor http://host:port/path")
    try:
        answer = probe(given.address, service=given.service, timeout_s=given.timeout)
    except ConfigError as error:  # certificates that do not fit
        answer = Answer(False, str(error))
    stream = sys.stdout if answer.is_serving else sys.stderr
    stream.write(f"{given.address}{' ' + given.service if given.service else ''}: {answer.reason}\n")
    return 0 if answer.is_serving else 1


def _is_host_and_port(address: str) -> bool:
    host, _, port = address.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 65536


if __name__ == "__main__":
    sys.exit(main())
