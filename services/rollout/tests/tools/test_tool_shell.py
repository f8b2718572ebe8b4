"""The tool `shell`: what it asks, what a response's session is, and that a prompt without files has none."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from forklight.v1 import types_pb2
from forklight_core.blobs import BlobRef
from forklight_core.errors import InvalidInputError
from forklight_core.wire import Session, unpack_payload
from forklight_rollout.admission import Capability, read_tools
from forklight_rollout.generation.draft import Draft
from forklight_rollout.generation.generator import Generator
from forklight_rollout.generation.groups import FinishedSample
from forklight_rollout.leases.trajectory import build_payload
from forklight_rollout.ports import FinishReason
from forklight_rollout.tools.ports import ToolCall, ToolOutcome
from forklight_rollout.tools.python import ProgramEnd, ProgramOutput
from forklight_rollout.tools.shell import ShellTool
from services.rollout.tests.tools.scripted import (
    ENCODER,
    LIMITS,
    RULES,
    TOKENIZER,
    TextEngine,
    run_with_replies,
    tool_work,
)

WORKSPACE = BlobRef(id="sha256:" + "0" * 64, size_bytes=2)
SHELL = replace(RULES, names=("python", "shell"), workspace=WORKSPACE)


def call_of(name: str, **arguments: object) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


class Runner:
    """Port SessionRunner."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []

    async def act(self, workspace: BlobRef, session: Session, *, sample_id: str) -> ProgramOutput:
        assert workspace == WORKSPACE
        self.sessions.append(session)
        return ProgramOutput(end=ProgramEnd.TIME_LIMIT, stdout="out\n", stderr="")


def inner(call: str) -> str:
    return call.removeprefix("<tool_call>").removesuffix("</tool_call>")


async def test_shell_asks_with_all_commands_before() -> None:
    runner = Runner()
    earlier = tuple(
        map(inner, (call_of("shell", command="ls"), call_of("python", code="1"), call_of("shell", cmd="rm")))
    )
    call = ToolCall(key=0, sample_id="s", group_id="g", number=4, text="", rules=SHELL, earlier=earlier)
    reply = await ShellTool(runner=runner).run(
        {"command": "cat a\0\ud800"}, replace(call, rules=replace(SHELL, max_calls=9))
    )
    assert reply.text == "out\nerror: the command ran out of time (2 s)"
    assert runner.sessions == [Session(commands=("ls", "cat a?"), timeout_s=2.0)]
    for wrong in ({}, {"command": " "}, {"command": 1}, {"command": "x" * 70_000}, {"command": "x", "a": 1}):
        assert (await ShellTool(runner=runner).run(wrong, call)).outcome is ToolOutcome.BAD_CALL  # type: ignore[arg-type]
    nothing = replace(call, rules=replace(SHELL, workspace=None))
    assert (await ShellTool(runner=runner).run({"command": "ls"}, nothing)).outcome is ToolOutcome.BAD_CALL
    assert len(runner.sessions) == 1


def test_a_call_knows_those_before_it_and_the_payload_has_the_answered_ones() -> None:
    first, second, third = (call_of("shell", command=f"echo {n}") for n in (1, 2, 3))
    generator = Generator(
        TextEngine([f"a{first}", f"b{call_of('shell')}", second, third, "end"]), decode=TOKENIZER.decode
    )
    generator.add(tool_work(tools=replace(SHELL, max_calls=3)))
    seen: list[tuple[int, tuple[str, ...]]] = []

    def answer(call: ToolCall) -> list[int]:
        seen.append((call.number, call.earlier))
        return list(ENCODER.encode("ok", 50))

    (sample,) = run_with_replies(generator, answer).values()
    whole = tuple(map(inner, (first, call_of("shell"), second)))
    assert seen == [(number + 1, whole[:number]) for number in range(3)] + [(4, whole)]
    arrays = unpack_payload(build_payload(sample, decode=TOKENIZER.decode, contract="c"))
    # The second was no command, the fourth came after the last that is answered.
    assert arrays.session == Session(commands=("echo 1", "echo 2"), timeout_s=2.0)


def test_a_call_that_nobody_answered_is_no_command() -> None:
    draft = Draft()
    for token in TOKENIZER.encode(call_of("shell", command="rm x")):
        draft.add(token, -0.5, -0.5, 0)
    work = tool_work(tools=SHELL)
    ended = FinishedSample(
        sample_id="r/g0/s0", group_id="r/g0", prompt_ids=work.prompt_ids, response=draft.stretch(),
        reason=FinishReason.LENGTH, started_at=0.0, finished_at=1.0, tools=SHELL,
    )  # fmt: skip
    assert unpack_payload(build_payload(ended, decode=TOKENIZER.decode, contract="c")).session is None


@pytest.mark.parametrize("names", [["python"], ["python", "shell"]])
def test_files_come_with_the_shell_and_only_with_it(names: list[str]) -> None:
    capability = Capability(limits=LIMITS, encode=TOKENIZER.encode, tools=frozenset({"python", "shell"}))
    tools = types_pb2.Tools(names=names, max_calls=1, max_output_tokens=64, timeout_s=1.0)
    reference = types_pb2.BlobRef(id=WORKSPACE.id, size_bytes=2)
    if "shell" in names:
        with pytest.raises(InvalidInputError, match=r"tools\.workspace"):
            read_tools(tools, capability, "here")
        tools.workspace.CopyFrom(reference)
        rules = read_tools(tools, capability, "here")
        assert rules is not None and rules.workspace == WORKSPACE
    else:
        tools.workspace.CopyFrom(reference)
        with pytest.raises(InvalidInputError, match=r"tools\.workspace"):
            read_tools(tools, capability, "here")
