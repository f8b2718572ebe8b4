"""The sandbox role over the tier of the run file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from forklight.v1 import reward_pb2, reward_pb2_grpc
from forklight_core.errors import ConfigError
from forklight_core.rpc import open_channel
from forklight_core.runfile import load_run_file
from forklight_reward.app import run_sandbox
from forklight_reward.settings import SandboxSettings
from services.reward.tests.test_doors import free_address, running, until_serving

IMAGE = os.environ.get("FORKLIGHT_TEST_SANDBOX_IMAGE", "")
SPEC = json.dumps({"mode": "stdio", "tests": [{"stdin": "40 2", "stdout": "42"}]})
SOURCE = "print(sum(map(int, input().split())))"
TIERS = {
    "process": ('tier = "process"\nallow_unsafe = true\n', "UNSAFE-process"),
    "container": (f'tier = "container"\nimage = "{IMAGE}"\n', "container runtime="),
}


@pytest.mark.parametrize(
    "tier",
    [
        "process",
        pytest.param(
            "container",
            marks=[
                pytest.mark.engine,
                pytest.mark.skipif(not IMAGE, reason="FORKLIGHT_TEST_SANDBOX_IMAGE names no image"),
            ],
        ),
    ],
)
async def test_a_verdict_says_which_tier_it_came_from(
    tier: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys, name = TIERS[tier]
    (tmp_path / "run.toml").write_text(f"[reward.sandbox]\n{keys}")
    address = free_address()
    settings = SandboxSettings.model_validate(
        {
            "run_file": tmp_path / "run.toml",
            "run_folder": tmp_path,
            "run_id": "run",
            "listen": address,
            "sandbox_compiler": "",
        }
    )
    async with running(lambda stop: run_sandbox(settings, stop)), open_channel(address) as channel:
        await until_serving(address)
        request = reward_pb2.ExecuteRequest(spec_json=SPEC, source=SOURCE)
        reply = await reward_pb2_grpc.SandboxStub(channel).Execute(request, timeout=30)
    assert reply.score == 1.0
    assert name in reply.worker_version
    served = [item for item in caplog.records if "UNSAFE sandbox serves" in item.message]
    assert bool(served) == (tier == "process")
    if served:
        assert "reads host files" in served[0].__dict__["open_to_a_program"]


def test_an_environment_variable_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOW_UNSAFE", "1")
    monkeypatch.setenv("FORKLIGHT_ALLOW_UNSAFE", "1")
    (tmp_path / "run.toml").write_text('[reward.sandbox]\ntier = "process"\n')
    with pytest.raises(ConfigError, match="allow_unsafe"):
        load_run_file(tmp_path / "run.toml")
