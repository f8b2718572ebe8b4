"""What a tool is, and what it says. A caller's mistake is a reply; only a tool that is away is an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from forklight_core.blobs import BlobRef

if TYPE_CHECKING:  # the engine alone, as benchmarks run it, needs no pydantic
    from pydantic import JsonValue

Arguments = Mapping[str, "JsonValue"]


class ToolOutcome(StrEnum):
    """What became of a call. All are answers that the model reads, except the last two."""

    OK = "ok"
    ERROR = "error"  # the program failed
    LIMIT = "limit"  # the program ran into a limit
    BAD_CALL = "bad_call"  # the call itself was wrong
    TOO_MANY = "too_many"  # the response has had all its calls
    UNANSWERED = "unanswered"  # the tool stayed away: the group went back
    UNWANTED = "unwanted"  # the sample was given up meanwhile


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolReply:
    """What the model is told."""

    text: str
    outcome: ToolOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call that a sample waits for. Executed twice, it must do no harm: another pod may have to."""

    key: int  # the generator's name for it, never used twice
    sample_id: str
    group_id: str
    number: int  # of its response, from 1
    text: str  # between the markers
    rules: ToolRules
    earlier: tuple[str, ...] = ()  # the same of its answered calls before


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRules:
    """What the samples of a group may call, and how much."""

    names: tuple[str, ...]
    max_calls: int  # answered ones of a response
    max_output_tokens: int  # put in by one call, markup included
    timeout_s: float  # that one call may compute
    workspace: BlobRef | None = None  # files that the tool `shell` begins with


class Tool(Protocol):
    """Something pure: the same call after the same calls gives the same reply, wherever it is made."""

    async def run(self, arguments: Arguments, call: ToolCall) -> ToolReply:
        """The reply. UnavailableError, BusyError or DeadlineError when there is none now."""
        ...


def bad_call(problem: str) -> ToolReply:
    """What the writer of a wrong call is told."""
    return ToolReply(text=f"error: {problem}", outcome=ToolOutcome.BAD_CALL)
