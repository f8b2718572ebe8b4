"""What the door lets through: sound tasks become work, impossible ones are refused by field."""

from __future__ import annotations

import math
import re

import pytest

from forklight.v1 import types_pb2
from forklight_core.errors import InvalidInputError
from forklight_rollout.admission import Capability, read_group
from forklight_rollout.generation.groups import GroupWork
from forklight_rollout.ports import EngineLimits
from forklight_rollout.tools.ports import ToolRules

LIMITS = EngineLimits(num_sequences=4, max_tokens=32, vocabulary_size=200)


def make_task(**sampling: float) -> types_pb2.GenerationTask:
    values: dict[str, float] = {
        "num_samples": 4,
        "max_new_tokens": 20,
        "temperature": 1.0,
        "top_p": 1.0,
        "seed": 5,
        "repetition_probability": 0.99,
        "repetition_tokens": 3000,
    }
    return types_pb2.GenerationTask(
        envelope=types_pb2.Envelope(schema_version=1, run_id="r", group_id="r/g00000001"),
        prompt="hello",
        sampling=types_pb2.Sampling(**(values | sampling)),  # type: ignore[arg-type]
    )


def read(task: types_pb2.GenerationTask, indices: tuple[int, ...] = (0, 1, 2, 3)) -> GroupWork:
    return read_group(
        task, indices, Capability(limits=LIMITS, encode=lambda text: [ord(letter) for letter in text])
    )


def test_only_the_missing_samples_are_generated_with_seeds_of_their_own() -> None:
    work = read(make_task(seed=2**64 - 2), (1, 3))
    assert [sample.sample_id for sample in work.samples] == ["r/g00000001/s001", "r/g00000001/s003"]
    assert [sample.seed for sample in work.samples] == [2**64 - 1, 1]
    assert work.prompt_ids == tuple(b"hello")


@pytest.mark.parametrize(
    ("field", "sampling"),
    [
        ("sampling.num_samples", {"num_samples": 0}),
        ("sampling.num_samples", {"num_samples": 3}),
        ("sampling.max_new_tokens", {"max_new_tokens": 0}),
        ("sampling.temperature", {"temperature": -0.5}),
        ("sampling.temperature", {"temperature": math.nan}),
        ("sampling.temperature", {"temperature": math.inf}),
        ("sampling.top_p", {"top_p": 0.0}),
        ("sampling.top_p", {"top_p": 1.5}),
        ("sampling.top_p", {"top_p": math.nan}),
        ("sampling.repetition_probability", {"repetition_probability": 0.0}),
        ("sampling.repetition_probability", {"repetition_probability": 1.0}),
        ("prompt", {"max_new_tokens": 28}),
        ("prompt", {"max_new_tokens": 2**32 - 1}),
    ],
)
def test_impossible_sampling_is_refused_by_field(field: str, sampling: dict[str, float]) -> None:
    with pytest.raises(InvalidInputError, match=rf"group r/g00000001: {field} "):
        read(make_task(**sampling))


def test_a_window_larger_than_the_pod_was_planned_for_is_refused_whatever_the_prompt() -> None:
    capability = Capability(limits=LIMITS, encode=lambda text: [1], largest_window=20)
    assert read_group(make_task(max_new_tokens=20), (0,), capability).end.max_new_tokens == 20
    with pytest.raises(
        InvalidInputError,
        match=r"sampling\.max_new_tokens is 21, and this pod was planned for windows of at most 20 tokens "
        r"\(length\.windows of its run file",
    ):
        read_group(make_task(max_new_tokens=21), (0,), capability)


@pytest.mark.parametrize("prompt", ["", "   \n", "x" * 13, "\u0416"])
def test_an_empty_long_or_foreign_prompt_is_refused(prompt: str) -> None:
    task = make_task()
    task.prompt = prompt
    with pytest.raises(InvalidInputError, match="group r/g00000001: prompt "):
        read(task)


def test_a_tokenizer_that_fails_is_the_prompts_fault() -> None:
    def encode(text: str) -> list[int]:
        raise InvalidInputError(f"no token for {text!r}")

    with pytest.raises(InvalidInputError, match="prompt cannot be encoded: no token for 'hello'"):
        read_group(make_task(), (0,), Capability(limits=LIMITS, encode=encode))


def test_the_longest_prompt_that_fits_is_accepted() -> None:
    task = make_task()
    task.prompt = "x" * 12
    assert len(read(task).prompt_ids) == 12


def test_repetition_may_be_switched_off() -> None:
    work = read(make_task(repetition_tokens=0, repetition_probability=0.0))
    assert work.end.repetition_tokens == 0


def with_tools(**tools: object) -> types_pb2.GenerationTask:
    values: dict[str, object] = {
        "names": ["python"],
        "max_calls": 2,
        "max_output_tokens": 64,
        "timeout_s": 5.0,
    }
    task = make_task()
    task.tools.CopyFrom(types_pb2.Tools(**(values | tools)))  # type: ignore[arg-type]
    return task


def test_tools_of_a_task_become_rules_and_none_are_none() -> None:
    capability = Capability(limits=LIMITS, encode=lambda text: [1], tools=frozenset({"python"}))
    assert read_group(with_tools(), (0,), capability).tools == ToolRules(
        names=("python",), max_calls=2, max_output_tokens=64, timeout_s=5.0
    )
    assert read_group(with_tools(names=[]), (0,), capability).tools is None
    assert read_group(make_task(), (0,), capability).tools is None


@pytest.mark.parametrize(
    ("field", "tools"),
    [
        (
            "tools.names asks for 'shell', which this pod does not have (it has ['python'])",
            {"names": ["shell"]},
        ),
        ("tools.max_calls", {"max_calls": 0}),
        ("tools.max_output_tokens", {"max_output_tokens": 0}),
        ("tools.timeout_s", {"timeout_s": 0.0}),
        ("tools.timeout_s", {"timeout_s": math.inf}),
    ],
)
def test_impossible_tools_are_refused_by_field(field: str, tools: dict[str, object]) -> None:
    capability = Capability(limits=LIMITS, encode=lambda text: [1], tools=frozenset({"python"}))
    with pytest.raises(InvalidInputError, match=re.escape(field)):
        read_group(with_tools(**tools), (0,), capability)
