"""A record as a line of the prompt file that a run reads: {id, prompt, kind, gold, spec, domain, source}."""

from __future__ import annotations

from forklight_core.blobs import BlobStore
from forklight_core.errors import InvalidInputError
from forklight_data.record import JsonObject, Record, Reference, read_json, read_object, write_json

CARRIED = ("tools", "workspace", "level", "synthetic")
"""What a run reads of a row and a record keeps under meta."""


def prompt_line(record: Record, blobs: BlobStore | None) -> bytes:
    """InvalidInputError when a run could not read the record."""
    spec = record.verifier.spec
    fields: JsonObject = {
        "id": record.id,
        "prompt": prompt_text(record),
        "kind": record.verifier.kind,
        "gold": _gold(record.answer, blobs),
        "spec": _spec(spec, blobs) if isinstance(spec, Reference) else dict(spec),
        "domain": record.domain.value,
        "source": record.source,
    }
    fields |= {name: record.meta[name] for name in CARRIED if record.meta.get(name) is not None}
    return write_json({name: value for name, value in fields.items() if value != {}}).encode() + b"\n"


def prompt_text(record: Record) -> str:
    """A run prompts with one text: what the system says stands before the question."""
    if any(message.role == "assistant" for message in record.prompt):
        raise InvalidInputError("its prompt has a turn of the assistant, and a run prompts with one text")
    return "\n\n".join(message.content for message in record.prompt)


def _gold(answer: str | Reference, blobs: BlobStore | None) -> str:
    return _fetch(answer.ref, blobs).decode() if isinstance(answer, Reference) else answer


def _spec(reference: Reference, blobs: BlobStore | None) -> JsonObject:
    return read_object(read_json(_fetch(reference.ref, blobs)), "spec")


def _fetch(ref: str, blobs: BlobStore | None) -> bytes:
    if blobs is None:
        raise InvalidInputError(f"it refers to {ref[:16]}..., and no store was named: --blobs FOLDER")
    return blobs.get(ref)
