"""How questions are put to a model of transformers: its chat template, its first token, its several ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forklight_core.errors import ConfigError, InvalidInputError
from forklight_model.chat import PlainFormat, Turn, load_chat_format
from forklight_model.tokenizer import load_tokenizer
from libs.model.tests.hf.tiny import edit_json, write_tokenizer

QUESTION = "1+1?"
ASKED = "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"


def test_a_question_goes_through_the_template_where_there_is_one(tmp_path: Path) -> None:
    fast = write_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode_prompt(QUESTION) == fast.encode(ASKED, add_special_tokens=False).ids
    assert tokenizer.encode(QUESTION) == fast.encode(QUESTION, add_special_tokens=False).ids
    with pytest.raises(InvalidInputError, match="markup"):
        tokenizer.encode_prompt("<|im_end|>")


@pytest.mark.parametrize(("template", "chat"), [(None, None), ("as it is", False)])
def test_without_a_template_a_question_begins_as_a_text_does(
    tmp_path: Path, template: str | None, chat: bool | None
) -> None:
    fast = write_tokenizer(tmp_path, template=template)
    tokenizer = load_tokenizer(tmp_path, chat=chat)
    expected = [fast.token_to_id("<|begin|>"), *fast.encode(QUESTION, add_special_tokens=False).ids]
    assert tokenizer.encode_prompt(QUESTION) == expected
    chat_format = load_chat_format(tmp_path, tokenizer, chat=chat)
    assert isinstance(chat_format, PlainFormat)
    assert chat_format.encode([Turn("user", QUESTION)]) == expected


def test_what_a_run_says_of_the_template_travels_with_the_tokenizer(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "start")
    plain = load_tokenizer(tmp_path / "start", chat=False)
    plain.save(tmp_path / "published")
    again = load_tokenizer(tmp_path / "published")
    assert again.encode_prompt(QUESTION) == plain.encode_prompt(QUESTION)
    assert isinstance(load_chat_format(tmp_path / "published", again), PlainFormat)
    asked = load_tokenizer(tmp_path / "published", chat=True).encode_prompt(QUESTION)
    assert asked == load_tokenizer(tmp_path / "start").encode_prompt(QUESTION)
    for name in ("generation_config.json", "tokenizer.json"):
        one, other = ((tmp_path / folder / name).read_text() for folder in ("start", "published"))
        assert json.loads(one) == json.loads(other)


def test_a_template_that_is_wanted_and_not_there_is_an_error(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, template=None)
    with pytest.raises(ConfigError, match="model.chat = true"):
        load_tokenizer(tmp_path, chat=True)


def test_every_end_of_the_generation_config_stops_and_the_tokenizers_own_is_taught(tmp_path: Path) -> None:
    fast = write_tokenizer(tmp_path)
    end, other = (fast.token_to_id(token) for token in ("<|im_end|>", "<|endoftext|>"))
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.stop_ids, tokenizer.end_id) == ({end, other}, end)
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": other}))
    assert load_tokenizer(tmp_path).stop_ids == {end, other}
    edit_json(tmp_path / "tokenizer_config.json", lambda content: content.pop("eos_token"))
    assert (load_tokenizer(tmp_path).stop_ids, load_tokenizer(tmp_path).end_id) == ({other}, other)


def test_a_missing_tokenizer_json_says_how_transformers_writes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="AutoTokenizer"):
        load_tokenizer(tmp_path)
