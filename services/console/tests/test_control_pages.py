"""Run control and the ledger through real doors: asked, confirmed, audited; refused where it must be."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from forklight.v1 import rollout_pb2, rollout_pb2_grpc, trainer_pb2, trainer_pb2_grpc
from forklight_console.adapters.pods import GrpcPods
from forklight_console.sampler import Sampler
from forklight_core.control_log import Outcome, read_lines
from forklight_core.errors import PreconditionError
from forklight_core.rpc import Registration, serve
from services.console.tests.real_run import SeenRun, seen_run


class TrainerDoor(trainer_pb2_grpc.TrainerServicer):
    """Has done step 7 and keeps the checkpoints of 4 and 6."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def GetTrainerStatus(self, request: object, context: object) -> trainer_pb2.GetTrainerStatusReply:
        return trainer_pb2.GetTrainerStatusReply(step=7, version=7, stage="train", checkpoint_steps=[4, 6, 7])

    async def RollBack(
        self, request: trainer_pb2.RollBackRequest, context: object
    ) -> trainer_pb2.RollBackReply:
        self.asked.append(f"{request.step} {request.reason} {request.exact} {request.dry_run}")
        return trainer_pb2.RollBackReply(
            from_step=7,
            from_version=7,
            to_step=request.step,
            to_version=request.step,
            dry_run=request.dry_run,
        )

    async def SaveCheckpoint(
        self, request: trainer_pb2.SaveCheckpointRequest, context: object
    ) -> trainer_pb2.SaveCheckpointReply:
        if "late" in request.reason:
            raise PreconditionError("the run is over: its last step has a checkpoint")
        return trainer_pb2.SaveCheckpointReply(step=7, durable_step=6)


class PodDoor(rollout_pb2_grpc.RolloutServicer):
    """A pod that drains at once."""

    async def GetRolloutStatus(self, request: object, context: object) -> rollout_pb2.GetRolloutStatusReply:
        return rollout_pb2.GetRolloutStatusReply(pod="rollout-0", version=7)

    async def Drain(self, request: rollout_pb2.DrainRequest, context: object) -> rollout_pb2.DrainReply:
        assert request.deadline_s == 9
        return rollout_pb2.DrainReply(num_finished=3, num_released=1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def run(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SeenRun]:
    trainer, folder = TrainerDoor(), tmp_path_factory.mktemp("seen")
    doors = [
        Registration(trainer_pb2_grpc.add_TrainerServicer_to_server, trainer, "forklight.v1.Trainer"),
        Registration(rollout_pb2_grpc.add_RolloutServicer_to_server, PodDoor(), "forklight.v1.Rollout"),
    ]
    async with serve("127.0.0.1:0", doors) as server, seen_run(folder) as opened:
        addresses = {"trainer": server.address, "rollout-0": server.address}
        (folder / "system.json").write_text(json.dumps({"addresses": addresses}))
        pods = GrpcPods(folder)
        opened.app.state.sampler = Sampler(opened.app.state.view, pods)
        await opened.app.state.sampler.look()
        opened.app.state.trainer_door = trainer
        yield opened
        await pods.close()


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def ask(run: SeenRun, action: str, **form: str) -> tuple[int, str]:
    answer = await run.client.post(f"/control/{action}", data=form)
    return answer.status_code, answer.text


async def test_an_action_is_confirmed_done_audited_and_told_to_the_run(run: SeenRun) -> None:
    status, page = await ask(run, "pause", reason="look at <b>it</b>")
    assert status == 200 and "look at &lt;b&gt;it&lt;/b&gt;" in page and 'name="confirmed"' in page
    assert read_lines(run.folder, limit=9) == []
    assert (await run.app.state.view.status()).phase == 1
    status, _ = await ask(run, "pause", reason="look at <b>it</b>", confirmed="yes")
    assert status == 303
    now = await run.app.state.view.status()
    assert (now.phase, now.reason) == (2, "look at <b>it</b>")
    event = now.events[-1]
    assert (event.kind, event.step) == ("control", 1) and "Pause, asked for by console" in event.title
    (line,) = read_lines(run.folder, limit=9)
    assert (line.action, line.reason, line.outcome) == ("pause", "look at <b>it</b>", Outcome.DONE)
    assert line.who == "console, no token, from 127.0.0.1" and line.detail == "the run is paused"
    page = (await run.client.get("/control")).text
    assert '<span class="badge good">done</span> the run is paused' in page and "<b>it</b>" not in page
    assert (await ask(run, "resume", reason="seen", confirmed="yes"))[0] == 303
    assert (await run.app.state.view.status()).phase == 1


async def test_what_a_door_refuses_is_shown_and_audited_as_failed(run: SeenRun) -> None:
    status, page = await ask(run, "checkpoint", reason="too late", confirmed="yes")
    assert status == 409 and "the run is over" in page
    line = read_lines(run.folder, limit=1)[0]
    assert (line.action, line.outcome) == ("checkpoint", Outcome.FAILED) and "the run is over" in line.detail
    status, page = await ask(run, "redrive", reason="again", target="nothing", confirmed="yes")
    assert status == 404 and "does not exist" in page
    assert (await ask(run, "drain-pod", reason="r", target="gone", confirmed="yes"))[0] == 422


async def test_the_trainer_and_a_pod_are_asked_at_their_own_doors(run: SeenRun) -> None:
    assert (await ask(run, "checkpoint", reason="before the night", confirmed="yes"))[0] == 303
    assert read_lines(run.folder, limit=1)[0].detail == "steps 7 to 7 are written before the next step begins"
    status, page = await ask(run, "rollback", reason="garble", target="4")
    assert status == 200 and "Given up: steps 5 to 7" in page
    assert (await ask(run, "rollback", reason="garble", target="4", confirmed="yes"))[0] == 303
    assert run.app.state.trainer_door.asked == ["4 garble True True", "4 garble True False"]
    assert (await ask(run, "drain-pod", reason="node", target="rollout-0", deadline_s="9", confirmed="yes"))[
        0
    ] == 303
    assert "finished 3 samples and handed 1 back" in read_lines(run.folder, limit=1)[0].detail
    page = (await run.client.get("/control")).text
    assert "<option>6</option><option>4</option>" in page and "rollout-0 (0 running)" in page


async def test_nothing_is_done_by_get_from_elsewhere_or_without_a_reason(run: SeenRun) -> None:
    before = len(read_lines(run.folder, limit=99))
    assert (await run.client.get("/control/pause?reason=x&confirmed=yes")).status_code == 405
    form = {"reason": "x", "confirmed": "yes"}
    for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "http://evil.example"}):
        assert (await run.client.post("/control/pause", data=form, headers=headers)).status_code == 403
    for wrong in ({"reason": " "}, {}, {"reason": "x" * 501}, {"reason": "x", "deadline_s": "never"}):
        assert (await ask(run, "pause", **wrong, confirmed="yes"))[0] == 422
    assert (await ask(run, "rollback", reason="x", target="four", confirmed="yes"))[0] == 422
    assert (await ask(run, "explode", reason="x"))[0] == 422
    assert (await run.client.post("/control/pause", content=b"a=" + b"x" * 70_000)).status_code == 413
    assert (await run.app.state.view.status()).phase == 1
    assert len(read_lines(run.folder, limit=99)) == before + 1  # the roll back that named no step


async def test_nothing_is_done_when_its_line_cannot_be_written(run: SeenRun) -> None:
    path = run.folder / "control.jsonl"
    kept = path.read_bytes()
    path.unlink()
    path.mkdir()
    status, page = await ask(run, "pause", reason="x", confirmed="yes")
    assert status == 503 and "nothing is done to a run without its line" in page
    assert (await run.app.state.view.status()).phase == 1
    path.rmdir()
    path.write_bytes(kept + b'{"torn": ')
    assert (await ask(run, "checkpoint", reason="mended", confirmed="yes"))[0] == 303
    assert read_lines(run.folder, limit=1)[0].reason == "mended"


async def test_the_ledger_is_shown_with_what_was_given_up(run: SeenRun) -> None:
    page = (await run.client.get("/ledger")).text
    assert 'href="/samples?state=trained"' in page and "l0001" in page and "None was given up." in page
    assert "step_min=1&amp;step_max=1" in page and "given up" not in page.replace("None was given up.", "")
    await run.play.train(2)
    await run.play.restore(lineage="l0001", step=1)
    page = (await run.client.get("/ledger")).text
    assert "l0002" in page and "<small>given up</small>" in page and "Taken back" in page
    reply = (await run.client.get("/api/ledger")).json()
    assert [(each["lineage"], each["step"], each["stands"]) for each in reply["commits"]] == [
        ("l0001", "2", False),
        ("l0001", "1", True),
    ]
    assert [(each["num_samples"], each["became"]) for each in reply["rollbacks"]] == [("4", "open")]
    assert (await run.client.get("/ledger?after=junk")).status_code == 422
    assert (await run.client.get("/api/ledger?after=l0001:2")).json()["commits"][0]["step"] == "1"


async def test_pages_say_so_when_the_buffer_is_away(run: SeenRun, tmp_path: Path) -> None:
    from forklight_console.parts import open_parts
    from forklight_console.settings import ConsoleSettings
    from forklight_core.rpc import open_channel

    settings = ConsoleSettings(
        run_file=tmp_path / "run.toml", run_folder=tmp_path, run_id="seen", buffer_address="127.0.0.1:9"
    )
    kept = {name: getattr(run.app.state, name) for name in ("samples", "ledger", "control")}
    async with open_channel("127.0.0.1:9") as channel, open_parts(channel, settings) as parts:
        for name, part in parts.items():
            setattr(run.app.state, name, part)
        for path in ("/samples", "/groups", "/ledger", "/samples/g00000000/s000", "/groups/g00000000"):
            answer = await run.client.get(path)
            assert answer.status_code == 503 and 'role="alert"' in answer.text, path
        page = await run.client.get("/control")
        assert page.status_code == 200 and "the trainer does not answer" in page.text
    for name, part in kept.items():
        setattr(run.app.state, name, part)
