"""Reads what a policy wrote: strict, by hand, in time linear in the text. None: it is not an answer.

Every reader refuses text longer than an answer may be and everything that is not ASCII.
"""

from __future__ import annotations

import re

from forklight_reward.logic.task import MOST_ANSWER_CHARACTERS

INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
NATURAL = re.compile(r"[0-9]{1,20}")
ROW_ENDS = re.compile(r"[;\n]")
GAPS = re.compile(r"[ \t,]+")


def plain(text: str) -> str | None:
    """The text without white space around it; None when it is too long, empty or not ASCII."""
    if len(text) > MOST_ANSWER_CHARACTERS or not text.isascii():
        return None
    return text.strip(" \t\r\n") or None


def read_integer(text: str) -> int | None:
    """One integer of at most 20 digits."""
    written = plain(text)
    if written is None or INTEGER.fullmatch(written) is None:
        return None
    return int(written)


def read_integers(text: str, count: int | None = None) -> list[int] | None:
    """Integers with commas or white space between them; all of `count` when it is given."""
    words = read_words(text)
    if words is None or (count is not None and len(words) != count):
        return None
    if any(INTEGER.fullmatch(word) is None for word in words):
        return None
    return [int(word) for word in words]


def read_words(text: str) -> list[str] | None:
    """Words with one comma, or only white space, between them."""
    written = plain(text)
    if written is None:
        return None
    if "," in written:
        words = [word.strip() for word in written.split(",")]
        return None if any(not word or len(word.split()) != 1 for word in words) else words
    return written.split()


def read_rows(text: str, num_rows: int) -> list[str] | None:
    """Rows that end in ';' or a new line (or both)."""
    written = plain(text)
    if written is None:
        return None
    rows = [row.strip() for row in ROW_ENDS.split(written.replace("\r\n", "\n"))]
    rows = [row for row in rows if row]
    return rows if len(rows) == num_rows else None


def read_integer_rows(text: str, num_rows: int, num_columns: int) -> list[list[int]] | None:
    """A board of natural numbers, with spaces or commas between the numbers of a row."""
    rows = read_rows(text, num_rows)
    if rows is None:
        return None
    board = []
    for row in rows:
        words = GAPS.split(row.strip(","))
        if len(words) != num_columns or any(NATURAL.fullmatch(word) is None for word in words):
            return None
        board.append([int(word) for word in words])
    return board


def read_symbol_rows(text: str, num_rows: int, num_columns: int, alphabet: str) -> list[str] | None:
    """A board of single symbols; spaces and commas between them are harmless."""
    rows = read_rows(text, num_rows)
    if rows is None:
        return None
    board = [GAPS.sub("", row) for row in rows]
    if any(len(row) != num_columns or not set(row) <= set(alphabet) for row in board):
        return None
    return board


def read_path(text: str) -> list[str] | None:
    """Places joined by '->': `a1->b3->c5`."""
    written = plain(text)
    if written is None:
        return None
    places = [place.strip() for place in written.split("->")]
    return None if any(not place or len(place.split()) != 1 for place in places) else places


def read_moves(text: str) -> list[tuple[str, str]] | None:
    """Moves `from->to` with commas, semicolons or new lines between them."""
    written = plain(text)
    if written is None:
        return None
    moves = []
    for part in re.split(r"[,;\n]", written):
        path = read_path(part)
        if path is None or len(path) != 2:
            return None
        moves.append((path[0], path[1]))
    return moves
