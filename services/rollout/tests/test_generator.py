"""Scheduling and stopping, on an engine that plays back what the test wrote."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count

import pytest

from forklight_rollout.adapters.memory import MemoryEngine, MemorySequence
from forklight_rollout.generation.draft import Span
from forklight_rollout.generation.generator import Generator
from forklight_rollout.generation.groups import FinishedSample, GroupWork
from forklight_rollout.ports import (
    DrawRules,
    EndRules,
    EngineLimits,
    FinishReason,
    PromptStart,
    SequenceStart,
    StepTokens,
)

MakeWork = Callable[..., GroupWork]
LIMITS = EngineLimits(num_sequences=4, max_tokens=1000, vocabulary_size=50)
STOP_ID = 9


class ScriptedEngine(MemoryEngine):
    """Every sequence gets the same tokens with the same probabilities; the version is the test's."""

    def __init__(self, script: Sequence[tuple[int, float]]) -> None:
        super().__init__(LIMITS)
        self._script = script
        self.version_now = 0

    @property
    def version(self) -> int:
        return self.version_now

    def step(self) -> StepTokens:
        return replace(super().step(), version=self.version_now)

    def draw(self, sequence: MemorySequence) -> tuple[int, float]:
        token, probability = self._script[sequence.num_tokens % len(self._script)]
        return token, math.log(probability)


def only(samples: dict[str, FinishedSample]) -> FinishedSample:
    (sample,) = samples.values()
    return sample


def test_a_stop_token_ends_a_sample_and_is_part_of_it(
    make_work: MakeWork, finish: Callable[[Generator], dict[str, FinishedSample]]
) -> None:
    generator = Generator(ScriptedEngine([(5, 0.5), (6, 0.5), (STOP_ID, 0.5)]))
    generator.add(make_work(max_new_tokens=3, stop_ids=frozenset({STOP_ID})))
    sample = only(finish(generator))
    assert (sample.reason, sample.response.ids.tolist()) == (FinishReason.STOP, [5, 6, STOP_ID])


def test_a_sample_ends_at_its_length(
    make_work: MakeWork, finish: Callable[[Generator], dict[str, FinishedSample]]
) -> None:
    generator = Generator(ScriptedEngine([(5, 0.5)]))
    generator.add(make_work(max_new_tokens=4, stop_ids=frozenset({STOP_ID})))
    sample = only(finish(generator))
    assert (sample.reason, len(sample.response.ids)) == (FinishReason.LENGTH, 4)


def test_near_certain_tokens_in_a_row_end_a_sample(
    make_work: MakeWork, finish: Callable[[Generator], dict[str, FinishedSample]]
) -> None:
    # Two certain tokens, one that is not: the row starts anew; 0.99 itself does not count.
    script = [(1, 0.995), (2, 0.995), (3, 0.98), (4, 0.995), (5, 0.999), (6, 1.0), (7, 0.5)]
    generator = Generator(ScriptedEngine(script))
    generator.add(make_work(max_new_tokens=50, repetition_tokens=3, repetition_probability=0.99))
    sample = only(finish(generator))
    assert (sample.reason, sample.response.ids.tolist()) == (FinishReason.REPETITION, [1, 2, 3, 4, 5, 6])


def test_repetition_never_ends_a_sample_when_it_is_off(
    make_work: MakeWork, finish: Callable[[Generator], dict[str, FinishedSample]]
) -> None:
    generator = Generator(ScriptedEngine([(1, 1.0)]))
    generator.add(make_work(max_new_tokens=30, repetition_tokens=0))
    assert only(finish(generator)).reason is FinishReason.LENGTH


def test_version_spans_say_where_each_version_began(
    make_work: MakeWork, finish: Callable[[Generator], dict[str, FinishedSample]]
) -> None:
    engine = ScriptedEngine([(1, 0.5)])
    generator = Generator(engine)
    generator.add(make_work(0, max_new_tokens=6))
    generator.step()
    generator.step()
    engine.version_now = 3
    generator.add(make_work(1, max_new_tokens=2))
    finished = finish(generator)
    spans = [sample.response.spans for sample in finished.values()]
    assert (Span(start=0, version=0), Span(start=2, version=3)) in spans
    assert (Span(start=0, version=3),) in spans


def test_the_engine_is_never_given_more_than_it_holds_and_never_starved(
    make_work: MakeWork, finish: Callable[[Generator], dict[str, FinishedSample]]
) -> None:
    generator = Generator(MemoryEngine(LIMITS))
    for index in range(7):
        generator.add(
            make_work(
                index, num_samples=3, seed=index * 10, stop_ids=frozenset({STOP_ID}), max_new_tokens=100
            )
        )
    assert (generator.num_running, generator.num_waiting) == (0, 21)
    finished: list[FinishedSample] = []
    while not generator.is_idle:
        had_enough = generator.num_running + generator.num_waiting >= 4
        before = generator.num_tokens
        finished += generator.step()  # the memory engine refuses a fifth sequence
        assert generator.num_tokens - before == 4 or not had_enough
    assert len({sample.sample_id for sample in finished}) == 21


def test_groups_start_in_the_order_they_came(make_work: MakeWork) -> None:
    clock = count()
    generator = Generator(ScriptedEngine([(1, 0.5)]), clock=lambda: next(clock))
    for index in range(4):
        generator.add(make_work(index, num_samples=2, max_new_tokens=3))
    finished = [sample.group_id for _ in range(6) for sample in generator.step()]
    assert finished == [f"test-run/g0000000{index}" for index in (0, 0, 1, 1, 2, 2, 3, 3)]


def test_cancelling_takes_waiting_and_running_samples_out(make_work: MakeWork) -> None:
    generator = Generator(ScriptedEngine([(1, 0.5)]))
    generator.add(make_work(0, num_samples=3, max_new_tokens=10))
    generator.add(make_work(1, num_samples=2, max_new_tokens=10))
    generator.step()
    assert generator.unstarted_groups() == []
    generator.add(make_work(2, num_samples=2, max_new_tokens=10))
    assert generator.unstarted_groups() == ["test-run/g00000002"]
    cancelled = generator.cancel({"test-run/g00000000/s001", "test-run/g00000001/s001"})
    assert [(sample.sample_id, sample.reason) for sample in cancelled] == [
        ("test-run/g00000000/s001", FinishReason.CANCELLED)
    ]
    assert (generator.num_running, generator.num_waiting) == (3, 2)


def test_an_engine_that_is_asked_for_too_much_says_so() -> None:
    engine = MemoryEngine(EngineLimits(num_sequences=0, max_tokens=10, vocabulary_size=10))

    def start(*sequences: SequenceStart) -> PromptStart:
        return PromptStart(
            group=1,
            prompt_ids=(1,),
            draw=DrawRules(temperature=1.0),
            end=EndRules(max_new_tokens=4),
            sequences=sequences,
        )

    engine.admit(start())
    assert engine.step().keys == []
    with pytest.raises(AssertionError, match="beyond 0"):
        engine.admit(start(SequenceStart(key=1, seed=1)))
