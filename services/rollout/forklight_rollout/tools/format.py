"""How a model calls a tool and how the answer is written, as text.

    <tool_call>{"name": "python", "arguments": {"code": "print(6 * 7)"}}</tool_call>
    <tool_response>
    42
    </tool_response>

The model writes the first line; what follows is put in. A call counts from the last opening marker before the
first closing one behind it. An opening marker that is never closed is plain text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forklight_rollout.tools.ports import Arguments, ToolOutcome, ToolReply

if TYPE_CHECKING:
    from pydantic import JsonValue

CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
REPLY_OPEN, REPLY_CLOSE = "\n<tool_response>\n", "\n</tool_response>\n"
HARMLESS = {marker.strip(): marker.strip().replace("<", "<\\") for marker in (REPLY_OPEN, REPLY_CLOSE)}
"""In what a tool says these would look like the frame around it."""
EXAMPLE = '{"name": "python", "arguments": {"code": "print(1)"}}'


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedCall:
    """A call that says which tool and with what."""

    name: str
    arguments: Arguments


def find_call(text: str) -> str | None:
    """What stands between the markers of the first whole call; None when there is none."""
    first = text.find(CALL_OPEN)
    end = text.find(CALL_CLOSE, first + len(CALL_OPEN)) if first >= 0 else -1
    if end < 0:
        return None
    return text[text.rfind(CALL_OPEN, 0, end) + len(CALL_OPEN) : end]


def without_call(text: str) -> str:
    """What was drawn in one turn, without the call that ends it, markers and all."""
    call = find_call(text)
    if call is None:
        return text
    end = text.find(CALL_CLOSE, text.find(CALL_OPEN) + len(CALL_OPEN))
    return text[: end - len(call) - len(CALL_OPEN)] + "\n" + text[end + len(CALL_CLOSE) :]


def scored_text(ids: Sequence[int], drawn: bytes, decode: Callable[[list[int]], str]) -> str:
    """What a response with tools says by itself: without the calls, and without what was put in.

    Neither a program that prints an answer nor one that has it in its source gives an answer.
    """
    said, start = [], 0
    while start < len(drawn):
        end = _end_of_run(drawn, start)
        if drawn[start]:
            said.append(without_call(decode(list(ids[start:end]))))
        start = end
    return "\n".join(said)


def answered_calls(ids: Sequence[int], drawn: bytes, decode: Callable[[list[int]], str]) -> list[str]:
    """What stands between the markers of each call that a reply follows, in order."""
    found, start = [], 0
    while start < len(drawn):
        end = _end_of_run(drawn, start)
        if drawn[start] and end < len(drawn):
            found.append(find_call(decode(list(ids[start:end]))) or "")
        start = end
    return found


def _end_of_run(drawn: bytes, start: int) -> int:
    end = drawn.find(0 if drawn[start] else 1, start)
    return len(drawn) if end < 0 else end


def parse_call(text: str) -> ParsedCall | ToolReply:
    """The call, or what its writer is told about it."""
    try:
        found: JsonValue = json.loads(text, strict=False)  # line ends in strings are what models write
    except (ValueError, RecursionError) as error:
        return _bad_call(f"the call is not JSON ({error})")
    if not isinstance(found, dict) or set(found) != {"name", "arguments"}:
        return _bad_call("the call is not an object of name and arguments")
    name, arguments = found["name"], found["arguments"]
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return _bad_call("name must be text and arguments an object")
    return ParsedCall(name=name, arguments=arguments)


def _bad_call(problem: str) -> ToolReply:
    return ToolReply(text=f"error: {problem}; a call is like {EXAMPLE}", outcome=ToolOutcome.BAD_CALL)
