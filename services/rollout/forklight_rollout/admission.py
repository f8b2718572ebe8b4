"""The checks at the door: what could not be generated is refused by field before it comes near the engine.

Tasks of the queue and requests of clients pass here alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from forklight.v1 import types_pb2
from forklight_core.blobs import BlobRef
from forklight_core.errors import InvalidInputError
from forklight_core.ids import sample_id
from forklight_rollout.generation.groups import GroupWork, SampleStart
from forklight_rollout.ports import MOST_STOP_IDS, DrawRules, EndRules, EngineLimits
from forklight_rollout.tools.ports import ToolRules


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """What this pod can generate."""

    limits: EngineLimits
    encode: Callable[[str], Sequence[int]]
    stop_ids: frozenset[int] = frozenset()
    tools: frozenset[str] = frozenset()
    largest_window: int = 0
    """What the run file of this pod names; 0: whatever fits into a sequence."""


def read_group(
    task: types_pb2.GenerationTask,
    indices: Sequence[int],
    capability: Capability,
) -> GroupWork:
    """The work a task asks for, or InvalidInputError naming the field that makes it impossible."""
    group_id, sampling = task.envelope.group_id, task.sampling
    if not group_id:
        raise _refused("group ?", "envelope.group_id", "is empty")
    where = f"group {group_id}"
    draw = DrawRules(temperature=sampling.temperature, top_p=sampling.top_p)
    end = EndRules(
        max_new_tokens=sampling.max_new_tokens,
        stop_ids=capability.stop_ids,
        repetition_tokens=sampling.repetition_tokens,
        repetition_probability=sampling.repetition_probability,
    )
    check_rules(draw, end, where)
    _check_planned(end, capability.largest_window, where)
    _check_indices(indices, sampling.num_samples, where)
    prompt_ids = read_prompt(task.prompt, capability, where)
    check_window(len(prompt_ids), end, where, capability.limits)
    samples = tuple(
        SampleStart(
            sample_id=sample_id(group_id, index),
            seed=(sampling.seed + index) % 2**64,
        )
        for index in indices
    )
    tools = read_tools(task.tools, capability, where) if task.HasField("tools") else None
    return GroupWork(
        group_id=group_id, prompt_ids=prompt_ids, draw=draw, end=end, samples=samples, tools=tools
    )


def read_tools(tools: types_pb2.Tools, capability: Capability, where: str) -> ToolRules | None:
    """What samples may call; None when that is nothing."""
    known = sorted(capability.tools)
    absent = sorted(set(tools.names) - capability.tools)
    if absent:
        raise _refused(
            where,
            "tools.names",
            f"asks for {absent[0]!r}, which this pod does not have (it has {known or 'none'}): "
            "give all pods this run's file and FORKLIGHT_SANDBOX_ADDRESS",
        )
    if not tools.names:
        return None
    workspace = tools.workspace if tools.HasField("workspace") else None
    if ("shell" in tools.names) != (workspace is not None):
        raise _refused(where, "tools.workspace", "has to come with the tool 'shell', and only with it")
    if not (math.isfinite(tools.timeout_s) and tools.timeout_s > 0):
        raise _refused(where, "tools.timeout_s", f"is {tools.timeout_s}; it must be finite and above 0")
    for name in ("max_calls", "max_output_tokens"):
        if getattr(tools, name) < 1:
            raise _refused(where, f"tools.{name}", "is 0; at least 1 is needed")
    return ToolRules(
        names=tuple(tools.names),
        max_calls=tools.max_calls,
        max_output_tokens=tools.max_output_tokens,
        timeout_s=tools.timeout_s,
        workspace=None if workspace is None else BlobRef(id=workspace.id, size_bytes=workspace.size_bytes),
    )


def check_rules(draw: DrawRules, end: EndRules, where: str) -> None:
    """Rules that contradict themselves."""
    if end.max_new_tokens < 1:
        raise _refused(where, "sampling.max_new_tokens", f"is {end.max_new_tokens}; at least 1 is needed")
    if not (math.isfinite(draw.temperature) and draw.temperature >= 0):
        raise _refused(where, "sampling.temperature", f"is {draw.temperature}; it must be finite, 0 or more")
    if not 0 < draw.top_p <= 1:
        raise _refused(where, "sampling.top_p", f"is {draw.top_p}; it must lie in (0, 1]")
    if draw.top_k < 0:
        raise _refused(where, "sampling.top_k", f"is {draw.top_k}; it must be 0 (all tokens) or more")
    if not 0 <= draw.min_p <= 1:
        raise _refused(where, "sampling.min_p", f"is {draw.min_p}; it must lie in [0, 1]")
    if len(end.stop_ids) > MOST_STOP_IDS:
        raise _refused(where, "stop token ids", f"are {len(end.stop_ids)}; at most {MOST_STOP_IDS} fit")
    if end.repetition_tokens and not 0 < end.repetition_probability < 1:
        raise _refused(
            where,
            "sampling.repetition_probability",
            f"is {end.repetition_probability}; with repetition_tokens set it must lie in (0, 1)",
        )


def _check_planned(end: EndRules, largest_window: int, where: str) -> None:
    """A pod's memory is planned once, for the largest window of its run file."""
    if largest_window and end.max_new_tokens > largest_window:
        raise _refused(
            where,
            "sampling.max_new_tokens",
            f"is {end.max_new_tokens}, and this pod was planned for windows of at most {largest_window} "
            "tokens (length.windows of its run file, else sampling.max_new_tokens): start it again with the "
            "file of this run",
        )


def _check_indices(indices: Sequence[int], num_samples: int, where: str) -> None:
    if num_samples < 1:
        raise _refused(where, "sampling.num_samples", "is 0; a group has at least one sample")
    for index in indices:
        if index >= num_samples:
            raise _refused(
                where, "sampling.num_samples", f"is {num_samples}, but sample {index} is asked for"
            )


def read_prompt(prompt: str, capability: Capability, where: str) -> tuple[int, ...]:
    """The tokens of a prompt given as text."""
    try:
        prompt_ids = tuple(capability.encode(prompt)) if prompt.strip() else ()
    except InvalidInputError as error:
        raise _refused(where, "prompt", f"cannot be encoded: {error}") from error
    check_prompt(prompt_ids, capability.limits, where, "; the tokenizer does not belong to these weights")
    return prompt_ids


def check_prompt(prompt_ids: Collection[int], limits: EngineLimits, where: str, hint: str = "") -> None:
    """At least one token, all of the vocabulary."""
    if not prompt_ids:
        raise _refused(where, "prompt", "is empty; there is nothing to continue")
    outside = [token for token in prompt_ids if not 0 <= token < limits.vocabulary_size]
    if outside:
        raise _refused(
            where,
            "prompt",
            f"has token id {outside[0]}, outside the vocabulary of {limits.vocabulary_size}{hint}",
        )


def check_window(num_prompt_tokens: int, end: EndRules, where: str, limits: EngineLimits) -> None:
    """Prompt and response fit into one sequence."""
    if num_prompt_tokens + end.max_new_tokens > limits.max_tokens:
        raise _refused(
            where,
            "prompt",
            f"has {num_prompt_tokens} tokens; with sampling.max_new_tokens {end.max_new_tokens} at most "
            f"{max(0, limits.max_tokens - end.max_new_tokens)} fit this pod's {limits.max_tokens} a sequence "
            "(raise FORKLIGHT_MAX_PROMPT_TOKENS or lower sampling.max_new_tokens)",
        )


def _refused(where: str, field: str, problem: str) -> InvalidInputError:
    return InvalidInputError(f"{where}: {field} {problem}")
