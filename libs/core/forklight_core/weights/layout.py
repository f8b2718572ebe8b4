"""Names of a version's files and folders, and the head of a safetensors file.

A file of whole tensors is written before all of its tensors are known: its head has a fixed length, and
what the names do not fill are spaces, as the format allows.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence

from forklight_core.weights.manifest import TensorEntry

WHOLE_FILE = "model-r{rank}-{number}.safetensors"
CHANGES_FILE = "changes-r{rank}-{number}.bin"
HEAD_BYTES = 1 << 16
LENGTH = struct.Struct("<Q")
SAFETENSORS_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "bfloat16": "BF16",
    "float16": "F16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
VERSION_FOLDER = re.compile(r"v(\d{8,})")
OPENING = '{"__metadata__":{"format":"pt"}'


def version_folder(version: int) -> str:
    """Name of a version's folder."""
    return f"v{version:08d}"


def read_version(folder: str) -> int | None:
    """The version of a folder by its name; None where it is none."""
    found = VERSION_FOLDER.fullmatch(folder)
    return int(found[1]) if found else None


def head_line(entry: TensorEntry, start: int) -> str:
    """A tensor's part of the head; `start` counts from the end of the head."""
    shape, stop = ",".join(map(str, entry.shape)), start + entry.num_bytes
    dtype = SAFETENSORS_NAMES[entry.dtype]
    return (
        f',{json.dumps(entry.name)}:{{"dtype":"{dtype}","shape":[{shape}],"data_offsets":[{start},{stop}]}}'
    )


def build_head(lines: Sequence[str]) -> bytes:
    """The head of a file with these tensors, in their order."""
    text = OPENING + "".join(lines) + "}"
    num_bytes = HEAD_BYTES - LENGTH.size
    return LENGTH.pack(num_bytes) + text.encode().ljust(num_bytes)
