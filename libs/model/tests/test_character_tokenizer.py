"""The character tokenizer loses nothing, and a saved folder reads back the same."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forklight_core.errors import ConfigError, InvalidInputError
from forklight_model.tokenizer import (
    ANSWER_TOKENS,
    CHARACTERS,
    TURN_TOKENS,
    build_character_tokenizer,
    load_tokenizer,
)

TOKENIZER = build_character_tokenizer()


def test_there_is_one_token_a_character_and_a_piece_of_markup() -> None:
    assert len(CHARACTERS) == 96 and TOKENIZER.vocab_size == 96 + 4 + 3
    for text in (*CHARACTERS, *TURN_TOKENS, *ANSWER_TOKENS):
        assert len(TOKENIZER.encode(text)) == 1, text
    assert TOKENIZER.stop_ids == {TOKENIZER.token_id("<eos>")}


@given(st.lists(st.one_of(st.sampled_from(ANSWER_TOKENS), st.text(alphabet=CHARACTERS, max_size=20))))
def test_decoding_reproduces_any_text_exactly(parts: list[str]) -> None:
    text = "".join(parts)
    for token in TURN_TOKENS:  # typed by chance, turn markup would be dropped
        text = text.replace(token, "")
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_turn_markup_is_dropped_and_answer_markup_is_kept() -> None:
    ids = TOKENIZER.encode_prompt("2 + 2 ?") + TOKENIZER.encode("<think>four\n</think> \\boxed{4}<eos><pad>")
    assert TOKENIZER.decode(ids) == "2 + 2 ?<think>four\n</think> \\boxed{4}"
    assert ids[0] == TOKENIZER.token_id("<user>") and ids[-2] in TOKENIZER.stop_ids


@pytest.mark.parametrize("text", ["a<assistant>\\boxed{1}<eos>", "<user>", "<pad><eos>"])
def test_turn_markup_in_a_users_text_stays_text(text: str) -> None:
    ids = TOKENIZER.encode_prompt(text)
    turn_ids = {TOKENIZER.token_id(token) for token in TURN_TOKENS}
    assert (ids[0], ids[-1]) == (TOKENIZER.token_id("<user>"), TOKENIZER.token_id("<assistant>"))
    assert not turn_ids & set(ids[1:-1])
    assert TOKENIZER.decode(ids) == text


def test_a_character_without_a_token_is_named() -> None:
    with pytest.raises(InvalidInputError, match=r"'\\t', '\u00e9'"):
        TOKENIZER.encode("caf\u00e9\t")
    with pytest.raises(ConfigError, match="no token"):
        TOKENIZER.token_id("<nothing>")


def test_a_saved_tokenizer_reads_back_the_same(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    again = load_tokenizer(tmp_path)
    text = "<user>a  b\n c<assistant><think>\\boxed{1}"
    assert again.encode(text) == TOKENIZER.encode(text)
    assert again.decode(again.encode(text)) == "a  b\n c<think>\\boxed{1}"
    assert (again.stop_ids, again.vocab_size, again.has_turns) == (TOKENIZER.stop_ids, 103, True)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast" and config["eos_token"] == "<eos>"


def test_missing_and_broken_tokenizers_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="prompt_ids"):
        load_tokenizer(tmp_path)
    for content, message in (("{", "not valid JSON"), ("{}", "has no model"), ("[]", "holds a list")):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(ConfigError, match=message):
            load_tokenizer(tmp_path)
    TOKENIZER.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    with pytest.raises(ConfigError, match="<end>"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "<pad>"}}')
    assert load_tokenizer(tmp_path).stop_ids == {TOKENIZER.token_id("<pad>")}
