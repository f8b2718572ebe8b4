"""What of a text is compared: its words, its numbers and operators, and hashes of runs of words."""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

EAST_ASIAN = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
"""Letters that are written without spaces: each counts as a word."""
WORD = re.compile(rf"[{EAST_ASIAN}]|\d+(?:[.,]\d+)*|[^\W\d_{EAST_ASIAN}]+|[+\-*/^=<>%!|\\_()\[\]]")
DELIMITERS = re.compile(r"\\[\[\]()]|\\left|\\right|\\[,;!: ]|[${}]")
MATH_WORDS = re.compile(r"\\d?t?frac|\\text|\\mathrm|\\displaystyle")
SIGN = re.compile(r"[\d+\-*/^=<>%!|]")
_NUMBERS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand
million half third quarter twice double triple dozen
"""
_MEANINGS = """
odd even prime composite positive negative not no without except more less most least fewer greater
smaller larger largest smallest maximum minimum max min first last sum product difference quotient plus
minus times divided square cube increase decrease increasing decreasing before after up down left right
north south east west inside outside above below sin cos tan sec csc cot log ln sqrt perimeter area
volume radius diameter mean median mode permutation permutations combination combinations inclusive
exclusive with
"""
NUMBER_WORDS = frozenset(_NUMBERS.split())
MEANING_WORDS = frozenset(_MEANINGS.split())
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def words_of(text: str) -> list[str]:
    """Words, numbers and operators, in one spelling; marks of LaTeX and punctuation are left out."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = MATH_WORDS.sub(_plain_command, DELIMITERS.sub(" ", text))
    found = [word for word in WORD.findall(text) if word != "\\"]
    return [word.replace(",", "") if word[0].isdigit() else word for word in found] or text.split()


def signature_of(words: Sequence[str]) -> str:
    """Numbers, operators and the words that turn a problem into another, in their order.

    Two texts with different signatures are different problems, however alike they sound.
    """
    return " ".join(
        word for word in words if SIGN.match(word) or word in NUMBER_WORDS or word in MEANING_WORDS
    )


def word_hashes(words: Sequence[str]) -> NDArray[np.uint64]:
    """One well mixed number a word, the same on every machine."""
    crc = zlib.crc32
    codes = np.fromiter((crc(word.encode("utf-8", "surrogatepass")) for word in words), np.uint64, len(words))
    return _mix(codes + MULTIPLIER)


def run_hashes(hashes: NDArray[np.uint64], length: int) -> NDArray[np.uint64]:
    """One number for every run of `length` words, in order; none when there are fewer words."""
    num_runs = len(hashes) - length + 1
    if num_runs <= 0:
        return hashes[:0]
    found = np.full(num_runs, np.uint64(length), dtype=np.uint64)
    for offset in range(length):
        found = found * MULTIPLIER + hashes[offset : offset + num_runs]
    return _mix(found)


def _mix(codes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Every bit of the input moves half of the output's."""
    codes = (codes ^ (codes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    codes = (codes ^ (codes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return codes ^ (codes >> np.uint64(31))


def _plain_command(found: re.Match[str]) -> str:
    return "\\frac" if "frac" in found[0] else " "
