"""The collector's files: pipelines of declared parts in order, policies over attributes our spans have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from tests.telemetry.rules import ROOT

FOLDER = ROOT / "infra" / "otel"
CODE = [*ROOT.glob("services/*/forklight_*"), ROOT / "libs" / "core" / "forklight_core"]


def read(name: str) -> Mapping[str, Any]:
    content: Mapping[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return content


@pytest.mark.parametrize("name", ["collector.yaml", "node.yaml"])
def test_pipelines_are_of_declared_parts_and_limit_memory_first_and_batch_last(name: str) -> None:
    config = read(name)
    used: dict[str, set[str]] = {"receivers": set(), "processors": set(), "exporters": set()}
    for pipeline in config["service"]["pipelines"].values():
        for kind, names in used.items():
            names |= set(pipeline[kind])
        assert pipeline["processors"][0] == "memory_limiter"
        assert pipeline["processors"][-1] == "batch"
    for kind, names in used.items():
        assert names == set(config[kind]), kind
    assert set(config["service"].get("extensions", ())) == set(config.get("extensions", {}))


def test_all_errors_all_slow_traces_and_one_percent_of_the_rest_are_kept() -> None:
    sampling = read("collector.yaml")["processors"]["tail_sampling"]
    policies = {policy["name"]: policy for policy in sampling["policies"]}
    assert {policy["type"] for policy in policies.values()} == {
        "status_code", "string_attribute", "latency", "ottl_condition", "probabilistic"
    }  # fmt: skip
    assert policies["errors"]["status_code"]["status_codes"] == ["ERROR"]
    assert policies["slow-samples"]["latency"]["threshold_ms"] > 0
    assert policies["the-rest"]["probabilistic"]["sampling_percentage"] == 1
    assert list(policies)[-1] == "the-rest"
    cache = sampling["decision_cache"]
    assert min(cache.values()) > sampling["num_traces"]


def test_policies_speak_of_what_our_spans_have() -> None:
    policies = {
        policy["name"]: policy for policy in read("collector.yaml")["processors"]["tail_sampling"]["policies"]
    }
    code = "\n".join(path.read_text() for folder in CODE for path in folder.rglob("*.py"))
    condition = policies["failed-samples"]["string_attribute"]
    assert f'"{condition["key"]}"' in code
    from forklight_buffer.states import State

    assert set(condition["values"]) <= {state.name.lower() for state in State}
    (named,) = policies["steps"]["ottl_condition"]["span"]
    (name,) = re.findall(r'name == "([^"]+)"', named)
    assert f'"{name}"' in code


def test_logs_are_parsed_as_our_processes_write_them() -> None:
    operators = {each["id"]: each for each in read("node.yaml")["receivers"]["filelog"]["operators"]}
    assert operators["trace"]["trace_id"]["parse_from"] == "attributes.trace_id"
    assert operators["trace"]["span_id"]["parse_from"] == "attributes.span_id"
    written = (ROOT / "libs" / "core" / "forklight_core" / "logs.py").read_text()
    for key in ("trace_id", "span_id", "time", "level", "message", "service"):
        assert f'"{key}"' in written
