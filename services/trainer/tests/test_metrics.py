"""What a step and a publication measure arrives at an exporter, under the names of the registry."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from forklight_core.errors import BusyError, ParityError
from forklight_core.runfile import RunFile
from forklight_core.telemetry import METRICS, registry
from forklight_model.tokenizer import build_character_tokenizer
from forklight_trainer import metrics
from forklight_trainer.adapters.torch_plain import OptimizerSettings, TorchEngine
from forklight_trainer.publishing.versions import WeightsStore
from forklight_trainer.steps.parity import MIN_GATED_TOKENS, Parity
from forklight_trainer.steps.records import StepRecord
from forklight_trainer.steps.step import gate_parity, step_settings

Point = tuple[str, frozenset[tuple[str, object]]]
SAID_OTHERWISE = {
    "time": "every point of a series has one",
    "num_groups": "of the run file, unless samples were lost: forklight.trainer.samples_lost",
    "num_samples": "the same",
    "parity_version": "whose weights a figure is of is no figure",
    "normalization": "a word: forklight.trainer.token_share says it as a number",
}


class Exporter:
    """A meter provider of its own, read at once."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader])

    def read(self) -> dict[Point, float]:
        """Values by name and labels; of a histogram the sum."""
        data = self._reader.get_metrics_data()
        found: dict[Point, float] = {}
        for resource in data.resource_metrics if data else ():
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                for point in metric.data.data_points:
                    value = point.sum if hasattr(point, "sum") else point.value
                    found[metric.name, frozenset(dict(point.attributes or {}).items())] = value
        return found


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Exporter]:
    found = Exporter()
    monkeypatch.setattr(registry.metrics, "get_meter", found.provider.get_meter)
    makers = (registry.counter, registry.histogram, registry.gauge)
    for maker in makers:
        maker.cache_clear()
    yield found
    for maker in makers:
        maker.cache_clear()
    found.provider.shutdown()


def key(name: str, **labels: object) -> Point:
    return name, frozenset(labels.items())


def record_of_numbers() -> StepRecord:
    """Every number is another one, so that none can stand for another."""
    assert all(each.default is MISSING for each in fields(StepRecord))
    values: dict[str, Any] = {each.name: 1000 + place for place, each in enumerate(fields(StepRecord))}
    return StepRecord(**values | {"normalization": "combined", "seconds": {"train": 7.5}})


def test_every_number_of_a_step_record_is_a_metric_or_said_why_not(exporter: Exporter) -> None:
    record = record_of_numbers()
    metrics.record_step(record)
    measured = set(exporter.read().values())
    numbers: Mapping[str, Any] = {
        each.name: getattr(record, each.name)
        for each in fields(record)
        if each.name not in SAID_OTHERWISE and each.name != "seconds"
    }
    assert [name for name, value in numbers.items() if value not in measured] == []
    assert [name for name in SAID_OTHERWISE if getattr(record, name) in measured] == []


def test_the_schedules_values_of_a_step_are_gauges(exporter: Exporter) -> None:
    record = replace(
        record_of_numbers(), eps_high=3.0, grad_clip=0.5, learning_rate=2e-6, token_share=0.25, window=65536
    )
    metrics.record_step(record)
    found = exporter.read()
    for name, value in (
        ("eps_high", 3.0),
        ("grad_clip", 0.5),
        ("learning_rate", 2e-6),
        ("token_share", 0.25),
        ("window", 65536),
    ):
        assert found[key(f"forklight.trainer.{name}")] == value
    assert found[key("forklight.trainer.stage_duration", stage="train")] == 7.5


def test_what_was_not_measured_leaves_its_gauge_as_it_was(exporter: Exporter) -> None:
    record = record_of_numbers()
    metrics.record_step(replace(record, eps_high=3.0, tail_perplexity=2.0))
    metrics.record_step(replace(record, eps_high=None, tail_perplexity=math.nan))
    found = exporter.read()
    assert found[key("forklight.trainer.eps_high")] == 3.0
    assert found[key("forklight.trainer.tail_perplexity")] == 2.0
    assert found[key("forklight.trainer.put_in_tokens")] == 2 * record.put_in_tokens


def test_publications_are_measured_whole_changed_and_failed(
    exporter: Exporter, tmp_path: Path, make_model: Any
) -> None:
    adam = OptimizerSettings(betas=(0.9, 0.95), eps=1e-15, weight_decay=0.0)
    model = make_model(0)
    engine = TorchEngine(model, adam, dtype=torch.bfloat16)
    store = WeightsStore(
        folder=tmp_path / "weights",
        run_id="test-run",
        tokenizer=build_character_tokenizer(),
        dtype="bfloat16",
        contract="c",
    )
    store.publish(engine, version=0, step=0)
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1.0
    engine._refresh_compute()
    store.publish(engine, version=1, step=1)
    store.publish(engine, version=1, step=1)  # these very weights are there: nothing is written
    name = "forklight.trainer.publication"
    found = exporter.read()
    num_bytes = sum(parameter.numel() * 2 for parameter in model.parameters())
    assert found[key(f"{name}.bytes", kind="full")] == num_bytes
    changed = found[key(f"{name}.bytes", kind="delta")]
    assert 0 < changed < num_bytes / 10
    assert found[key(f"{name}.stored_share")] == pytest.approx(changed / num_bytes)
    assert found[key(f"{name}.duration", kind="full")] > 0
    assert found[key(f"{name}.duration", kind="delta")] > 0
    assert not any(each.endswith("failures") for each, _ in found)


def test_an_attempt_to_publish_that_fails_is_counted_by_its_error(
    exporter: Exporter, tmp_path: Path, make_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    adam = OptimizerSettings(betas=(0.9, 0.95), eps=1e-15, weight_decay=0.0)
    store = WeightsStore(
        folder=tmp_path / "weights",
        run_id="test-run",
        tokenizer=build_character_tokenizer(),
        dtype="float32",
        contract="c",
    )

    def fail(number: int, data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(BusyError):
        store.publish(TorchEngine(make_model(0), adam), version=0, step=0)
    found = exporter.read()
    assert found[key("forklight.trainer.publication.failures", error="BusyError")] == 1
    assert not any("duration" in name for name, _ in found)


def test_every_metric_of_the_trainer_is_one_of_the_registry_and_used() -> None:
    registered = {spec.name for spec in METRICS if spec.owner == "trainer"}
    used = {
        value
        for value in vars(metrics).values()
        if isinstance(value, str) and value.startswith("forklight.trainer.")
    }
    assert used == registered


def test_a_correlation_that_pauses_the_run_is_seen_beside_its_gate(exporter: Exporter) -> None:
    """The record of a step that is refused is never written: the alert needs the number before."""
    settings = step_settings(RunFile())
    parity = Parity(
        correlation=0.9, max_dp=0.5, mean_kl=0.2, num_tokens=MIN_GATED_TOKENS, num_unequal=7, version=3
    )
    with pytest.raises(ParityError):
        gate_parity(parity, settings)
    found = exporter.read()
    assert found["forklight.trainer.gated_correlation", frozenset()] == 0.9
    assert found["forklight.trainer.correlation_gate", frozenset()] == settings.parity.min_correlation
