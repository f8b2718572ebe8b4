"""Answers the calls of samples: checks them, asks the tool while it is patient, puts the reply in.

What the model did wrong is a reply that says so. A tool that is away is asked again while the group is ours;
when it stays away an error says so, and the group is another pod's: never a wrong reply, never a reward.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from opentelemetry.trace import Span

from forklight_core.errors import FencedError, ForklightError
from forklight_core.retry import TRANSIENT, backoff_delays
from forklight_core.telemetry import SpanKind, span
from forklight_rollout import metrics
from forklight_rollout.generation.engine_thread import EngineThread
from forklight_rollout.leases.held_groups import HeldGroup
from forklight_rollout.problems import Area, Problems
from forklight_rollout.tools.encoding import ReplyEncoder
from forklight_rollout.tools.format import parse_call
from forklight_rollout.tools.ports import Arguments, Tool, ToolCall, ToolOutcome, ToolReply

SPAN = "rollout.tool_call"
NO_TOOL = "none"
"""Name of the tool of a call that names none we have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRequest:
    """A sound call of a tool that the sample may use."""

    name: str
    tool: Tool
    arguments: Arguments


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolbox:
    """What a pod answers calls with."""

    tools: Mapping[str, Tool]
    encoder: ReplyEncoder
    deadline_s: float = 300.0
    """How long one call is offered to a tool that is away."""
    num_calls: int = 16
    """Calls under way at once; more wait."""

    def open_call(self, call: ToolCall) -> ToolRequest | ToolReply:
        """What is asked, or what is wrong with it."""
        if call.number > call.rules.max_calls:
            return ToolReply(
                text=f"error: this was call {call.number}, only {call.rules.max_calls} are answered; "
                "go on without tools",
                outcome=ToolOutcome.TOO_MANY,
            )
        parsed = parse_call(call.text)
        if isinstance(parsed, ToolReply):
            return parsed
        if parsed.name not in call.rules.names:
            known = ", ".join(call.rules.names)
            text = f"error: there is no tool {parsed.name[:80]!r}; there is {known}"
            return ToolReply(text=text, outcome=ToolOutcome.BAD_CALL)
        return ToolRequest(name=parsed.name, tool=self.tools[parsed.name], arguments=parsed.arguments)


class ToolDesk:
    """One a pod."""

    def __init__(self, toolbox: Toolbox, *, engine: EngineThread, problems: Problems) -> None:
        self.toolbox = toolbox
        self._engine, self._problems = engine, problems

    async def answer(self, call: ToolCall, group: HeldGroup) -> None:
        """See a call through. FencedError: nobody wants it any more; other errors: nobody can answer."""
        attributes: dict[str, str | int] = {
            "rl.sample.id": call.sample_id,
            "rl.group.id": call.group_id,
            "rl.tool.call": call.number,
        }
        with span(SPAN, sample_id=call.sample_id, kind=SpanKind.CLIENT, attributes=attributes) as running:
            reply = await self._reply(call, group, running)
        ids = await asyncio.to_thread(self.toolbox.encoder.encode, reply.text, call.rules.max_output_tokens)
        await self._engine.call(lambda generator: generator.resume(call.key, ids))

    async def _reply(self, call: ToolCall, group: HeldGroup, running: Span) -> ToolReply:
        """The reply; span and metrics learn what came of it."""
        started, name, outcome = time.monotonic(), NO_TOOL, ToolOutcome.UNANSWERED
        try:
            opened = self.toolbox.open_call(call)
            if isinstance(opened, ToolReply):
                reply = opened
            else:
                name = opened.name
                reply = await self._ask(opened, call, group)
            outcome = reply.outcome
            return reply
        except FencedError:
            outcome = ToolOutcome.UNWANTED
            raise
        finally:
            seconds = time.monotonic() - started
            running.set_attribute("rl.tool.name", name)
            running.set_attribute("rl.tool.outcome", outcome.value)
            running.set_attribute("rl.tool.seconds", round(seconds, 4))
            metrics.count_tool_call(name, outcome.value, seconds)

    async def _ask(self, request: ToolRequest, call: ToolCall, group: HeldGroup) -> ToolReply:
        """Ask until there is a reply, nobody wants one, or the deadline is over."""
        end = time.monotonic() + self.toolbox.deadline_s
        for delay in backoff_delays():
            _require_wanted(call, group)
            try:
                reply = await request.tool.run(request.arguments, call)
            except TRANSIENT as error:
                self._note_absence(error)
                if time.monotonic() + delay > end:
                    raise
            else:
                self._problems.clear(Area.TOOLS)
                return reply
            await asyncio.sleep(delay)
        raise AssertionError("backoff_delays never ends")

    def _note_absence(self, error: ForklightError) -> None:
        metrics.count_tool_retry()
        self._problems.report(Area.TOOLS, str(error))


def _require_wanted(call: ToolCall, group: HeldGroup) -> None:
    group.require_held()
    if call.sample_id not in group.open_samples:
        raise FencedError(f"sample {call.sample_id} is wanted no more; its call is dropped")
