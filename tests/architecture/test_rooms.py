"""The same rooms everywhere, a README each, plain names, a contract that explains itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.architecture.sources import LIBRARIES, ROOT, SERVICES, name_of, python_files

SERVICE_NAMES = {"buffer", "rollout", "reward", "trainer", "console"}
SAME_ROOMS = ("__main__.py", "settings.py", "app.py", "metrics.py", "__init__.py", "py.typed")
VAGUE_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "manager", "base"}
README_SECTIONS = ("owns", "in", "out", "run alone", "decisions")
FIELD = re.compile(r"^\s*(?:optional |repeated )?[\w.]+(?: \w+)? = \d+;(.*)$")


def test_all_five_services_are_there() -> None:
    assert {path.name for path in SERVICES} == SERVICE_NAMES


@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.name)
def test_services_have_the_same_rooms(service: Path) -> None:
    package = service / f"forklight_{service.name}"
    door = "routes.py" if service.name == "console" else "servicer.py"
    missing = [name for name in (*SAME_ROOMS, door) if not any(package.rglob(name))]
    missing += [name for name in ("README.md", "tests") if not (service / name).exists()]
    assert not missing, f"{service.name} lacks {', '.join(missing)}"


@pytest.mark.parametrize("room", [*LIBRARIES, *SERVICES], ids=name_of)
def test_rooms_explain_themselves(room: Path) -> None:
    text = (room / "README.md").read_text(encoding="utf-8").lower()
    missing = [
        section
        for section in README_SECTIONS
        if not re.search(rf"(?:^#+ |[*|] *){section}\b", text, re.MULTILINE)
    ]
    assert not missing, f"{name_of(room)}/README.md says nothing of: {', '.join(missing)}"


def test_no_module_has_a_vague_name() -> None:
    vague = [name_of(path) for path in python_files() if VAGUE_NAMES & {path.stem, path.parent.name}]
    assert not vague, "\n".join(vague)


def test_every_module_says_what_it_owns() -> None:
    silent = [
        name_of(path)
        for path in python_files()
        if (text := path.read_text(encoding="utf-8").lstrip()) and not text.startswith(('"""', "#!", 'r"""'))
    ]
    assert not silent, "\n".join(silent)


def test_code_is_ascii() -> None:
    """What looks alike must be alike; text that must hold other letters spells them as escapes."""
    strange = [name_of(path) for path in python_files() if not path.read_text(encoding="utf-8").isascii()]
    assert not strange, "\n".join(strange)


def test_every_proto_field_is_commented() -> None:
    bare = []
    for path in sorted((ROOT / "proto").rglob("*.proto")):
        before = ""
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            field = FIELD.match(line)
            if field and "//" not in field[1] and not before.strip().startswith("//"):
                bare.append(f"{name_of(path)}:{number} {line.strip()}")
            before = line
    assert not bare, "\n".join(bare)


def test_every_proto_message_is_used() -> None:
    """A message nobody imports is a promise nobody keeps."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "proto").rglob("*.proto")))
    names = re.findall(r"^message (\w+)", text, re.MULTILINE)
    unused = [name for name in names if len(re.findall(rf"\b{name}\b", text)) == 1]
    code = "".join(path.read_text(encoding="utf-8") for path in python_files())
    lost = [name for name in unused if f"{name}" not in code]
    assert not lost, f"in proto/ only: {', '.join(lost)}"
