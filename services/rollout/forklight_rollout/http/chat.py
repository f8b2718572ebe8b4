"""A chat's messages as the prompt its tokenizer was made for, or a refusal that names the message."""

from __future__ import annotations

from collections.abc import Sequence

from forklight_model.chat import ChatFormat, ConversationError
from forklight_rollout.http.refusals import bad_request
from forklight_rollout.http.requests import ChatMessage


def encode_messages(chat: ChatFormat, messages: Sequence[ChatMessage]) -> list[int]:
    """The prompt, up to where the answer begins."""
    try:
        return chat.encode(messages)
    except ConversationError as error:
        raise bad_request(error.place, str(error)) from error
