"""From a conversation to token ids, in the form its tokenizer was made for, in serving and in training.

Turn markup of this project: the stored chat template, put together token by token, so that no text can end a
turn; one user message gives the very prompt of training. A tokenizer with a chat template of its own: that
template. A tokenizer with neither: one question and its answer, as they are.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from forklight_core.errors import ConfigError, InvalidInputError
from forklight_model.tokenizer import (
    CHAT_KEY,
    TEMPLATE_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    Tokenizer,
)

INSTRUCTION_ROLES = ("system", "developer")


class Message(Protocol):
    """One turn of a conversation."""

    @property
    def role(self) -> str:
        """system, developer, user, assistant or tool."""
        ...

    @property
    def text(self) -> str:
        """What is said."""
        ...


@dataclass(frozen=True, slots=True)
class Turn:
    """A message that is nothing but its role and its text."""

    role: str
    text: str


class ConversationError(InvalidInputError):
    """A conversation that the tokenizer has no form for; `place` names the part of it, such as
    messages[2].content."""

    def __init__(self, message: str, *, place: str = "messages") -> None:
        super().__init__(message)
        self.place = place


class ChatFormat(Protocol):
    """How a tokenizer wants a conversation. A ConversationError names the message that does not fit."""

    @property
    def definition(self) -> str:
        """Two formats with the same definition and tokenizer give the same ids."""
        ...

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The prompt of a conversation that ends with a question, up to where the answer begins."""
        ...

    def encode_answered(self, messages: Sequence[Message]) -> list[int]:
        """A conversation that ends with an answer, and what marks its end."""
        ...


def load_chat_format(folder: str | Path, tokenizer: Tokenizer, *, chat: bool | None = None) -> ChatFormat:
    """The format of a model folder's tokenizer. `chat` false: no template, whatever the folder says."""
    if tokenizer.has_turns:
        return TurnFormat(tokenizer)
    folder = Path(folder)
    config = _read_json(folder / TOKENIZER_CONFIG_FILE)
    if (config.get(CHAT_KEY) if chat is None else chat) is False:
        return PlainFormat(tokenizer)
    path = folder / TEMPLATE_FILE
    template = path.read_text(encoding="utf-8") if path.is_file() else _default_template(config)
    if template is None:
        return PlainFormat(tokenizer)
    added = _read_json(folder / TOKENIZER_FILE).get("added_tokens")
    markup = [str(each["content"]) for each in added if each["special"]] if isinstance(added, list) else []
    return TemplateFormat(tokenizer, template, markup=markup, config=config)


class TurnFormat:
    """<user>question<assistant>answer<eos><user>... A system message's text begins the next question."""

    definition = "turns"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, messages: Sequence[Message]) -> list[int]:
        ids = self._encode_turns(messages)
        _require_last(messages, "user")
        return [*ids, self._tokenizer.token_id("<assistant>")]

    def encode_answered(self, messages: Sequence[Message]) -> list[int]:
        ids = self._encode_turns(messages)
        _require_last(messages, "assistant")
        return ids

    def _encode_turns(self, messages: Sequence[Message]) -> list[int]:
        instructions: list[str] = []
        ids: list[int] = []
        for index, message in enumerate(messages):
            if message.role in INSTRUCTION_ROLES:
                instructions.append(message.text)
            elif message.role == "user":
                user, *text, _ = self._encode_text("\n\n".join([*instructions, message.text]), index)
                ids += [user, *text]
                instructions.clear()
            elif message.role == "assistant":
                _, *text, answer = self._encode_text(message.text, index)
                ids += [answer, *text, self._tokenizer.token_id("<eos>")]
            else:
                raise ConversationError(
                    "this tokenizer has no turn for tools; send the tool's output as a user message",
                    place=f"messages[{index}].role",
                )
        return ids

    def _encode_text(self, text: str, index: int) -> list[int]:
        """<user>, the text as it is written, <assistant>."""
        try:
            return self._tokenizer.encode_prompt(text)
        except InvalidInputError as error:
            raise _unencodable(error, f"messages[{index}].content") from error


class PlainFormat:
    """No markup: what training does with a prompt for such a tokenizer."""

    definition = "plain"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, messages: Sequence[Message]) -> list[int]:
        if [message.role for message in messages] != ["user"]:
            raise ConversationError(
                "this model's tokenizer has no chat template: send one user message, "
                "or the rendered conversation to /v1/completions"
            )
        _require_last(messages, "user")
        return self._encode_question(messages)

    def encode_answered(self, messages: Sequence[Message]) -> list[int]:
        if [message.role for message in messages] != ["user", "assistant"]:
            raise ConversationError(
                "this model's tokenizer has no chat template: a conversation is one question and one answer"
            )
        _require_last(messages, "assistant")
        end_id = self._tokenizer.end_id
        if end_id is None:
            raise ConfigError(
                f"nothing marks an answer's end: name an eos_token in the model's {TOKENIZER_CONFIG_FILE}"
            )
        try:
            answer = self._tokenizer.encode(messages[1].text)
        except InvalidInputError as error:
            raise _unencodable(error, "messages[1].content") from error
        return [*self._encode_question(messages), *answer, end_id]

    def _encode_question(self, messages: Sequence[Message]) -> list[int]:
        """As training has it."""
        try:
            return self._tokenizer.encode_prompt(messages[0].text)
        except InvalidInputError as error:
            raise _unencodable(error, "messages[0].content") from error


class TemplateFormat:
    """A chat template of the tokenizer's own, rendered in a sandbox. Text of messages holds no markup."""

    def __init__(
        self, tokenizer: Tokenizer, template: str, *, markup: Sequence[str], config: Mapping[str, object]
    ) -> None:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _raise_template_error
        environment.filters["tojson"] = lambda value, **options: json.dumps(
            value, ensure_ascii=False, **options
        )
        try:
            self._template = environment.from_string(template)
        except TemplateError as error:
            raise ConfigError(f"the tokenizer's chat template cannot be read: {error}") from error
        self._tokenizer = tokenizer
        self._names = {name: _token_text(config.get(name)) for name in ("bos_token", "eos_token")}
        self._markup = tuple(dict.fromkeys([*markup, *filter(None, [self._names["eos_token"]])]))
        self._takes_parts = self._find_form()
        self.definition = json.dumps([template, self._names, self._markup], sort_keys=True)

    def encode(self, messages: Sequence[Message]) -> list[int]:
        return self._encode_text(self._render(messages, opens_answer=True))

    def encode_answered(self, messages: Sequence[Message]) -> list[int]:
        _require_last(messages, "assistant")
        text = self._render(messages, opens_answer=False)
        if messages[-1].text.strip() not in text:
            raise ConversationError(
                "is not rendered as it is written: the tokenizer's chat template changes or leaves out a "
                "part of the answer, which could then never be learned",
                place=f"messages[{len(messages) - 1}].content",
            )
        return self._encode_text(text)

    def _render(self, messages: Sequence[Message], *, opens_answer: bool) -> str:
        for index, message in enumerate(messages):
            if found := [token for token in self._markup if token in message.text]:
                raise ConversationError(
                    f"contains the tokenizer's markup {found[0]!r}", place=f"messages[{index}].content"
                )
        return self._render_turns(
            [self._turn(message.role, message.text) for message in messages], opens_answer=opens_answer
        )

    def _render_turns(self, turns: Sequence[Mapping[str, object]], *, opens_answer: bool) -> str:
        from jinja2 import TemplateError

        try:
            return self._template.render(
                messages=turns, add_generation_prompt=opens_answer, tools=None, **self._names
            )
        except (TemplateError, TypeError, ValueError, LookupError) as error:
            raise ConversationError(f"do not fit the tokenizer's chat template: {error}") from error

    def _encode_text(self, text: str) -> list[int]:
        try:
            return self._tokenizer.encode(text)
        except InvalidInputError as error:
            raise _unencodable(error, "messages") from error

    def _turn(self, role: str, text: str) -> dict[str, object]:
        content = [{"type": "text", "text": text}] if self._takes_parts else text
        return {"role": role, "content": content}

    def _find_form(self) -> bool:
        """Whether the template reads a message's content as a list of parts: tried out with a word."""
        self._takes_parts = False
        word = f"probe{secrets.token_hex(8)}"
        return word not in self._render_turns([self._turn("user", word)], opens_answer=True)


def _require_last(messages: Sequence[Message], role: str) -> None:
    """A conversation ends with a question to answer, or with an answer that says something."""
    if not messages:
        raise ConversationError("are none; a conversation begins with a user's message")
    last = len(messages) - 1
    whose, purpose = ("user's", "answer") if role == "user" else ("assistant's", "learn")
    if messages[last].role != role:
        raise ConversationError(
            f"is {messages[last].role}; the last message is the {whose}", place=f"messages[{last}].role"
        )
    if not messages[last].text.strip():
        raise ConversationError(f"is empty; there is nothing to {purpose}", place=f"messages[{last}].content")


def _unencodable(error: InvalidInputError, place: str) -> ConversationError:
    return ConversationError(f"cannot be encoded: {error}", place=place)


def _raise_template_error(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _default_template(config: Mapping[str, object]) -> str | None:
    """The template of tokenizer_config.json, or of several the one called default."""
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {each.get("name"): each.get("template") for each in template if isinstance(each, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _token_text(token: object) -> str:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""


def _read_json(path: Path) -> Mapping[str, object]:
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}
