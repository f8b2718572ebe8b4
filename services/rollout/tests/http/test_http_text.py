"""Text as tokens come: with the byte-level tokenizers of real models a token may be a part of a character."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers

from forklight_rollout.http.text_stream import MOST_PENDING, REPLACEMENT, StopCut, TokenTexts

EURO, GRINNING = "\u20ac", "\U0001f600"
TEXTS = st.text(alphabet=f"ab {EURO}{GRINNING}\u00e9\u4e2d", max_size=80)


def byte_level() -> FastTokenizer:
    """A token a byte, and two merges: a whole character, and the end of one with the beginning of another."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    first, second, third = (encode_byte(byte) for byte in EURO.encode())
    joined = {first + second: len(letters), first + second + third: len(letters) + 1}
    vocabulary = {letter: number for number, letter in enumerate(letters)} | joined
    merges = [(first, second), (first + second, third)]
    fast = FastTokenizer(models.BPE(vocab=vocabulary, merges=merges))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.decoder = decoders.ByteLevel()
    return fast


def encode_byte(byte: int) -> str:
    """How byte-level vocabularies write a byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [each for each in range(256) if each not in printable]
    return chr(byte) if byte in printable else chr(256 + others.index(byte))


FAST = byte_level()
DECODE: Callable[[list[int]], str] = FAST.decode


def ids_of(data: bytes) -> list[int]:
    """A token a byte."""
    found = [FAST.token_to_id(encode_byte(byte)) for byte in data]
    assert None not in found
    return [each for each in found if each is not None]


@settings(max_examples=60, deadline=None)
@given(text=TEXTS, by_byte=st.booleans())
def test_pieces_make_the_text_and_none_is_half_a_character(text: str, by_byte: bool) -> None:
    ids = ids_of(text.encode()) if by_byte else FAST.encode(text).ids
    stream = TokenTexts(DECODE)
    pieces = [stream.add(token) for token in ids]
    assert REPLACEMENT not in "".join(pieces)
    assert stream.close() == ""
    assert "".join(pieces) == text


@settings(max_examples=60, deadline=None)
@given(data=st.lists(st.sampled_from([0x41, 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x98, 0xFF, 0x20]), max_size=120))
def test_bytes_that_are_no_text_come_as_the_tokenizer_writes_them(data: list[int]) -> None:
    ids = ids_of(bytes(data))
    stream = TokenTexts(DECODE)
    pieces = [stream.add(token) for token in ids]
    told = "".join([*pieces, stream.close()])
    assert told == DECODE(ids)
    pending = len(told) - len("".join(pieces))
    assert 0 <= pending <= MOST_PENDING


def test_a_character_comes_with_the_token_that_completes_it() -> None:
    stream = TokenTexts(DECODE)
    assert [stream.add(token) for token in ids_of(f"a{GRINNING}b".encode())] == [
        "a", "", "", "", GRINNING, "b"
    ]  # fmt: skip
    stream = TokenTexts(DECODE)
    assert [stream.add(token) for token in ids_of(EURO.encode()[:2])] == ["", ""]
    assert stream.close() == REPLACEMENT


@pytest.mark.parametrize(
    ("stops", "pieces", "told", "end"),
    [
        (["stop"], ["a s", "t", "o", "p b"], ["a ", "", "", ""], None),
        (["stop"], ["a s", "t", "op"], ["a ", "", ""], None),
        (["stop"], ["a sto", "re"], ["a ", "store"], ""),
        (["stop"], ["a st"], ["a "], "st"),
        (["aab"], ["aa", "ab"], ["", "a"], None),
        (["abcd", "bc"], ["ab", "c"], ["", "a"], None),
        (["x", "yz"], ["ayzx"], ["a"], None),
        ([], ["a", "b"], ["a", "b"], ""),
    ],
)
def test_the_beginning_of_a_stop_string_is_held_back(
    stops: list[str], pieces: list[str], told: list[str], end: str | None
) -> None:
    cut = StopCut(stops)
    assert [cut.add(piece) for piece in pieces] == told
    assert cut.is_cut == (end is None)
    if end is not None:
        assert cut.close() == end


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(st.text(alphabet="ab", max_size=3), max_size=20),
    stops=st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3),
)
def test_what_is_told_never_holds_a_stop_string_and_lacks_nothing_else(
    pieces: list[str], stops: list[str]
) -> None:
    cut, told, given_text = StopCut(stops), "", ""
    for piece in pieces:
        if cut.is_cut:
            break
        given_text += piece
        told += cut.add(piece)
        assert given_text.startswith(told)
        assert not any(stop in told for stop in stops)
    if cut.is_cut:
        assert any(given_text[len(told) :].startswith(stop) for stop in stops)
    else:
        assert told + cut.close() == given_text
        assert not any(stop in given_text for stop in stops)
