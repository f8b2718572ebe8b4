"""Reads unified diffs, plain or of git, strictly: every line is accounted for, every refusal says where."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

HUNK = re.compile(r"@@ -(\d{1,7})(?:,(\d{1,7}))? \+(\d{1,7})(?:,(\d{1,7}))? @@(?: .*)?")
MODE = re.compile(r"(old mode|new mode|new file mode|deleted file mode) (\d{6})")
GIT_LINE = re.compile(
    r"(index [0-9a-f]{4,64}\.\.[0-9a-f]{4,64}(?: (?P<mode>\d{6}))?|(?:dis)?similarity index \d{1,3}%)"
)
PLAIN_MODES = ("100644", "100755")
NO_NEWLINE = "\\ "
"""No newline at end of file, in whatever language."""
BETWEEN = ("diff ", "Index: ", "=====", "Only in ")
"""Lines that other tools than git put before a file's two names."""
NOTHING = "/dev/null"
EPOCH = ("1970-01-01", "1969-12-31")
"""When a file that is not there was changed, says `diff -N`."""
ESCAPES = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13, '"': 34, "\\": 92}


class MalformedPatchError(ValueError):
    """Not a diff, or one that does not fit: the patch's author's fault."""


class ForbiddenPatchError(ValueError):
    """A diff that asks for what no patch may do."""


@dataclass(slots=True)
class Hunk:
    """Lines of one hunk, each with its newline unless the file ends without one."""

    old_start: int
    header: str
    old: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    num_lead: int = 0
    """Context lines before the first change."""
    num_trail: int = 0


@dataclass(slots=True)
class FileChange:
    """What a diff does to one file; `old` is None for a new file, `new` for a deleted one."""

    old: str | None
    new: str | None
    hunks: list[Hunk] = field(default_factory=list)
    is_copy: bool = False

    @property
    def name(self) -> str:
        """The path to speak of."""
        return self.new or self.old or ""


class Reader:
    """A cursor over the lines of a patch."""

    def __init__(self, text: str) -> None:
        self.lines = text.split("\n")
        if self.lines[-1] == "":
            self.lines.pop()
        self.at = 0

    @property
    def line(self) -> str | None:
        """The line under the cursor, without the carriage return of a mail program on header lines."""
        return self.lines[self.at] if self.at < len(self.lines) else None

    def fail(self, reason: str) -> MalformedPatchError:
        """An error that says where."""
        return MalformedPatchError(f"line {self.at + 1}: {reason}")


def read_diff(text: str) -> list[FileChange]:
    """All changes in their order. Text before the first header is the author's and skipped."""
    reader = Reader(text)
    while reader.line is not None and not at_header(reader):
        if reader.line.startswith(("@@ -", "GIT binary patch")):
            raise reader.fail("a hunk without the two lines --- and +++ that name its file")
        reader.at += 1
    changes: list[FileChange] = []
    while (line := reader.line) is not None:
        if line.startswith("diff --git "):
            changes.append(read_git_change(reader))
        elif at_header(reader):
            changes.append(read_names(reader))
            read_hunks(reader, changes[-1])
        elif not line.strip() or line.startswith(BETWEEN):
            reader.at += 1
        elif line in ("-- ", "--"):  # the signature of a mailed patch ends it
            break
        else:
            raise reader.fail(f"{line[:60]!r} belongs to no hunk: its header counts fewer lines")
    if not changes:
        raise MalformedPatchError("there is no diff: no line `--- a/path` followed by `+++ b/path`")
    return changes


def at_header(reader: Reader) -> bool:
    """True at the first line of a file's changes."""
    line, following = reader.line or "", reader.lines[reader.at + 1 : reader.at + 2]
    if line.startswith("diff --git "):
        return True
    return line.startswith("--- ") and bool(following) and following[0].startswith("+++ ")


def read_name_pair(reader: Reader) -> tuple[str, str]:
    """Both names under the cursor, without git's prefixes."""
    old_text, new_text = reader.lines[reader.at][4:], reader.lines[reader.at + 1][4:]
    old, new = read_name(reader, old_text), read_name(reader, new_text)
    if strips(old, "a/") and strips(new, "b/"):
        old, new = old.removeprefix("a/"), new.removeprefix("b/")
    return old, new


def one_name(old: str, new: str) -> str:
    """The file that two different names mean: a backup's, or one in two folders; empty when none."""
    if old == f"{new}.orig":
        return new
    (old_top, _, old_rest), (new_top, _, new_rest) = old.partition("/"), new.partition("/")
    return old_rest if old_rest == new_rest and old_top and new_top else ""


def read_names(reader: Reader) -> FileChange:
    """The lines --- and +++ of a file that keeps its name, comes or goes."""
    old, new = read_name_pair(reader)
    if old == new == NOTHING:
        raise reader.fail("from nothing to nothing")
    if NOTHING not in (old, new) and old != new:
        if not (name := one_name(old, new)):
            raise reader.fail(f"--- names {old!r} but +++ names {new!r}: a rename needs git's rename lines")
        old = new = name
    reader.at += 2
    return FileChange(None if old == NOTHING else old, None if new == NOTHING else new)


def strips(name: str, prefix: str) -> bool:
    """True when a name has git's prefix or is nothing."""
    return name == NOTHING or name.startswith(prefix)


def read_name(reader: Reader, text: str) -> str:
    """A path as it stands in a header: quoted as in C, or up to a tab."""
    text = text.removesuffix("\r")
    if not text.startswith('"'):
        name, _, time = text.partition("\t")
        return NOTHING if time.startswith(EPOCH) else name
    found = re.match(r'"((?:[^"\\]|\\[abtnvfr"\\]|\\[0-7]{3})*)"', text)
    if found is None:
        raise reader.fail(f"a quoted path that does not end: {text[:60]!r}")
    data = re.sub(
        rb'\\(?:([0-7]{3})|([abtnvfr"\\]))',
        lambda part: bytes([int(part[1], 8) & 255 if part[1] else ESCAPES[part[2].decode()]]),
        found[1].encode("utf-8", "surrogatepass"),
    )
    return data.decode("utf-8", "replace")


def read_git_change(reader: Reader) -> FileChange:
    """A `diff --git` header, its extended lines, then names and hunks if there are any."""
    header_at, facts = reader.at, {}
    reader.at += 1
    while (line := reader.line) is not None:
        line = line.removesuffix("\r")
        if (mode := MODE.fullmatch(line)) is not None:
            check_mode(mode[2])
            facts[mode[1]] = mode[2]
        elif found := re.fullmatch(r"(rename|copy) (from|to) (.+)", line):
            facts[f"{found[1]} {found[2]}"] = read_name(reader, found[3])
        elif line.startswith(("GIT binary patch", "Binary files ")):
            raise ForbiddenPatchError(f"line {reader.at + 1}: binary changes are refused")
        elif (index := GIT_LINE.fullmatch(line)) is not None:
            if index["mode"]:
                check_mode(index["mode"])
        else:
            break
        reader.at += 1
    change = named_change(reader, header_at, facts)
    read_hunks(reader, change)
    return change


def check_mode(mode: str) -> None:
    """Links, submodules and strange modes are refused; the bit to execute says nothing here."""
    if mode not in PLAIN_MODES:
        what = {"120000": "a symbolic link", "160000": "a submodule"}.get(mode, f"a file of mode {mode}")
        raise ForbiddenPatchError(f"{what} is refused: plain files only")


def named_change(reader: Reader, header_at: int, facts: dict[str, str]) -> FileChange:
    """Put together what header, extended lines and names say; they must agree."""
    has_names = at_header(reader) and not at_git(reader)
    for word in ("rename", "copy"):
        if (old := facts.get(f"{word} from")) and (new := facts.get(f"{word} to")):
            if has_names and read_name_pair(reader) != (old, new):
                raise reader.fail(f"--- and +++ do not name what the {word} lines name")
            reader.at += 2 if has_names else 0
            return FileChange(old, new, is_copy=word == "copy")
    change = read_names(reader) if has_names else bare_change(reader, header_at, facts)
    says = ("new file mode" in facts, "deleted file mode" in facts)
    if says != (change.old is None, change.new is None):
        raise MalformedPatchError(
            f"line {header_at + 1}: the file's mode line and its /dev/null do not agree for {change.name!r}"
        )
    return change


def bare_change(reader: Reader, header_at: int, facts: dict[str, str]) -> FileChange:
    """An empty file that comes or goes: git writes no names then."""
    header = reader.lines[header_at].removesuffix("\r").removeprefix("diff --git ")
    half = len(header) // 2  # both names are as long
    old, new = read_name(reader, header[:half]), read_name(reader, header[half + 1 :])
    is_pair = header[half : half + 1] == " " and old.startswith("a/") and new == f"b/{old[2:]}"
    if not is_pair or not facts:
        raise MalformedPatchError(f"line {header_at + 1}: a git header with no change after it")
    new = new[2:]
    return FileChange(
        None if "new file mode" in facts else new, None if "deleted file mode" in facts else new
    )


def at_git(reader: Reader) -> bool:
    """True at the next file's header."""
    return (reader.line or "").startswith("diff --git ")


def read_hunks(reader: Reader, change: FileChange) -> None:
    """All hunks of a file; at least one unless the header alone says what happens."""
    while (line := reader.line) is not None and line.startswith("@@"):
        found = HUNK.fullmatch(line.removesuffix("\r"))
        if found is None:
            raise reader.fail(f"{line[:60]!r} is not `@@ -line,count +line,count @@`")
        hunk = Hunk(int(found[1]), f"hunk {len(change.hunks) + 1} of {change.name}")
        reader.at += 1
        read_body(reader, hunk, int(found[2] or 1), int(found[4] or 1))
        change.hunks.append(hunk)


def read_body(reader: Reader, hunk: Hunk, num_old: int, num_new: int) -> None:
    """As many lines as the header counts, then perhaps the mark of a missing newline."""
    has_changed = False
    while len(hunk.old) < num_old or len(hunk.new) < num_new:
        line = reader.line
        if line is None or line[:1] not in ("", " ", "+", "-"):
            raise reader.fail(
                f"{hunk.header} counts {num_old} old and {num_new} new lines, but has {len(hunk.old)} and "
                f"{len(hunk.new)}"
            )
        if "\0" in line:
            raise ForbiddenPatchError(f"line {reader.at + 1}: binary text is refused")
        kind, text = line[:1] or " ", line[1:] + "\n"
        reader.at += 1
        is_bare = (reader.line or "").startswith(NO_NEWLINE)
        text, reader.at = (text[:-1], reader.at + 1) if is_bare else (text, reader.at)
        if kind != "+":
            hunk.old.append(text)
        if kind != "-":
            hunk.new.append(text)
        has_changed = has_changed or kind != " "
        hunk.num_lead += kind == " " and not has_changed
        hunk.num_trail = hunk.num_trail + 1 if kind == " " else 0
    if len(hunk.old) != num_old or len(hunk.new) != num_new:
        raise reader.fail(f"{hunk.header} has more lines than its header counts")
    if not has_changed:
        raise reader.fail(f"{hunk.header} changes nothing")
