"""From messages to a prompt's token ids, in the form the tokenizer was made for.

Turn markup of this project: the stored chat template, put together token by token, so that no text can end a
turn; one user message gives the very prompt of training. A tokenizer with a chat template of its own: that
template. A tokenizer with neither: one user message, as it is.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from forklight_core.errors import ConfigError, InvalidInputError
from forklight_model.tokenizer import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, Tokenizer
from forklight_rollout.http.refusals import bad_request
from forklight_rollout.http.requests import ChatMessage

TEMPLATE_FILE = "chat_template.jinja"
INSTRUCTION_ROLES = ("system", "developer")


class ChatFormat(Protocol):
    """How a tokenizer wants a conversation."""

    def encode(self, messages: Sequence[ChatMessage]) -> list[int]:
        """The prompt, up to where the answer begins; a RefusalError names the message that does not fit."""
        ...


def load_chat_format(folder: str | Path, tokenizer: Tokenizer) -> ChatFormat:
    """The format of a model folder's tokenizer."""
    if tokenizer.has_turns:
        return TurnFormat(tokenizer)
    folder = Path(folder)
    config = _read_json(folder / TOKENIZER_CONFIG_FILE)
    path = folder / TEMPLATE_FILE
    template = path.read_text(encoding="utf-8") if path.is_file() else _default_template(config)
    if template is None:
        return PlainFormat(tokenizer)
    added = _read_json(folder / TOKENIZER_FILE).get("added_tokens")
    markup = [str(each["content"]) for each in added if each["special"]] if isinstance(added, list) else []
    return TemplateFormat(tokenizer, template, markup=markup, config=config)


class TurnFormat:
    """<user>question<assistant>answer<eos><user>... A system message's text begins the next question."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, messages: Sequence[ChatMessage]) -> list[int]:
        instructions: list[str] = []
        ids: list[int] = []
        for index, message in enumerate(messages):
            if message.role in INSTRUCTION_ROLES:
                instructions.append(message.text)
            elif message.role == "user":
                user, *text, answer = self._encode("\n\n".join([*instructions, message.text]), index)
                ids += [user, *text]
                instructions.clear()
            elif message.role == "assistant":
                user, *text, answer = self._encode(message.text, index)
                ids += [answer, *text, self._tokenizer.token_id("<eos>")]
            else:
                raise bad_request(
                    f"messages[{index}].role",
                    "this tokenizer has no turn for tools; send the tool's output as a user message",
                )
        _require_question(messages)
        return [*ids, answer]

    def _encode(self, text: str, index: int) -> list[int]:
        """<user>, the text as it is written, <assistant>."""
        try:
            return self._tokenizer.encode_prompt(text)
        except InvalidInputError as error:
            raise bad_request(f"messages[{index}].content", f"cannot be encoded: {error}") from error


class PlainFormat:
    """No markup: what training does with a prompt for such a tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, messages: Sequence[ChatMessage]) -> list[int]:
        if len(messages) != 1 or messages[0].role != "user":
            raise bad_request(
                "messages",
                "this model's tokenizer has no chat template: send one user message, "
                "or the rendered conversation to /v1/completions",
            )
        _require_question(messages)
        try:
            return self._tokenizer.encode_prompt(messages[0].text)
        except InvalidInputError as error:
            raise bad_request("messages[0].content", f"cannot be encoded: {error}") from error


class TemplateFormat:
    """A chat template of the tokenizer's own, rendered in a sandbox. Text of messages holds no markup."""

    def __init__(
        self, tokenizer: Tokenizer, template: str, *, markup: Sequence[str], config: Mapping[str, object]
    ) -> None:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise_template_error
        environment.filters["tojson"] = lambda value, **options: json.dumps(
            value, ensure_ascii=False, **options
        )
        try:
            self._template = environment.from_string(template)
        except TemplateError as error:
            raise ConfigError(f"the tokenizer's chat template cannot be read: {error}") from error
        self._tokenizer = tokenizer
        self._markup = tuple(markup)
        self._names = {name: _token_text(config.get(name)) for name in ("bos_token", "eos_token")}
        self._takes_parts = self._find_form()

    def encode(self, messages: Sequence[ChatMessage]) -> list[int]:
        for index, message in enumerate(messages):
            if found := [token for token in self._markup if token in message.text]:
                raise bad_request(
                    f"messages[{index}].content", f"contains the tokenizer's markup {found[0]!r}"
                )
        text = self._render([self._turn(message.role, message.text) for message in messages])
        try:
            return self._tokenizer.encode(text)
        except InvalidInputError as error:
            raise bad_request("messages", f"cannot be encoded: {error}") from error

    def _render(self, turns: Sequence[Mapping[str, object]]) -> str:
        from jinja2 import TemplateError

        try:
            return self._template.render(
                messages=turns, add_generation_prompt=True, tools=None, **self._names
            )
        except (TemplateError, TypeError, ValueError, LookupError) as error:
            raise bad_request("messages", f"do not fit the tokenizer's chat template: {error}") from error

    def _turn(self, role: str, text: str) -> dict[str, object]:
        content = [{"type": "text", "text": text}] if self._takes_parts else text
        return {"role": role, "content": content}

    def _find_form(self) -> bool:
        """Whether the template reads a message's content as a list of parts: tried out with a word."""
        self._takes_parts = False
        word = f"probe{secrets.token_hex(8)}"
        return word not in self._render([self._turn("user", word)])


def _require_question(messages: Sequence[ChatMessage]) -> None:
    last = len(messages) - 1
    if messages[last].role != "user":
        raise bad_request(
            f"messages[{last}].role", f"is {messages[last].role}; the last message is the user's"
        )
    if not messages[last].text.strip():
        raise bad_request(f"messages[{last}].content", "is empty; there is nothing to answer")


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
