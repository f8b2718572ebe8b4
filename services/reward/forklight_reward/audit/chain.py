"""One line of a chain: a JSON object that ends with a hash over the line before it and all of itself.

{"seq":7,...,"hash":"<64 hex digits>"}   hash = sha256(last line's hash, "\\n", this line up to `,"hash"`)

No byte of a line is outside the hash, so none can change unseen. Who can rewrite the files can also make
a new chain: what proves the old one is a hash that somebody kept elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import cast

from forklight_core.errors import DataLossError

GENESIS = "0" * 64
_END = re.compile(rb',"hash":"([0-9a-f]{64})"\}\n')
_END_BYTES = len(',"hash":""}\n') + 64

Body = Mapping[str, object]


def seal(previous: str, body: Body) -> tuple[bytes, str]:
    """The line of a body behind the line whose hash is `previous`, and its own hash."""
    start = json.dumps(body, separators=(",", ":"), ensure_ascii=True, allow_nan=False)[:-1].encode()
    digest = _hash(previous, start)
    return start + b',"hash":"' + digest.encode() + b'"}\n', digest


def open_line(previous: str, line: bytes) -> tuple[Body, str]:
    """The body of a line and its hash; DataLossError when it is not the one behind `previous`."""
    end = _END.fullmatch(line[-_END_BYTES:])
    if end is None:
        raise DataLossError("the line does not end with its hash")
    digest = end[1].decode()
    if _hash(previous, line[:-_END_BYTES]) != digest:
        raise DataLossError("the hash does not fit: this line, or the one before it, is not what was written")
    return read_body(line), digest


def read_body(line: bytes) -> Body:
    """The object of a line, unproven."""
    try:
        body = json.loads(line)
    except ValueError as error:
        raise DataLossError(f"the line is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise DataLossError(f"the line is a {type(body).__name__}, not an object")
    return cast("Body", body)


def _hash(previous: str, start: bytes) -> str:
    return hashlib.sha256(previous.encode() + b"\n" + start).hexdigest()
