"""Small real things for the rollout tests: published nano weights, engines, tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from forklight.v1 import types_pb2
from forklight_core.telemetry import spans as core_spans
from forklight_core.telemetry.ids import SampleIdGenerator
from forklight_model.checkpoint import published_tensors
from forklight_model.model import HybridModel
from forklight_model.sizes import SIZES
from forklight_model.tokenizer import build_character_tokenizer
from forklight_rollout.adapters.native import NativeEngine, NativeOptions, native_engine_factory
from forklight_rollout.generation.generator import Generator
from forklight_rollout.generation.groups import FinishedSample, GroupWork, SampleStart
from forklight_rollout.memory_plan import MemoryWish
from forklight_rollout.ports import DrawRules, EndRules
from forklight_rollout.weights.manifest import PublishedWeights
from services.rollout.tests.versions import RUN_ID, verify, write_version


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def nano_model(seed: int) -> HybridModel:
    """Random weights, sharpened so that distributions are neither flat nor certain."""
    model = HybridModel(SIZES["nano"])
    model.initialize(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.lm_head.weight.mul_(20.0)
    return model.requires_grad_(False)


def publish_model(root: Path, model: HybridModel, version: int) -> types_pb2.WeightsRef:
    """Write a version as the trainer does: tensors, tokenizer, manifest."""
    reference = write_version(root, dict(published_tensors(model)), model.config.to_published(), version)
    build_character_tokenizer().save(Path(reference.manifest).parent)
    return reference


@pytest.fixture(scope="session")
def models() -> dict[int, HybridModel]:
    return {version: nano_model(version) for version in (0, 1)}


Publish = Callable[[int], types_pb2.WeightsRef]


@pytest.fixture
def publish(tmp_path: Path, models: dict[int, HybridModel]) -> Publish:
    """Publish version 0 or 1 into the test's folder."""
    return lambda version: publish_model(tmp_path / "weights", models[version], version)


@pytest.fixture(scope="session")
def published(
    tmp_path_factory: pytest.TempPathFactory, models: dict[int, HybridModel]
) -> dict[int, PublishedWeights]:
    """Both versions, verified. Tests must not touch the files."""
    root = tmp_path_factory.mktemp("weights")
    return {version: verify(publish_model(root, model, version)) for version, model in models.items()}


MakeEngine = Callable[..., NativeEngine]


@pytest.fixture
def make_engine(published: dict[int, PublishedWeights]) -> MakeEngine:
    def make(
        *, max_batch: int = 8, max_prompt_tokens: int = 64, budget_bytes: int = 2**30, **manner: object
    ) -> NativeEngine:
        values: dict[str, object] = {"dtype": "float32", "device": "cpu", "threads": 1}
        options = NativeOptions(**(values | manner))  # type: ignore[arg-type]
        wish = MemoryWish(
            max_batch=max_batch,
            max_prompt_tokens=max_prompt_tokens,
            max_new_tokens=64,
            budget_bytes=budget_bytes,
        )
        engine = native_engine_factory(wish, options)(published[0])
        assert isinstance(engine, NativeEngine)
        return engine

    return make


MakeWork = Callable[..., GroupWork]


@pytest.fixture
def make_work() -> MakeWork:
    def make(
        index: int = 0,
        *,
        prompt_ids: tuple[int, ...] = (1, 20, 30, 40, 2),
        num_samples: int = 1,
        seed: int = 7,
        stop_ids: frozenset[int] = frozenset(),
        stop_strings: tuple[str, ...] = (),
        **rules: float,
    ) -> GroupWork:
        group_id = f"{RUN_ID}/g{index:08d}"
        draw = {name: rules.pop(name) for name in ("top_p", "top_k", "min_p") if name in rules}
        end = {"max_new_tokens": 16, "repetition_probability": 0.99, "repetition_tokens": 0}
        return GroupWork(
            group_id=group_id,
            prompt_ids=prompt_ids,
            draw=DrawRules(temperature=rules.pop("temperature", 1.0), **draw),  # type: ignore[arg-type]
            end=EndRules(stop_ids=stop_ids, **(end | rules)),  # type: ignore[arg-type]
            stop_strings=stop_strings,
            samples=tuple(
                SampleStart(sample_id=f"{group_id}/s{number:03d}", seed=seed + number)
                for number in range(num_samples)
            ),
        )

    return make


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What this test's spans are kept in."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(id_generator=SampleIdGenerator())
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(core_spans, "_tracer", lambda: provider.get_tracer("test"))
    return exporter


def run_to_end(generator: Generator) -> dict[str, FinishedSample]:
    """Step until nothing is left; finished samples by id."""
    finished: dict[str, FinishedSample] = {}
    for _ in range(10_000):
        if generator.is_idle:
            return finished
        finished |= {sample.sample_id: sample for sample in generator.step()}
    raise AssertionError("the generator did not come to an end")


@pytest.fixture
def finish() -> Callable[[Generator], dict[str, FinishedSample]]:
    return run_to_end
