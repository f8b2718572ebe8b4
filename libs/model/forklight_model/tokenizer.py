"""Text to token ids and back, from a model folder's tokenizer.json; and the character tokenizer of the demo.

The character tokenizer loses nothing: decode(encode(text)) == text for printable ASCII and newlines. Markup
of the turn (<pad> <eos> <user> <assistant>) is dropped in decoding; markup of the answer (<think> </think>
\\boxed{) is one token each and stays.
"""

import json
import string
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

from forklight_core.errors import ConfigError, InvalidInputError

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
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
    """A tokenizer.json with the few things generation needs to know about it."""

    def __init__(self, fast: FastTokenizer, eos_token: str | None) -> None:
        self._fast = fast
        self._plain = FastTokenizer.from_str(fast.to_str())
        self._plain.encode_special_tokens = True  # markup in it is read as the characters it is written with
        self._alphabet = _alphabet(fast)
        self._eos_token = eos_token
        eos_id = None if eos_token is None else fast.token_to_id(eos_token)
        if eos_token is not None and eos_id is None:
            raise ConfigError(
                f"eos_token {eos_token!r} of {TOKENIZER_CONFIG_FILE} is not in {TOKENIZER_FILE}"
            )
        self.stop_ids: frozenset[int] = frozenset() if eos_id is None else frozenset({eos_id})
        """Ids that end a generation."""

    @property
    def vocab_size(self) -> int:
        return self._fast.get_vocab_size(with_added_tokens=True)

    @property
    def has_turns(self) -> bool:
        """Whether prompts are rendered with this project's turn markup."""
        return all(self._fast.token_to_id(token) is not None for token in ("<user>", "<assistant>"))

    def encode_prompt(self, text: str) -> list[int]:
        """A user's text as the model is shown it, up to where its answer begins. No text ends that turn."""
        if not self.has_turns:
            return self.encode(text)
        self._check_alphabet(text)
        plain = self._plain.encode(text, add_special_tokens=False).ids
        return [self.token_id("<user>"), *plain, self.token_id("<assistant>")]

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
        path = directory / TOKENIZER_CONFIG_FILE
        path.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """Read a model folder's tokenizer; ConfigError where there is none."""
    path = Path(directory) / TOKENIZER_FILE
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; for a model without tokenizer pass prompt_ids, not text")
    if "model" not in _read_json(path):
        raise ConfigError(f"{path} is not a tokenizer: it has no model")
    return Tokenizer(FastTokenizer.from_file(str(path)), _eos_token(path.with_name(TOKENIZER_CONFIG_FILE)))


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
