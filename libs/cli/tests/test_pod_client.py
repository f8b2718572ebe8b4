"""What `forklight status` says of rollout pods."""

from __future__ import annotations

import pytest

from forklight.v1 import rollout_pb2, types_pb2
from forklight_cli.pod_client import ask_pods, describe_pod
from forklight_core.ports import free_ports

Reply = rollout_pb2.GetRolloutStatusReply
PROBE = rollout_pb2.Probe(outcome=rollout_pb2.PROBE_OUTCOME_WITHIN)


@pytest.mark.parametrize(
    ("reply", "line"),
    [
        (None, "does not answer"),
        (Reply(), "version 0, 0 running, 0 tokens/s"),
        (
            Reply(
                version=7,
                num_running=16,
                tokens_per_s=812.4,
                numeric_mode=types_pb2.NumericMode(is_parity=True),
                probe=PROBE,
                waiting_version=8,
                draining=True,
                problem="redis: away",
            ),
            "version 7, 16 running, 812 tokens/s, parity mode, probe within, version 8 waits, draining, "
            "problem: redis: away",
        ),
        (
            Reply(version=7, out_of_service="probe: 3 of 319 differ", problem="probe: 3 of 319 differ"),
            "version 7, 0 running, 0 tokens/s, OUT OF SERVICE: probe: 3 of 319 differ",
        ),
    ],
)
def test_a_pod_is_one_line(reply: Reply | None, line: str) -> None:
    assert describe_pod(reply) == line


def test_only_pods_are_asked_and_one_that_is_gone_is_said_to_be() -> None:
    gone = f"127.0.0.1:{free_ports(1)[0]}"
    assert ask_pods({"buffer": gone, "rollout-1": gone, "rollout-0": gone}) == {
        "rollout-0": None,
        "rollout-1": None,
    }
