"""A stored verdict of a run folder, scored again by workers opened for this one case."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

from forklight.v1 import types_pb2
from forklight_core.blobs import open_blob_store
from forklight_core.errors import UnavailableError
from forklight_core.rpc import open_channel
from forklight_core.runfile import load_run_file
from forklight_core.wire import Session
from forklight_reward.adapters.grpc import GrpcJudge
from forklight_reward.adapters.memory import LocalSandbox, LocalVerifier
from forklight_reward.audit.evidence import EvidenceStore
from forklight_reward.audit.find import Found, find_verdicts
from forklight_reward.audit.log import FOLDER
from forklight_reward.audit.record import read_verdict
from forklight_reward.audit.replay import Archive, Replay, replay
from forklight_reward.front.fleet import fleet_of
from forklight_reward.front.route import TaskKind
from forklight_reward.ports import Judge, JudgeTask, Outcome, Sandbox


async def replay_from_run(
    run_folder: Path, name: str, *, blobs_url: str, judge_address: str = ""
) -> tuple[Found, Replay]:
    """The newest verdict of a key, or of a sample, and what comes of it now."""
    run_file = load_run_file(run_folder / "run.toml")
    found = find_verdicts(run_folder / FOLDER, name)[-1]
    stored = read_verdict(found.body)
    archive = Archive(
        run_folder=run_folder,
        blobs=open_blob_store(blobs_url),
        evidence=EvidenceStore(run_folder / FOLDER / "evidence"),
    )
    sandbox: Sandbox = _Missing()
    judge: Judge = _Missing()
    async with AsyncExitStack() as closing:
        if stored.facts.kind in (TaskKind.CODE, TaskKind.GYM):
            from forklight_reward.sandbox.tiers.choice import open_runner

            runner = open_runner(run_file.reward.sandbox)
            closing.callback(runner.close)
            sandbox = LocalSandbox(runner)
        if stored.facts.kind == TaskKind.JUDGE and judge_address:
            judge = GrpcJudge(await closing.enter_async_context(open_channel(judge_address)))
        fleet = fleet_of([LocalVerifier()], [sandbox], [judge])
        return found, await replay(stored, archive, fleet, run_file.reward.timeout_s)


class _Missing:
    """Ports Sandbox and Judge where there is none to ask."""

    async def execute(
        self,
        *,
        envelope: types_pb2.Envelope,
        spec_json: str,
        source: str,
        session: Session | None = None,
        timeout_s: float,
    ) -> Outcome:
        """Only code tasks ask, and for them there is one."""
        raise UnavailableError("no sandbox was opened for this verdict")

    async def judge(self, *, envelope: types_pb2.Envelope, task: JudgeTask, timeout_s: float) -> Outcome:
        """A judge keeps its calibration in its own process."""
        raise UnavailableError(
            "a verdict of a judge is replayed by the run's judge, which does not run: "
            "`forklight resume` the run, or name another with --judge HOST:PORT"
        )
