"""The record: one prompt, what a right answer is, and where both came from; read, checked, written."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NoReturn, TypeAlias, cast

from forklight_core.errors import InvalidInputError

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"
JsonObject: TypeAlias = dict[str, Json]

KEYS = frozenset({"id", "source", "domain", "prompt", "verifier", "answer", "difficulty", "meta", "hashes"})
NEEDED = ("id", "source", "domain", "prompt", "verifier")
ROLES = frozenset({"system", "user", "assistant"})
KIND = re.compile(r"[a-z][a-z0-9_]{0,31}")
REFERENCE = re.compile(r"b3:[0-9a-f]{64}")
MOST_ID_CHARACTERS = 200
MOST_SOURCE_CHARACTERS = 64
MOST_DEPTH = 64


class Domain(StrEnum):
    """What a prompt is about; curricula weigh by it."""

    MATH = "math"
    LOGIC = "logic"
    CODE = "code"
    SWE = "swe"
    STEM = "stem"
    GENERAL = "general"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a prompt."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Reference:
    """Bytes that lie in a blob store, by the hash that names them there."""

    ref: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verifier:
    """Who judges an answer, by which version of its rules, with what."""

    kind: str
    version: str = ""
    spec: Mapping[str, Json] | Reference = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difficulty:
    """How often one version of a policy was right: the count, never only the share."""

    k: int
    passes: int
    policy_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One row of a data set."""

    id: str
    source: str
    domain: Domain
    prompt: tuple[Message, ...]
    verifier: Verifier
    answer: str | Reference = ""
    difficulty: Difficulty | None = None
    meta: Mapping[str, Json] = field(default_factory=dict)
    line: bytes = field(default=b"", init=False, compare=False, repr=False)
    """As a step wrote it; a record that is changed has none."""

    @property
    def question(self) -> str:
        """All that the policy is told, as one text."""
        return "\n".join(message.content for message in self.prompt)

    @property
    def prompt_hash(self) -> str:
        """Of the prompt as it is written."""
        return _hash([{"role": message.role, "content": message.content} for message in self.prompt])

    @property
    def answer_hash(self) -> str:
        """Of the answer and of what its verifier needs."""
        return _hash([self.verifier.kind, _answer_json(self.answer), _spec_json(self.verifier.spec)])

    def with_question(self, text: str) -> Record:
        """The same record with another last message."""
        last = replace(self.prompt[-1], content=text)
        return replace(self, prompt=(*self.prompt[:-1], last))


def write_json(value: object) -> str:
    """One spelling for one value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def write_record(record: Record) -> bytes:
    """One line of a records file."""
    if record.line:
        return record.line
    verifier = record.verifier
    difficulty = record.difficulty and {
        "k": record.difficulty.k,
        "passes": record.difficulty.passes,
        "policy_version": record.difficulty.policy_version,
    }
    fields: dict[str, object] = {
        "id": record.id,
        "source": record.source,
        "domain": record.domain.value,
        "prompt": [{"role": message.role, "content": message.content} for message in record.prompt],
        "verifier": {"kind": verifier.kind, "version": verifier.version, "spec": _spec_json(verifier.spec)},
        "answer": _answer_json(record.answer),
        "difficulty": difficulty,
        "meta": dict(record.meta),
        "hashes": {"prompt": record.prompt_hash, "answer": record.answer_hash},
    }
    try:
        return write_json(fields).encode() + b"\n"
    except (UnicodeEncodeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"cannot be written as JSON in UTF-8: {str(error)[:120]}") from error


def read_json(line: str | bytes) -> Json:
    """JSON as the standard has it: no NaN, no bomb; InvalidInputError says what is wrong."""
    try:
        return cast("Json", json.loads(line, parse_constant=_no_constant))
    except RecursionError as error:
        raise InvalidInputError("is nested too deeply to be read") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"is not UTF-8 (byte {error.start})") from error
    except ValueError as error:
        raise InvalidInputError(f"is not JSON: {str(error)[:120]}") from error


def read_record(found: Json, *, check_hashes: bool = True) -> Record:
    """A record out of JSON; InvalidInputError says which field is wrong and why."""
    if not isinstance(found, dict):
        raise InvalidInputError(f"is a {type(found).__name__}, not an object")
    if unknown := sorted(set(found) - KEYS):
        raise InvalidInputError(f"has an unknown key {unknown[0][:80]!r}; what is extra goes under meta")
    if missing := [key for key in NEEDED if key not in found]:
        raise InvalidInputError(f"has no {missing[0]}")
    record = Record(
        id=read_id(found["id"]),
        source=read_source(found["source"]),
        domain=read_domain(found["domain"]),
        prompt=read_prompt(found["prompt"]),
        verifier=_read_verifier(found["verifier"]),
        answer=_read_answer(found.get("answer")),
        difficulty=_read_difficulty(found.get("difficulty")),
        meta=read_object(found.get("meta") or {}, "meta"),
    )
    if check_hashes:
        _check_hashes(record, found.get("hashes"))
    return record


def read_id(value: Json) -> str:
    """A name that a file of prompts can hold."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    name = _text(value, "id")
    if len(name) > MOST_ID_CHARACTERS or not name.isprintable():
        raise InvalidInputError(
            f"id is longer than {MOST_ID_CHARACTERS} characters, or not printable: {name[:60]!r}"
        )
    return name


def read_source(value: Json) -> str:
    """A name that a run file can speak of."""
    name = _text(value, "source")
    if len(name) > MOST_SOURCE_CHARACTERS or not name.isprintable():
        raise InvalidInputError(
            f"source is longer than {MOST_SOURCE_CHARACTERS} characters, or not printable: {name[:60]!r}"
        )
    return name


def read_domain(value: Json) -> Domain:
    """One of the six."""
    try:
        return Domain(str(value))
    except ValueError:
        raise InvalidInputError(
            f"domain is {str(value)[:40]!r}; it must be one of {', '.join(Domain)}"
        ) from None


def read_kind(value: Json) -> str:
    """The name of a verifier's kind."""
    if not isinstance(value, str) or not KIND.fullmatch(value):
        raise InvalidInputError(f"kind is {str(value)[:40]!r}; it must be a name like math, logic or code")
    return value


def read_prompt(value: Json) -> tuple[Message, ...]:
    """Messages; the last one is the user's and says something."""
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise InvalidInputError("prompt is not text and not a list of messages")
    messages = []
    for item in value:
        if not isinstance(item, dict) or item.get("role") not in ROLES:
            raise InvalidInputError(f"prompt has a message whose role is none of {', '.join(sorted(ROLES))}")
        messages.append(Message(str(item["role"]), _text(item.get("content"), "a message's content")))
    if messages[-1].role != "user":
        raise InvalidInputError(f"prompt ends with a message of {messages[-1].role}, not of user")
    return tuple(messages)


def read_object(value: Json, name: str) -> JsonObject:
    """An object that is not nested beyond reason."""
    if not isinstance(value, dict):
        raise InvalidInputError(f"{name} is a {type(value).__name__}, not an object")
    if _is_deep(value):
        raise InvalidInputError(f"{name} is nested deeper than {MOST_DEPTH}")
    return value


def _read_verifier(value: Json) -> Verifier:
    found = read_object(value, "verifier")
    if unknown := sorted(set(found) - {"kind", "version", "spec"}):
        raise InvalidInputError(f"verifier has an unknown key {unknown[0][:80]!r}")
    version, spec = found.get("version") or "", read_object(found.get("spec") or {}, "verifier.spec")
    if not isinstance(version, str):
        raise InvalidInputError("verifier.version is not text")
    is_reference = set(spec) == {"ref"}
    return Verifier(
        kind=read_kind(found.get("kind")),
        version=version,
        spec=_reference(spec["ref"]) if is_reference else spec,
    )


def _read_answer(value: Json) -> str | Reference:
    if isinstance(value, dict) and set(value) == {"ref"}:
        return _reference(value["ref"])
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if value is not None and not isinstance(value, str):
        raise InvalidInputError(f"answer is a {type(value).__name__}; it must be text, a number or a ref")
    return _clean(value or "", "answer")


def _read_difficulty(value: Json) -> Difficulty | None:
    if value is None:
        return None
    found = read_object(value, "difficulty")
    k, passes, version = found.get("k"), found.get("passes"), found.get("policy_version")
    if type(k) is not int or type(passes) is not int or not 0 <= passes <= k or k < 1:
        raise InvalidInputError("difficulty must have integers k >= 1 and 0 <= passes <= k")
    if not isinstance(version, str) or not version:
        raise InvalidInputError("difficulty has no policy_version: a pass rate belongs to one policy")
    return Difficulty(k=k, passes=passes, policy_version=version)


def _check_hashes(record: Record, value: Json) -> None:
    if not value:
        return
    found = read_object(value, "hashes")
    wrong = (found.get("prompt"), found.get("answer")) != (record.prompt_hash, record.answer_hash)
    if wrong:
        raise InvalidInputError("hashes are not those of prompt and answer: the row was changed or damaged")


def _reference(value: Json) -> Reference:
    if not isinstance(value, str) or not REFERENCE.fullmatch(value):
        raise InvalidInputError(f"ref is {str(value)[:80]!r}; it must be b3: and 64 hex digits")
    return Reference(value)


def _text(value: Json, name: str) -> str:
    if not isinstance(value, str):
        raise InvalidInputError(f"{name} is a {type(value).__name__}, not text")
    if not value.strip():
        raise InvalidInputError(f"{name} is empty")
    return _clean(value, name)


def _clean(value: str, name: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"{name} holds half a character (a lone surrogate)") from error
    return value


def _is_deep(value: Json) -> bool:
    """Without recursion, which is what the bomb is for."""
    level: list[Json] = [value]
    for _ in range(MOST_DEPTH):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _answer_json(answer: str | Reference) -> Json:
    return {"ref": answer.ref} if isinstance(answer, Reference) else answer


def _spec_json(spec: Mapping[str, Json] | Reference) -> Json:
    return {"ref": spec.ref} if isinstance(spec, Reference) else dict(spec)


def _hash(value: object) -> str:
    return hashlib.sha256(write_json(value).encode("utf-8", "surrogatepass")).hexdigest()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")
