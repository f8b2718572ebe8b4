"""What the data path asks of others: rules that judge answers, a model that embeds, who watches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from forklight_data.record import Record


class AnswerRules(Protocol):
    """The rules that will judge responses."""

    @property
    def fingerprint(self) -> str:
        """Changes when any of the rules does."""
        ...

    def version(self, kind: str) -> str:
        """Name and version of the rules of a kind; NotFoundError when no rules know the kind."""
        ...

    def find_problem(self, record: Record) -> str:
        """Why no right answer could ever be judged right; empty when one could.

        UnavailableError or BusyError when the rules cannot be asked: that is no fault of the record.
        """
        ...

    def agree(self, kind: str, answer: str, other: str) -> bool:
        """Whether two reference answers are the same answer."""
        ...


class Embedder(Protocol):
    """Texts as unit vectors."""

    @property
    def name(self) -> str:
        """Which model, for the manifest."""
        ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row a text, each of length 1."""
        ...


class Watcher(Protocol):
    """Somebody who looks on."""

    def begin(self, name: str, total: int | None) -> None:
        """Something starts; `total` rows or bytes when it is known how many."""
        ...

    def advance(self, number: int) -> None:
        """So many more are done."""
        ...

    def say(self, text: str) -> None:
        """Something a person should know."""
        ...


class NobodyWatches:
    """No progress, no words."""

    def begin(self, name: str, total: int | None) -> None:
        pass

    def advance(self, number: int) -> None:
        pass

    def say(self, text: str) -> None:
        pass
