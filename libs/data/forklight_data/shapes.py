"""What the columns of somebody's rows mean: five shapes, known by their columns, and how each is a record."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from forklight_core.errors import InvalidInputError
from forklight_data.programs import read_program
from forklight_data.record import (
    Domain,
    Json,
    JsonObject,
    Record,
    read_domain,
    read_id,
    read_json,
    read_kind,
    read_object,
    read_record,
    write_json,
)

PROMPT_COLUMNS = ("prompt", "question", "problem", "instruction", "input", "query")
ANSWER_COLUMNS = ("answer", "gold", "ground_truth", "final_answer", "target", "output", "solution")
ID_COLUMNS = ("id", "uid", "problem_id", "task_id")
DOMAIN_OF_KIND = {
    "math": Domain.MATH,
    "logic": Domain.LOGIC,
    "gym": Domain.LOGIC,
    "code": Domain.CODE,
    "judge": Domain.GENERAL,
}


class Shape(StrEnum):
    """Who wrote the rows."""

    RECORD = "record"
    PROMPTS = "prompts"
    VERL = "verl"
    VERIFIERS = "verifiers"
    COLUMNS = "columns"


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnMapping:
    """Columns and facts that a person named; empty: found out."""

    shape: Shape | None = None
    prompt_column: str = ""
    answer_column: str = ""
    id_column: str = ""
    source: str = ""
    domain: Domain | None = None
    kind: str = ""
    file_name: str = ""
    """The source of rows that tell none."""


def find_shape(fields: Mapping[str, Json], given: ColumnMapping) -> tuple[Shape, str]:
    """The shape of a row, and by what it was known."""
    if given.shape is not None:
        return given.shape, "as told"
    if given.prompt_column or given.answer_column or given.id_column:
        return Shape.COLUMNS, "columns were named"
    if isinstance(fields.get("verifier"), dict):
        return Shape.RECORD, "has verifier"
    if "reward_model" in fields and "data_source" in fields:
        return Shape.VERL, "has data_source and reward_model"
    if "kind" in fields and isinstance(fields.get("prompt"), str):
        return Shape.PROMPTS, "has kind, and prompt as text"
    if isinstance(fields.get("prompt"), list) or "info" in fields:
        return Shape.VERIFIERS, "has info, or prompt as messages"
    return Shape.COLUMNS, "known by no other shape"


def fit_columns(fields: Mapping[str, Json], given: ColumnMapping) -> ColumnMapping:
    """Name the columns that nobody named, or say which exist."""

    def fit(named: str, candidates: tuple[str, ...], option: str, *, may_lack: bool = False) -> str:
        if named and named not in fields:
            raise InvalidInputError(f"{option} is {named!r}, but the columns are {', '.join(sorted(fields))}")
        found = named or next((name for name in candidates if name in fields), "")
        if not found and not may_lack:
            raise InvalidInputError(
                f"no column is known by its name; say which with {option}: {', '.join(sorted(fields))}"
            )
        return found

    return replace(
        given,
        prompt_column=fit(given.prompt_column, PROMPT_COLUMNS, "--prompt-column"),
        answer_column=fit(given.answer_column, ANSWER_COLUMNS, "--answer-column", may_lack=True),
        id_column=fit(given.id_column, ID_COLUMNS, "--id-column", may_lack=True),
    )


def make_record(fields: JsonObject, shape: Shape, given: ColumnMapping) -> Record:
    """A row as a record; InvalidInputError says why it is none."""
    return MAKERS[shape](fields, given)


def _from_record(fields: JsonObject, given: ColumnMapping) -> Record:
    return read_record(fields)


def _from_prompt_line(fields: JsonObject, given: ColumnMapping) -> Record:
    """A line of a prompt file, as runs read it."""
    kind = read_kind(fields.get("kind"))
    used = {"id", "prompt", "kind", "gold", "spec", "domain", "source", "difficulty"}
    return _record(
        fields,
        given,
        _Found(
            prompt=fields.get("prompt"),
            answer=fields.get("gold"),
            kind=kind,
            domain=str(fields.get("domain") or ""),
            source=str(fields.get("source") or ""),
            spec=read_object(fields.get("spec") or {}, "spec"),
            used=used,
        ),
    )


def _from_verl(fields: JsonObject, given: ColumnMapping) -> Record:
    model = read_object(fields.get("reward_model"), "reward_model")
    extra = read_object(fields.get("extra_info") or {}, "extra_info")
    ability = str(fields.get("ability") or "").lower()
    is_code = "code" in ability or given.kind == "code"
    kind = given.kind or ("judge" if model.get("style") == "model" else "code" if is_code else "math")
    truth = model.get("ground_truth")
    domain = next((name.value for name in Domain if name.value in ability), "")
    index = extra.get("index")
    source = str(fields.get("data_source") or "")
    return _record(
        fields,
        given,
        _Found(
            prompt=fields.get("prompt"),
            answer="" if is_code else truth,
            kind=kind,
            domain=domain,
            source=source,
            spec=read_program(truth) if is_code else {},
            used={"data_source", "prompt", "ability", "reward_model"},
            id="" if index is None else f"{source}-{extra.get('split') or 'row'}-{index}",
        ),
    )


def _from_verifiers(fields: JsonObject, given: ColumnMapping) -> Record:
    written = fields.get("info") or {}
    info = read_object(read_json(written) if isinstance(written, str) else written, "info")
    task = str(fields.get("task") or "").lower()
    kind = given.kind or ("code" if "code" in task else "math")
    prompt = fields.get("prompt") or fields.get("question")
    answer = fields.get("answer")
    return _record(
        fields | {"info": info},
        given,
        _Found(
            prompt=prompt,
            answer="" if kind == "code" else answer,
            kind=kind,
            domain="",
            source=str(fields.get("task") or ""),
            spec=read_program(info.get("tests") or answer) if kind == "code" else {},
            used={"prompt", "question", "answer"},
        ),
    )


def _from_columns(fields: JsonObject, given: ColumnMapping) -> Record:
    answer = fields.get(given.answer_column) if given.answer_column else ""
    kind = given.kind or "math"
    return _record(
        fields,
        given,
        _Found(
            prompt=fields.get(given.prompt_column),
            answer="" if kind == "code" else answer,
            kind=kind,
            domain="",
            source="",
            spec=read_program(answer) if kind == "code" else {},
            used={given.prompt_column, given.answer_column},
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What a shape found in a row."""

    prompt: Json
    answer: Json
    kind: str
    domain: str
    source: str
    spec: JsonObject
    used: set[str]
    id: str = ""


def _record(fields: JsonObject, given: ColumnMapping, found: _Found) -> Record:
    """The common end: facts that were told win, the rest of the row goes under meta."""
    if isinstance(found.answer, dict | bool):
        raise InvalidInputError(f"the answer is a {type(found.answer).__name__}; text or a number is needed")
    id_column = given.id_column or "id"
    used = found.used | {id_column}
    kind = read_kind(given.kind or found.kind)
    domain = given.domain or (read_domain(found.domain) if found.domain else DOMAIN_OF_KIND.get(kind))
    if domain is None:
        raise InvalidInputError(f"no domain follows from kind {kind!r}; say it with --domain")
    written: JsonObject = {
        "id": "pending",
        "source": given.source or found.source or given.file_name,
        "domain": domain.value,
        "prompt": _messages(found.prompt),
        "verifier": {"kind": kind, "version": "", "spec": found.spec},
        "answer": _only(found.answer),
        "meta": {name: value for name, value in fields.items() if name not in used and value is not None},
    }
    record = read_record(written)
    name = fields.get(id_column)
    return _with_id(record, found.id if name is None else read_id(name))


def _with_id(record: Record, name: str) -> Record:
    if not name:
        body = write_json([record.source, record.prompt_hash, record.answer_hash])
        name = f"{record.source}-{hashlib.sha256(body.encode()).hexdigest()[:16]}"
    return replace(record, id=read_id(name))


def _messages(value: Json) -> Json:
    """Messages with role and content only: what else a chat carries has no meaning here."""
    if not isinstance(value, list):
        return [{"role": "user", "content": value}]
    return [
        {"role": item.get("role"), "content": item.get("content")} if isinstance(item, dict) else item
        for item in value
    ]


def _only(answer: Json) -> Json:
    """The one element of a list of one; several right answers are no single reference."""
    if isinstance(answer, list):
        if len(answer) != 1 or isinstance(answer[0], list | dict):
            raise InvalidInputError(f"the answer is a list of {len(answer)}; one is needed")
        return answer[0]
    return answer


MAKERS: Mapping[Shape, Callable[[JsonObject, ColumnMapping], Record]] = {
    Shape.RECORD: _from_record,
    Shape.PROMPTS: _from_prompt_line,
    Shape.VERL: _from_verl,
    Shape.VERIFIERS: _from_verifiers,
    Shape.COLUMNS: _from_columns,
}
