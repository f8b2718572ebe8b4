"""Who says which prompt is next: the order of the file, or a curriculum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from forklight_buffer.live import Standing
from forklight_buffer.prompts import Prompt, PromptBook
from forklight_buffer.records import GroupRow


class PromptOrder(Protocol):
    """Of training groups. Callers hold the context's turn."""

    async def pick(self, positions: range, standing: Standing) -> list[Prompt]:
        """The prompts of these positions."""
        ...

    def note_redriven(self, rows: Sequence[GroupRow]) -> None:
        """Groups are opened for prompts that nobody picked."""
        ...

    def look_again(self) -> None:
        """What was picked may not have been opened, or Redis was reconciled."""
        ...


class FileOrder:
    """Every prompt once an epoch."""

    def __init__(self, book: PromptBook) -> None:
        self._book = book

    async def pick(self, positions: range, standing: Standing) -> list[Prompt]:
        return [self._book.at(position) for position in positions]

    def note_redriven(self, rows: Sequence[GroupRow]) -> None:
        """Epochs do not mind."""

    def look_again(self) -> None:
        """There is nothing it could have missed."""
