"""Text to token ids and back, from a model folder's tokenizer.json; and the character tokenizer of the demo.

The character tokenizer loses nothing: decode(encode(text)) == text for printable ASCII and newlines. Markup
of the turn (<pad> <eos> <user> <assistant>) is dropped in decoding; markup of the answer (<think> </think>
\\boxed{) is one token each and stays.

A tokenizer of another origin asks a question by its own chat template, where it has one and the run wants it.
"""

import json
import string
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

from forklight_core.errors import ConfigError, InvalidInputError

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
GENERATION_FILE = "generation_config.json"
KEPT_FILES = (TOKENIZER_CONFIG_FILE, TEMPLATE_FILE, GENERATION_FILE, "special_tokens_map.json")
"""Beside a tokenizer.json of another origin: saved again as they are."""
CHAT_KEY = "forklight_chat"
"""In tokenizer_config.json, where a run has said whether its prompts go through the chat template."""
TURN_TOKENS = ("<pad>", "<eos>", "<user>", "<assistant>")
ANSWER_TOKENS = ("<think>", "</think>", "\\boxed{")
CHARACTERS = "\n" + "".join(sorted(set(string.printable) - set(string.whitespace) | {" "}))

_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'user' %}{{ '<user>' + message.content }}"
    "{% else %}{{ '<assistant>' + message.content + '<eos>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


class Tokenizer:
    """A tokenizer.json with the few things generation needs to know about it.

    `kept` is the text of files beside it that are saved as they were, unless it has this project's turns:
    a chat template of its own. `stop_ids` end a generation besides the end of a text.
    """

    def __init__(
        self,
        fast: FastTokenizer,
        eos_token: str | None,
        kept: Mapping[str, str] | None = None,
        *,
        stop_ids: Collection[int] = (),
    ) -> None:
        self._fast, self._kept = fast, dict(kept or {})
        self._plain = FastTokenizer.from_str(fast.to_str())
        self._plain.encode_special_tokens = True  # markup in it is read as the characters it is written with
        self._alphabet = _alphabet(fast)
        self._eos_token = eos_token
        eos_id = None if eos_token is None else fast.token_to_id(eos_token)
        if eos_token is not None and eos_id is None:
            raise ConfigError(
                f"eos_token {eos_token!r} of {TOKENIZER_CONFIG_FILE} is not in {TOKENIZER_FILE}"
            )
        own = set(stop_ids) if eos_id is None else {*stop_ids, eos_id}
        self.stop_ids: frozenset[int] = frozenset(own)
        """Ids that end a generation."""
        self.end_id: int | None = min(own, default=None) if eos_id is None else eos_id
        """The one that an answer is taught to end with."""
        self.ask: Callable[[str], list[int]] | None = None
        """A question as its own chat template puts it; None: as it is."""

    @property
    def vocab_size(self) -> int:
        return self._fast.get_vocab_size(with_added_tokens=True)

    @property
    def definition(self) -> str:
        """All of it: two tokenizers with the same definition give the same ids."""
        return json.dumps([self._fast.to_str(), self._eos_token])

    @property
    def has_turns(self) -> bool:
        """Whether prompts are rendered with this project's turn markup."""
        return all(self._fast.token_to_id(token) is not None for token in ("<user>", "<assistant>"))

    def encode_prompt(self, text: str) -> list[int]:
        """A user's text as the model is shown it, up to where its answer begins. No text ends that turn."""
        if not self.has_turns:
            return self._encode_opening(text) if self.ask is None else self.ask(text)
        self._check_alphabet(text)
        plain = self._plain.encode(text, add_special_tokens=False).ids
        return [self.token_id("<user>"), *plain, self.token_id("<assistant>")]

    def _encode_opening(self, text: str) -> list[int]:
        """A text with what the tokenizer puts in front of one (such as <s>), to be gone on with."""
        ids = self.encode(text)
        whole = self._fast.encode(text, add_special_tokens=True).ids
        starts = [at for at in range(len(whole) - len(ids) + 1) if whole[at : at + len(ids)] == ids]
        return [*whole[: starts[0]], *ids] if starts else ids

    def encode(self, text: str) -> list[int]:
        """The ids of a text, markup as markup; InvalidInputError where a character has no token."""
        self._check_alphabet(text)
        return self._fast.encode(text, add_special_tokens=False).ids

    def encode_inert(self, text: str) -> list[int]:
        """The ids of a text that may say anything: none of them is markup of any kind, or ends a generation.

        Markup in it is read as the characters it is written with; a character without a token becomes `?`.
        """
        if self._alphabet is not None:
            text = "".join(each if each in self._alphabet else "?" for each in text)
        bare, markup_ids = self._bare
        return [each for each in bare.encode(text, add_special_tokens=False).ids if each not in markup_ids]

    @cached_property
    def _bare(self) -> tuple[FastTokenizer, frozenset[int]]:
        """A tokenizer that knows no markup, and the ids that its model could take for some all the same."""
        content = json.loads(self._fast.to_str())
        markup_ids = {token["id"] for token in content["added_tokens"]}
        content |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
        return FastTokenizer.from_str(json.dumps(content)), frozenset(markup_ids | self.stop_ids)

    def _check_alphabet(self, text: str) -> None:
        if self._alphabet is not None and (unknown := sorted(set(text) - self._alphabet)):
            raise InvalidInputError(
                f"this tokenizer has no token for {unknown[:8]}; it knows printable ASCII"
            )

    def decode(self, ids: list[int]) -> str:
        """The text of these ids without turn markup."""
        return self._fast.decode(ids, skip_special_tokens=True)

    def token_id(self, token: str) -> int:
        """The id of one token, e.g. "<assistant>"."""
        found = self._fast.token_to_id(token)
        if found is None:
            raise ConfigError(f"the tokenizer has no token {token!r}")
        return found

    def remember(self, name: str, content: Mapping[str, object]) -> None:
        """Save a file beside it with this content from now on."""
        self._kept[name] = json.dumps(content, indent=1) + "\n"

    def save(self, directory: str | Path) -> None:
        """Write tokenizer.json and the tokenizer_config.json that transformers reads beside it."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._fast.save(str(directory / TOKENIZER_FILE))
        config: dict[str, object] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "eos_token": self._eos_token,
        }
        if self.has_turns:
            config |= {"pad_token": "<pad>", "additional_special_tokens": ["<user>", "<assistant>"]}
            config |= {"chat_template": _CHAT_TEMPLATE}
        written = {TOKENIZER_CONFIG_FILE: json.dumps(config, indent=1) + "\n"}
        if not self.has_turns:
            written |= self._kept
        for name, text in written.items():
            (directory / name).write_text(text, encoding="utf-8")


def load_tokenizer(directory: str | Path, *, chat: bool | None = None) -> Tokenizer:
    """Read a model folder's tokenizer; ConfigError where there is none.

    `chat`: whether questions go through its chat template. None: as the folder says, else if it has one.
    """
    path = Path(directory) / TOKENIZER_FILE
    if not path.is_file():
        raise ConfigError(
            f"{path} does not exist; for a model without tokenizer pass prompt_ids, not text (transformers "
            f"writes a {TOKENIZER_FILE} with AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER))"
        )
    if "model" not in _read_json(path):
        raise ConfigError(f"{path} is not a tokenizer: it has no model")
    beside = [path.with_name(name) for name in KEPT_FILES]
    kept = {each.name: each.read_text(encoding="utf-8") for each in beside if each.is_file()}
    tokenizer = Tokenizer(
        FastTokenizer.from_file(str(path)), _eos_token(beside[0]), kept, stop_ids=_stop_ids(path.parent)
    )
    if not tokenizer.has_turns:
        _choose_form(tokenizer, path.parent, chat)
    return tokenizer


def build_character_tokenizer() -> Tokenizer:
    """One token a printable ASCII character, newline included, and one for each piece of markup."""
    names = (*TURN_TOKENS, *ANSWER_TOKENS, *CHARACTERS)
    fast = FastTokenizer(models.WordLevel(vocab={name: number for number, name in enumerate(names)}))
    fast.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    fast.decoder = decoders.Fuse()
    fast.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in TURN_TOKENS])
    fast.add_tokens([AddedToken(token, normalized=False) for token in ANSWER_TOKENS])
    return Tokenizer(fast, "<eos>")


def _alphabet(fast: FastTokenizer) -> frozenset[str] | None:
    """The characters a tokenizer of single characters knows; None for one that can encode any text."""
    model = json.loads(fast.to_str())["model"]
    if model["type"] != "WordLevel" or model["unk_token"] in model["vocab"]:
        return None
    return frozenset(character for token in fast.get_vocab() for character in token)


def _choose_form(tokenizer: Tokenizer, directory: Path, chat: bool | None) -> None:
    """Have it ask by its chat template, or not; what was said of it is written wherever it is saved."""
    from forklight_model.chat import TemplateFormat, Turn, load_chat_format

    said = _read_json_if_there(directory / TOKENIZER_CONFIG_FILE)
    wanted = chat if chat is not None else said.get(CHAT_KEY)
    form = load_chat_format(directory, tokenizer, chat=chat)
    if wanted is True and not isinstance(form, TemplateFormat):
        raise ConfigError(
            f"model.chat = true, and the tokenizer in {directory} has no chat template: give the folder a "
            f"{TEMPLATE_FILE}, or set model.chat = false"
        )
    if isinstance(form, TemplateFormat) and wanted is not False:
        tokenizer.ask = lambda text: form.encode([Turn("user", text)])
    if chat is not None:
        tokenizer.remember(TOKENIZER_CONFIG_FILE, {**said, CHAT_KEY: chat})


def _stop_ids(directory: Path) -> frozenset[int]:
    """What the folder says generation ends with, besides the tokenizer's own end: one id or several."""
    for name in (GENERATION_FILE, "config.json"):
        found = _read_json_if_there(directory / name).get("eos_token_id")
        ids = found if isinstance(found, list) else [found]
        if known := frozenset(each for each in ids if isinstance(each, int) and each >= 0):
            return known
    return frozenset()


def _read_json_if_there(path: Path) -> Mapping[str, object]:
    return _read_json(path) if path.is_file() else {}


def _eos_token(path: Path) -> str | None:
    if not path.is_file():
        return None
    token = _read_json(path).get("eos_token")
    if isinstance(token, dict):
        token = token.get("content")
    if token is not None and not isinstance(token, str):
        raise ConfigError(f"{path}: eos_token is {token!r}, expected text")
    return token


def _read_json(path: Path) -> Mapping[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}, not an object")
    return content
