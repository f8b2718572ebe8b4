"""Pods, versions, workloads: what is asked, what is remembered, what is shown when something is away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from forklight.v1 import buffer_pb2, rollout_pb2, rollout_pb2_grpc
from forklight_console.adapters.memory import MemoryPods, MemoryRunView
from forklight_console.adapters.pods import GrpcPods
from forklight_console.app import make_app
from forklight_console.fleet.rows import holder_rows, make_fleet
from forklight_console.sampler import MOST_PODS_APART, MOST_ROWS, Sampler
from forklight_console.steps.series import SeriesQuery
from forklight_core.cluster import MemoryCluster, Pod, Workload
from forklight_core.errors import UnavailableError
from forklight_core.rpc import Registration, serve
from services.console.tests.seeded_run import make_pods, make_status

WORKLOADS = (
    Workload(name="rollout", kind="Deployment", wanted=3, ready=1, component="rollout", selector="c=rollout"),
    Workload(name="trainer", kind="JobSet", wanted=1, ready=1, component="trainer", scalable=False),
)


class Clock:
    """Five seconds a look."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        self.now += 5
        return self.now


def test_rows_put_what_is_wrong_on_top_and_count_versions() -> None:
    fleet = make_fleet(make_pods(), 5000)
    assert [row.state for row in fleet.rows[:3]] == ["out of service", "no answer", "draining"]
    assert dict(fleet.tiles)["pods that answer"] == "6 of 7"
    assert fleet.versions == [(5000, 4, "67%"), (4999, 2, "33%")]
    assert {row.behind for row in fleet.rows if row.version == "4999"} == {"1 behind"}
    assert holder_rows(make_status())[0] == ("rollout-7d9f6c5b8-00000", [14, 0, 0])
    assert holder_rows(make_status())[-1] == ("reward-front-0", [0, 0, 9])
    assert [row.name for row in make_fleet(make_pods(), 5000, search="LOST").rows] == ["rollout-lost"]


async def test_the_sampler_remembers_pods_queues_and_rounds_and_leaves_gaps() -> None:
    view, pods = MemoryRunView(reply=make_status()), MemoryPods(answers=make_pods(2))
    sampler = Sampler(view, pods, clock=Clock())
    await sampler.look()
    view.error = UnavailableError("nobody listens")
    await sampler.look()
    pods.answers = []
    await sampler.look()
    live = sampler.live(SeriesQuery(fields=("pod.*", "queue.tasks waiting")))
    assert live.x == [1_000_005, 1_000_010]
    assert live.values["queue.tasks waiting"] == [31, None]
    assert live.values["pod.rollout-7d9f6c5b8-00001"] == [9137, 9137]
    rounds = sampler.rounds(SeriesQuery(fields=("pass_at_*",)))
    assert (len(rounds.x), sorted(rounds.values)) == (19, ["pass_at_1", "pass_at_4"])
    assert rounds.generation == 0


def test_rounds_that_were_written_down_are_recalled(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    sampler = Sampler(MemoryRunView(), MemoryPods())
    sampler.recall_rounds(path)
    passes = {"k": 4, "value": 0.5, "low": 0.4, "high": 0.6, "num_prompts": 8}
    lines = [
        {
            "version": 3,
            "num_samples": 8,
            "num_failed": 0,
            "mean_reward": 0.25,
            "reward_low": None,
            "pass_at": [],
        },
        {"version": 6, "num_samples": 8, "num_failed": 0, "mean_reward": 0.5, "pass_at": [passes], "new": 1},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '[1]\n"x"\n{"version": "a"}\n{"ver')
    sampler.recall_rounds(path)
    rounds = sampler.rounds(SeriesQuery(fields=("reward", "pass_at_4")))
    assert (rounds.x, rounds.values) == ([3, 6], {"reward": [0.25, 0.5], "pass_at_4": [None, 0.5]})


async def test_memory_of_the_sampler_is_bounded_in_pods_and_in_time() -> None:
    sampler = Sampler(MemoryRunView(), MemoryPods(answers=make_pods(MOST_PODS_APART + 1)), clock=Clock())
    for _ in range(MOST_ROWS + 10):
        await sampler.look()
    live = sampler.live(SeriesQuery(fields=("pod.*",)))
    assert sorted(live.values) == ["pod.highest", "pod.lowest", "pod.mean"]
    assert live.num_rows == MOST_ROWS // 2 + 10


class RolloutDoor(rollout_pb2_grpc.RolloutServicer):
    """A pod."""

    async def GetRolloutStatus(
        self, request: rollout_pb2.GetRolloutStatusRequest, context: object
    ) -> rollout_pb2.GetRolloutStatusReply:
        return rollout_pb2.GetRolloutStatusReply(pod="rollout-a", version=9, tokens_per_s=120.0)


async def test_pods_are_asked_by_their_doors(tmp_path: Path, unused_tcp_port: int) -> None:
    registration = Registration(
        rollout_pb2_grpc.add_RolloutServicer_to_server, RolloutDoor(), "forklight.v1.Rollout"
    )
    assert await GrpcPods(tmp_path).ask() == []
    async with serve("127.0.0.1:0", [registration]) as server:
        addresses = {
            "rollout-0": server.address,
            "rollout-1": f"127.0.0.1:{unused_tcp_port}",
            "buffer": "127.0.0.1:1",
        }
        (tmp_path / "system.json").write_text(json.dumps({"addresses": addresses}))
        pods = GrpcPods(tmp_path)
        lost, found = await pods.ask()
        assert (lost.name, lost.reply) == ("rollout-1", None)
        assert "does not answer" in lost.problem
        assert found.reply is not None
        assert (found.name, found.reply.version) == ("rollout-a", 9)
        await pods.close()
        named = GrpcPods(tmp_path, server.address.replace("127.0.0.1", "localhost"))
        assert [each.name for each in await named.ask() if each.reply] == ["rollout-a"]
        await named.close()
    assert await GrpcPods(tmp_path, "no.such.host.invalid:1").ask() == []


def page_of(**parts: object) -> str:
    view = MemoryRunView(reply=make_status())
    pods = MemoryPods(answers=make_pods())
    app = make_app(view, "run", is_local=True, parts={"sampler": Sampler(view, pods), **parts})
    answer = TestClient(app, base_url="http://127.0.0.1").get("/fleet")
    assert answer.status_code == 200
    return answer.text


def test_page_shows_pods_and_no_cluster_outside_one() -> None:
    text = page_of()
    assert "the probe of version 5000 disagrees" in text
    assert "namespace" not in text


def test_page_shows_the_workloads_and_why_pods_do_not_run() -> None:
    pod = Pod(name="rollout-x", phase="Pending", reason="Unschedulable <gpu>")
    cluster = MemoryCluster(namespace="forklight", workloads=WORKLOADS, pods={"c=rollout": (pod,)})
    text = page_of(cluster=cluster)
    assert "Workloads in namespace forklight" in text
    assert "Unschedulable &lt;gpu&gt;" in text
    assert "fixed size" in text


class LostCluster(MemoryCluster):
    """Its API server is away."""

    def workloads(self) -> tuple[Workload, ...]:
        raise UnavailableError("the API server does not answer")


def test_page_stands_when_the_cluster_does_not_answer() -> None:
    text = page_of(cluster=LostCluster(namespace="forklight"))
    assert "The cluster does not answer: the API server does not answer" in text
    assert "rollout-lost" in text
    assert "no cluster around" in page_of(cluster_problem="no cluster around this process")


@pytest.mark.parametrize("path", ["/api/series/live?fields=pod.*", "/api/series/rounds?fields=reward"])
def test_series_over_time_are_json(path: str) -> None:
    app = make_app(MemoryRunView(reply=buffer_pb2.GetStatusReply()), "run", is_local=True)
    client = TestClient(app, base_url="http://127.0.0.1")
    assert client.get(path).json()["x"] == []
    assert client.get(f"{path}&have=1,2").status_code == 422
    assert client.get(f"{path}&points=5").status_code == 422
