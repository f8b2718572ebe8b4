"""What the rollout pods of a run say of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forklight.v1 import rollout_pb2

PODS = "rollout-"
CALL_DEADLINE_S = 3.0


def ask_pods(addresses: Mapping[str, str]) -> dict[str, rollout_pb2.GetRolloutStatusReply | None]:
    """The answer of each pod by its name; None from one that does not answer."""
    return {name: _ask(address) for name, address in sorted(addresses.items()) if name.startswith(PODS)}


def _ask(address: str) -> rollout_pb2.GetRolloutStatusReply | None:
    from forklight.v1 import rollout_pb2, rollout_pb2_grpc
    from forklight_core.errors import DeadlineError, UnavailableError
    from forklight_core.rpc import open_sync_channel

    channel = open_sync_channel(address)
    try:
        stub = rollout_pb2_grpc.RolloutStub(channel)
        return stub.GetRolloutStatus(rollout_pb2.GetRolloutStatusRequest(), timeout=CALL_DEADLINE_S)
    except (UnavailableError, DeadlineError):
        return None
    finally:
        channel.close()


def describe_pod(reply: rollout_pb2.GetRolloutStatusReply | None) -> str:
    """One line."""
    from forklight.v1 import rollout_pb2

    if reply is None:
        return "does not answer"
    parts = [f"version {reply.version}", f"{reply.num_running} running", f"{reply.tokens_per_s:.0f} tokens/s"]
    if reply.HasField("numeric_mode"):
        parts.append("parity mode" if reply.numeric_mode.is_parity else "tolerance mode")
    if reply.HasField("probe"):
        outcome = rollout_pb2.ProbeOutcome.Name(reply.probe.outcome).removeprefix("PROBE_OUTCOME_")
        parts.append(f"probe {outcome.lower()}")
    if reply.HasField("waiting_version"):
        parts.append(f"version {reply.waiting_version} waits")
    if reply.draining:
        parts.append("draining")
    if reply.out_of_service:
        parts.append(f"OUT OF SERVICE: {reply.out_of_service}")
    elif reply.problem:
        parts.append(f"problem: {reply.problem}")
    return ", ".join(parts)
