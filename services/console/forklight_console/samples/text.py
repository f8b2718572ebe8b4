"""Text by the run's own tokenizer.json, token by token. Without the package `tokenizers` (extra `text`), or
without the file, tokens are numbers and the page says why.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILE = "tokenizer.json"
PACKAGE = "tokenizers"
CONTEXT = 12
"""Tokens before a window: the first of it may be the rest of a character."""
MOST_WAITING = 8
"""Tokens that may make one character together; more of them are no text."""
BROKEN = "\ufffd"


class RunText:
    """Implements `TextSource`; the file is looked for until it is there."""

    def __init__(self, run_folder: Path, folder: Path | None = None) -> None:
        self._run_folder = run_folder
        self._folder = folder
        self._lock = threading.Lock()
        self._tokenizer: Tokenizer | None = None
        self._fault = ""

    @property
    def problem(self) -> str:
        return "" if self._open() is not None else self._fault

    def _open(self) -> Tokenizer | None:
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = self._load()
            return self._tokenizer

    def _load(self) -> Tokenizer | None:
        if importlib.util.find_spec(PACKAGE) is None:
            self._fault = f"tokens are numbers: {PACKAGE} is missing (pip install 'forklight-console[text]')"
            return None
        path = self._find()
        if path is None:
            self._fault = (
                f"tokens are numbers: there is no {FILE} in {self._folder or self._run_folder} "
                "(FORKLIGHT_TOKENIZER_FOLDER names another place)"
            )
            return None
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(path))

    def _find(self) -> Path | None:
        run = self._run_folder
        places = [*sorted(run.glob("weights/v*"), reverse=True), run / "sft", run / "final"]
        places += sorted(run.glob("checkpoints/step-*"), reverse=True)
        if self._folder is not None:
            places = [self._folder]
        return next((place / FILE for place in places if (place / FILE).is_file()), None)

    def pieces(self, ids: Sequence[int], start: int, stop: int) -> list[str]:
        tokenizer = self._open()
        if tokenizer is None:
            return [f"{each} " for each in ids[start:stop]]
        first = max(0, start - CONTEXT)
        return _pieces(tokenizer, [int(each) for each in ids[first:stop]])[start - first :]


def _pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text of those before it; a character is of its last token."""
    known = [max(0, each) for each in ids]
    names = [
        tokenizer.id_to_token(each) if each == number else None
        for each, number in zip(ids, known, strict=True)
    ]
    found, shown, read = list[str](), 0, 0
    for at, name in enumerate(names):
        if name is None:
            found.append(f"<{ids[at]}>")
            shown = read = at + 1
            continue
        before = tokenizer.decode(known[shown:read], skip_special_tokens=False)
        text = tokenizer.decode(known[shown : at + 1], skip_special_tokens=False)
        if text.endswith(BROKEN) and at - read < MOST_WAITING:
            found.append("")
            continue
        found.append(text[len(before) :])
        shown, read = read, at + 1
    return found
