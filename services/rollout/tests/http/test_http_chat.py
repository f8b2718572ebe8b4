"""What a client sends as messages becomes the prompt of the chat format, or a refusal that names it."""

from __future__ import annotations

import pytest

from forklight_model.chat import Turn, TurnFormat
from forklight_model.tokenizer import build_character_tokenizer
from forklight_rollout.http.chat import encode_messages
from forklight_rollout.http.refusals import RefusalError
from forklight_rollout.http.requests import ChatRequest, parse_request

CHAT = TurnFormat(build_character_tokenizer())
PARTS = b'[{"type": "text", "text": "2 + "}, {"type": "text", "text": "2?"}]'


def request(messages: bytes) -> ChatRequest:
    return parse_request(ChatRequest, b'{"messages": ' + messages + b"}")


def test_a_chat_is_the_prompt_of_its_messages_in_whatever_form_they_came() -> None:
    asked = request(b'[{"role": "system", "content": "Add."}, {"role": "user", "content": ' + PARTS + b"}]")
    expected = CHAT.encode([Turn("system", "Add."), Turn("user", "2 + 2?")])
    assert encode_messages(CHAT, asked.messages) == expected


def test_a_conversation_without_a_form_is_a_400_that_names_the_message() -> None:
    asked = request(b'[{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]')
    with pytest.raises(RefusalError, match="no turn for tools") as caught:
        encode_messages(CHAT, asked.messages)
    assert (caught.value.status, caught.value.param) == (400, "messages[1].role")
