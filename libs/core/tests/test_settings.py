"""The environment is read by name and explained when wrong; retries end."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import pytest
from pydantic import SecretStr

from forklight_core.errors import ConfigError, FencedError, UnavailableError
from forklight_core.logs import JsonFormatter
from forklight_core.retry import retry_async, retry_sync
from forklight_core.settings import ServiceSettings, describe_settings, load_settings

GOOD = {"FORKLIGHT_RUN_FILE": "/r/run.toml", "FORKLIGHT_RUN_FOLDER": "/r", "FORKLIGHT_RUN_ID": "run-1"}


def test_settings_come_from_the_environment() -> None:
    settings = load_settings(ServiceSettings, {**GOOD, "FORKLIGHT_POD": "p0", "OTHER": "x"})
    assert (settings.run_folder, settings.pod, settings.listen) == (Path("/r"), "p0", "127.0.0.1:0")


def test_missing_variable_is_named_with_its_purpose() -> None:
    with pytest.raises(ConfigError, match=r"FORKLIGHT_RUN_ID.*Id of the run"):
        load_settings(
            ServiceSettings, {key: value for key, value in GOOD.items() if key != "FORKLIGHT_RUN_ID"}
        )


def test_every_setting_is_described() -> None:
    text = describe_settings(ServiceSettings)
    assert all(f"FORKLIGHT_{name.upper()}" in text for name in ServiceSettings.model_fields)


def test_the_default_of_a_secret_is_shown_as_a_plain_value() -> None:
    class Guarded(ServiceSettings):
        token: SecretStr = SecretStr("")

    assert "FORKLIGHT_TOKEN   (default '')" in describe_settings(Guarded)


def test_retry_ends_when_the_call_succeeds_or_the_deadline_is_over() -> None:
    left = [UnavailableError("1"), UnavailableError("2")]

    def call() -> str:
        if left:
            raise left.pop()
        return "done"

    assert retry_sync(call, deadline_s=5) == "done"

    async def never() -> None:
        raise UnavailableError("down")

    with pytest.raises(UnavailableError):
        asyncio.run(retry_async(never, deadline_s=0.2))


def test_retry_gives_up_at_once_when_the_error_is_final() -> None:
    calls = []

    async def call() -> None:
        calls.append(1)
        raise FencedError("late")

    with pytest.raises(FencedError):
        asyncio.run(retry_async(call, deadline_s=5))
    assert len(calls) == 1


def test_log_line_is_json_with_its_fields() -> None:
    record = logging.makeLogRecord({"msg": "sample scored", "levelname": "INFO", "sample_id": "s"})
    line = json.loads(JsonFormatter("reward", "front-0").format(record))
    assert (line["message"], line["sample_id"], line["service"]) == ("sample scored", "s", "reward")
