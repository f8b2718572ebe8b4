"""One line of a file of demonstrations: read, checked and turned into tokens.

{"messages": [{"role", "content"}]} is a conversation, {"prompt", "response"} one question and its answer.
Both may say "weight" (what a counted token weighs, 1 by default) and "train": "all" or "last" (which answers
count). Further keys are somebody else's, unless they look like a misspelling.
Legend: T tokens of the example.
"""

from __future__ import annotations

import difflib
import json
import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

from forklight_core.errors import InvalidInputError
from forklight_model.chat import ChatFormat, ConversationError, Turn
from forklight_model.tokenizer import Tokenizer
from forklight_trainer.batches.batch import BoolArray, Int32Array
from forklight_trainer.sft.transcript import Counted, transcribe

CHAT_KEYS = ("messages", "weight", "train")
PAIR_KEYS = ("prompt", "response", "weight", "train")
MESSAGE_KEYS = {"role", "content", "name"}
FORMS = 'give {"prompt": ..., "response": ...} or {"messages": [{"role": ..., "content": ...}]}'
OnTooLong = Literal["refuse", "drop", "cut"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Example:
    """A demonstration as tokens."""

    ids_T: Int32Array
    counted_T: BoolArray
    weight: float
    num_tokens_whole: int
    """Before its end was cut off."""
    ignored_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """What a line says."""

    messages: tuple[Turn, ...]
    weight: float
    counted: Counted
    ignored_keys: tuple[str, ...] = ()


class ExampleReader:
    """Turns lines into examples for one tokenizer."""

    def __init__(
        self, tokenizer: Tokenizer, chat: ChatFormat, *, max_tokens: int, on_too_long: OnTooLong
    ) -> None:
        self._stop_ids = tokenizer.stop_ids
        self._chat = chat
        self.max_tokens, self.on_too_long = max_tokens, on_too_long
        stop_ids = sorted(tokenizer.stop_ids)
        self.definition = json.dumps(
            [tokenizer.definition, stop_ids, chat.definition, max_tokens, on_too_long]
        )
        """Readers with the same definition read the same of the same file."""

    def read(self, line: bytes) -> Example:
        """The tokens of a line; InvalidInputError without a place where it is wrong."""
        return self.encode(parse_line(line))

    def encode(self, demonstration: Demonstration) -> Example:
        """The tokens of a demonstration, its end cut off where that is wanted."""
        transcript = transcribe(
            self._chat, demonstration.messages, stop_ids=self._stop_ids, counted=demonstration.counted
        )
        kept = self.max_tokens if self.on_too_long == "cut" else len(transcript.ids_T)
        return Example(
            ids_T=transcript.ids_T[:kept],
            counted_T=transcript.counted_T[:kept],
            weight=demonstration.weight,
            num_tokens_whole=len(transcript.ids_T),
            ignored_keys=demonstration.ignored_keys,
        )


def parse_line(line: bytes) -> Demonstration:
    """What a line says, or an InvalidInputError that says what is wrong with it."""
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise InvalidInputError(f"is not JSON: {error}; {FORMS}") from None
    if not isinstance(entry, dict):
        raise InvalidInputError(f"is a {type(entry).__name__}, not a JSON object; {FORMS}")
    is_chat = "messages" in entry
    known = CHAT_KEYS if is_chat else PAIR_KEYS
    ignored = tuple(key for key in entry if key not in known)
    for key in ignored:
        if key not in PAIR_KEYS and (near := nearest_key(key)):
            raise InvalidInputError(f"has the unknown key {key!r}; did you mean {near!r}?")
    if is_chat == ("response" in entry) or not (is_chat or "prompt" in entry):
        raise InvalidInputError(f"has the keys {', '.join(entry) or 'of nothing'}; {FORMS}")
    return Demonstration(
        messages=_read_messages(entry["messages"]) if is_chat else _read_pair(entry),
        weight=_read_weight(entry.get("weight", 1.0)),
        counted=_read_counted(entry.get("train", "all")),
        ignored_keys=ignored,
    )


@cache
def nearest_key(key: str) -> str:
    """The key that an unknown one was probably meant to be; empty when it is something else."""
    known = [each for each in {*CHAT_KEYS, *PAIR_KEYS} if abs(len(each) - len(key)) <= 1]
    near = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.75)
    return near[0] if near else ""


def explain(error: InvalidInputError) -> str:
    """What is wrong with a line, with the place in it."""
    return f"{error.place} {error}" if isinstance(error, ConversationError) else str(error)


def _read_pair(entry: dict[str, object]) -> tuple[Turn, ...]:
    return tuple(
        Turn(role, _read_text(entry.get(key), key))
        for role, key in (("user", "prompt"), ("assistant", "response"))
    )


def _read_messages(messages: object) -> tuple[Turn, ...]:
    if not isinstance(messages, list):
        raise InvalidInputError(
            f"messages is a {type(messages).__name__}, expected a list of {{role, content}}"
        )
    return tuple(_read_message(message, f"messages[{index}]") for index, message in enumerate(messages))


def _read_message(message: object, place: str) -> Turn:
    if not isinstance(message, dict) or not {"role", "content"} <= set(message):
        raise InvalidInputError(f"{place} is not an object with role and content")
    for key in sorted(set(message) - MESSAGE_KEYS):
        if message[key]:
            raise InvalidInputError(
                f"{place} has {key!r}, which would not be learned; put what it says into content"
            )
    if not isinstance(message["role"], str):
        raise InvalidInputError(f"{place}.role is no text")
    return Turn(message["role"], _read_text(message["content"], f"{place}.content"))


def _read_text(content: object, place: str) -> str:
    """Text, also as a list of text parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in content
    ):
        return "".join(part["text"] for part in content)
    raise InvalidInputError(f"{place} is no text")


def _read_weight(weight: object) -> float:
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise InvalidInputError(f"weight is {weight!r}, expected a number above 0")
    if not math.isfinite(weight) or weight <= 0:
        raise InvalidInputError(
            f"weight is {weight!r}, expected a number above 0; leave the line out instead"
        )
    return float(weight)


def _read_counted(counted: object) -> Counted:
    try:
        return Counted(str(counted))
    except ValueError:
        raise InvalidInputError(f'train is {counted!r}, expected "all" or "last"') from None
