"""Which tokens of a conversation are learned: those that the policy would have drawn, and nothing else.

The mask is found by rendering the conversation as far as each answer, with the very format that serves it. So
what is learned follows the ids that a rollout pod feeds, token for token.
Legend: T tokens of the conversation.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from forklight_core.errors import ConfigError
from forklight_model.chat import ChatFormat, ConversationError, Message
from forklight_trainer.batches.batch import BoolArray, Int32Array


class Counted(StrEnum):
    """Which answers of a conversation count."""

    ALL = "all"
    LAST = "last"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Transcript:
    """A conversation up to the end of its last answer."""

    ids_T: Int32Array
    counted_T: BoolArray
    """Tokens of an answer and the one that ends it."""


def transcribe(
    chat: ChatFormat, messages: Sequence[Message], *, stop_ids: Collection[int], counted: Counted
) -> Transcript:
    """The ids of a conversation and which of them count; ConversationError where they cannot be told."""
    whole = chat.encode_answered(messages)
    answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    spans = []
    for index in answers if counted is Counted.ALL else answers[-1:]:
        is_last = index == len(messages) - 1
        so_far = whole if is_last else chat.encode_answered(messages[: index + 1])
        prompt = chat.encode(messages[:index])
        if not prompt or so_far[: len(prompt)] != prompt or whole[: len(so_far)] != so_far:
            raise _unstable(index)
        spans.append((len(prompt), _find_end(so_far, len(prompt), stop_ids, index)))
    length = spans[-1][1]
    counted_T = np.zeros(length, dtype=np.bool_)
    for start, end in spans:
        counted_T[start:end] = True
    return Transcript(ids_T=np.asarray(whole[:length], dtype=np.int32), counted_T=counted_T)


def _find_end(ids: Sequence[int], start: int, stop_ids: Collection[int], index: int) -> int:
    """One past the token that ends the answer; what a template writes behind it is not drawn."""
    ends = [place for place in range(start, len(ids)) if ids[place] in stop_ids]
    if not ends:
        raise ConfigError(
            "the tokenizer's chat template puts no end token (eos_token of tokenizer_config.json) behind an "
            "answer: a policy that learns it would never stop; name the token that the template writes there"
        )
    if len(ends) > 1:
        raise ConversationError(
            "holds the token that ends an answer; leave it out, it is put there",
            place=f"messages[{index}].content",
        )
    return ends[0] + 1


def _unstable(index: int) -> ConversationError:
    return ConversationError(
        "is rendered in another way once the conversation goes on (the chat template is not prefix-stable: "
        "what is served before an answer is not what the whole conversation begins with); give the line "
        '"train": "last", or one line an answer',
        place=f"messages[{index}]",
    )
