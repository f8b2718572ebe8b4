"""Additions of words: the search for digits behind letters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def value_of(word: str, digits: dict[str, int]) -> int:
    """The number that a word stands for."""
    total = 0
    for letter in word:
        total = total * 10 + digits[letter]
    return total


class Columns:
    """Digits for letters, column by column from the right, by depth-first search."""

    def __init__(self, words: Sequence[str], fixed: dict[str, int]) -> None:
        self.words = words
        self.leading = {word[0] for word in words if len(word) > 1}
        self.digits = dict(fixed)
        self.used = set(fixed.values())
        self.width = max(map(len, words))

    def letter(self, row: int, column: int) -> str | None:
        """The letter of a row, counted from the right."""
        word = self.words[row]
        return word[-1 - column] if column < len(word) else None

    def search(self, place: int = 0, carry: int = 0) -> Iterator[dict[str, int]]:
        """All solutions; a place is a letter of an addend or of the sum."""
        column, row = divmod(place, len(self.words))
        if column == self.width:
            if carry == 0:
                yield dict(self.digits)
            return
        letter = self.letter(row, column)
        if row < len(self.words) - 1:
            if letter is None or letter in self.digits:
                yield from self.search(place + 1, carry + (self.digits[letter] if letter else 0))
                return
            for digit in range(10):
                yield from self.with_digit(letter, digit, place + 1, carry + digit)
            return
        upper, last = divmod(carry, 10)
        if letter is None or letter in self.digits:
            if (self.digits[letter] if letter else 0) == last:
                yield from self.search(place + 1, upper)
            return
        yield from self.with_digit(letter, last, place + 1, upper)

    def with_digit(self, letter: str, digit: int, place: int, carry: int) -> Iterator[dict[str, int]]:
        """Go on with one more letter known."""
        if digit in self.used or (digit == 0 and letter in self.leading):
            return
        self.digits[letter] = digit
        self.used.add(digit)
        yield from self.search(place, carry)
        self.used.discard(digit)
        del self.digits[letter]
