"""Demonstrations: what a line may say, which tokens count, what is refused by name, and their order."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from forklight_core.errors import ConfigError, InvalidInputError
from forklight_core.runfile import load_run_file
from forklight_model.chat import ConversationError, Turn, TurnFormat, load_chat_format
from forklight_model.tokenizer import build_character_tokenizer, load_tokenizer
from forklight_trainer.sft.corpus import Corpus, open_corpus
from forklight_trainer.sft.examples import Example, ExampleReader, OnTooLong, explain, parse_line
from forklight_trainer.sft.order import Order, StepRules
from forklight_trainer.sft.packs import as_sample, token_shares
from forklight_trainer.sft.transcript import Counted, transcribe

TOKENIZER = build_character_tokenizer()
CHAT = TurnFormat(TOKENIZER)
ODD = "z <eos><user> \\boxed{"
TALK = [
    {"role": "system", "content": "s<eos>"},
    {"role": "user", "content": "q1<assistant>"},
    {"role": "assistant", "content": "<think>a</think>\\boxed{1}"},
    {"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "text", "text": "2"}]},
    {"role": "assistant", "content": ODD},
]


def reader(max_tokens: int = 1000, on_too_long: OnTooLong = "refuse") -> ExampleReader:
    return ExampleReader(TOKENIZER, CHAT, max_tokens=max_tokens, on_too_long=on_too_long)


def read(line: object) -> Example:
    return reader().read(json.dumps(line).encode())


def spelled(example: Example) -> str:
    """Every token as it is written, markup too; counted ones between bars."""
    names = {TOKENIZER.token_id(name): name for name in ("<user>", "<assistant>", "<eos>", "<pad>")}
    text, was_counted = "", False
    for token, counted in zip(example.ids_T.tolist(), example.counted_T.tolist(), strict=True):
        text += "|" if counted != was_counted else ""
        text += f"{{{names[token][1:-1]}}}" if token in names else TOKENIZER.decode([token])
        was_counted = counted
    return text + ("|" if was_counted else "")


def open_file(path: Path, *, reads: ExampleReader | None = None) -> Corpus:
    return open_corpus(path, reads or reader(), path.with_name("data"), lambda progress: None)


def write(path: Path, lines: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_mask_when_transcribed_covers_answers_and_their_ends_alone() -> None:
    pair = read({"prompt": "2+2<eos>", "response": "<think>4</think><eos>"})
    assert spelled(pair) == "{user}2+2<eos>{assistant}|<think>4</think><eos>{eos}|"
    answers = ("<think>a</think>\\boxed{1}{eos}", f"{ODD}{{eos}}")
    opening, between = "{user}s<eos>\n\nq1<assistant>{assistant}", "{user}q2{assistant}"
    assert spelled(read({"messages": TALK})) == f"{opening}|{answers[0]}|{between}|{answers[1]}|"
    last = read({"messages": TALK, "train": "last"})
    assert spelled(last) == f"{opening}{answers[0]}{between}|{answers[1]}|"
    assert last.ids_T.tolist() == read({"messages": TALK}).ids_T.tolist()


def test_markup_in_a_text_ends_no_turn() -> None:
    example = read({"messages": TALK})
    ends = [TOKENIZER.token_id(name) for name in ("<eos>", "<user>", "<assistant>")]
    counts = [int((example.ids_T == token).sum()) for token in ends]
    assert counts == [2, 2, 2]


def test_a_pair_and_its_messages_are_the_same_tokens() -> None:
    pair = read({"prompt": "a", "response": "b", "weight": 2})
    talk = read({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})
    assert pair.ids_T.tolist() == talk.ids_T.tolist()
    assert (pair.weight, talk.weight) == (2.0, 1.0)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "is not JSON"),
        ("[1]", "is a list, not a JSON object"),
        ("{}", "has the keys of nothing; give"),
        ('{"conversations": []}', "has the keys conversations; give"),
        ('{"prompt": "a"}', "has the keys prompt; give"),
        ('{"response": "a"}', "has the keys response; give"),
        ('{"messages": [], "response": "a"}', "has the keys messages, response; give"),
        ('{"prompt": 1, "response": "a"}', "prompt is no text"),
        ('{"prompt": "a", "response": "b", "wieght": 1}', "unknown key 'wieght'; did you mean 'weight'"),
        ('{"prompt": "a", "response": "b", "weight": 0}', "expected a number above 0"),
        ('{"prompt": "a", "response": "b", "weight": true}', "weight is True"),
        ('{"prompt": "a", "response": "b", "weight": NaN}', "weight is nan"),
        ('{"prompt": "a", "response": "b", "train": "first"}', 'expected "all" or "last"'),
        ('{"messages": {}}', "messages is a dict, expected a list"),
        ('{"messages": ["a"]}', r"messages\[0\] is not an object with role and content"),
        ('{"messages": [{"role": "user", "content": 3}]}', r"messages\[0\].content is no text"),
        ('{"messages": [{"role": 3, "content": "a"}]}', r"messages\[0\].role is no text"),
        (
            '{"messages": [{"role": "user", "content": "a", "reasoning": "b"}]}',
            r"messages\[0\] has 'reasoning', which would not be learned",
        ),
        ('{"messages": []}', "messages are none"),
        (
            '{"messages": [{"role": "user", "content": "a"}]}',
            r"messages\[0\].role is user; the last message is",
        ),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', "messages are none"),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]}',
            r"messages\[1\].role this tokenizer has no turn for tools",
        ),
        ('{"prompt": "a", "response": " "}', r"messages\[1\].content is empty; there is nothing to learn"),
        ('{"prompt": " ", "response": "b"}', r"messages\[0\].content is empty; there is nothing to answer"),
        ('{"prompt": "\\u20ac", "response": "b"}', r"messages\[0\].content cannot be encoded"),
    ],
)
def test_a_line_when_it_is_wrong_says_what(line: str, reason: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        reader().read(line.encode())
    assert re.search(reason, explain(caught.value)), explain(caught.value)


def test_keys_of_somebody_else_are_ignored_and_told(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "a", "name": "x"}, {"role": "assistant", "content": "b", "calls": []}]
    lines = [
        {"prompt_id": 1, "prompt": "a", "messages": talk},
        {"prompt": "a", "response": "b", "source": "s"},
    ]
    assert open_file(write(tmp_path / "d.jsonl", lines)).figures.ignored_keys == (
        "prompt",
        "prompt_id",
        "source",
    )
    assert parse_line(json.dumps(lines[0]).encode()).messages == (Turn("user", "a"), Turn("assistant", "b"))


def test_corpus_when_lines_are_wrong_names_them_all_up_to_ten(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"prompt": "a", "response": "b"}\n\n{\n{"prompt": "a"}\n')
    with pytest.raises(ConfigError) as caught:
        open_file(path)
    first, *problems = str(caught.value).splitlines()
    assert first == f"{path} cannot be learned from:"
    assert [problem.partition(" ")[0] for problem in problems] == [f"{path}:3", f"{path}:4"]
    path.write_text("{\n" * 50)
    with pytest.raises(ConfigError, match="the rest was not checked") as caught:
        open_file(path)
    assert len(str(caught.value).splitlines()) == 11
    assert not list((tmp_path / "data").glob("*"))


def test_corpus_when_there_is_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file.*give a file"):
        open_file(tmp_path / "no.jsonl")
    (tmp_path / "d.jsonl").write_text("\n \n")
    with pytest.raises(ConfigError, match="d.jsonl is empty: give"):
        open_file(tmp_path / "d.jsonl")


def test_too_long_examples_are_refused_dropped_or_cut_as_asked(tmp_path: Path) -> None:
    lines = [
        {"prompt": "a", "response": "b"},
        {"prompt": "a", "response": "b" * 20},
        {"prompt": "a" * 20, "response": "b"},
    ]
    path = write(tmp_path / "d.jsonl", lines)
    with pytest.raises(ConfigError, match=r"d.jsonl:2 has 24 tokens, 10 are allowed.*\n.*d.jsonl:3 has 24"):
        open_file(path, reads=reader(10))
    dropped = open_file(path, reads=reader(10, "drop"))
    assert (len(dropped), dropped.figures.num_dropped, dropped.figures.longest) == (1, 2, 24)
    cut = open_file(path, reads=reader(10, "cut"))
    assert (len(cut), cut.figures.num_cut, cut.figures.num_dropped) == (2, 1, 1)
    assert spelled(cut.read(1)) == "{user}a{assistant}|bbbbbbb|"
    with pytest.raises(ConfigError, match=r"is empty \(3 were dropped\)"):
        open_file(path, reads=reader(2, "drop"))


def test_corpus_when_read_by_number_skips_blank_lines_and_keeps_what_was_found(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('\n{"prompt":"a","response":"1"}\r\n\n   \n{"prompt":"b","response":"23"}')
    corpus = open_file(path)
    assert [spelled(corpus.read(number)) for number in range(len(corpus))] == [
        "{user}a{assistant}|1{eos}|",
        "{user}b{assistant}|23{eos}|",
    ]
    assert [corpus.name(number) for number in (0, 1)] == [f"{path}:2", f"{path}:5"]
    (found,) = (tmp_path / "data").iterdir()
    stamp = (found / "lines.bin").stat().st_mtime_ns
    assert open_file(path).key == corpus.key
    assert (found / "lines.bin").stat().st_mtime_ns == stamp
    assert open_file(path, reads=reader(500)).key != corpus.key
    path.write_text(path.read_text() + " ")
    assert open_file(path).key != corpus.key
    assert len(list((tmp_path / "data").iterdir())) == 3


STRINGS = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def foreign(folder: Path, template: str, *, chat: bool | None = None) -> ExampleReader:
    """The character tokenizer without this project's turns, and a chat template of its own."""
    build_character_tokenizer().save(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    for token, number in list(content["model"]["vocab"].items()):
        if token in ("<user>", "<assistant>"):
            del content["model"]["vocab"][token]
            content["model"]["vocab"][f"<{number}>"] = number
    content["added_tokens"] = [
        t for t in content["added_tokens"] if t["content"] not in ("<user>", "<assistant>")
    ]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    config = {"eos_token": "<eos>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(folder, chat=chat)
    form = load_chat_format(folder, tokenizer, chat=chat)
    return ExampleReader(tokenizer, form, max_tokens=1000, on_too_long="refuse")


def test_mask_of_a_template_leaves_out_what_it_writes_behind_an_answer(tmp_path: Path) -> None:
    turns = [{"role": role, "content": role[0]} for role in ("user", "assistant", "user", "assistant")]
    example = foreign(tmp_path, STRINGS).read(json.dumps({"messages": turns}).encode())
    assert spelled(example) == "[user]u{eos}\n[assistant]|a{eos}|\n[user]u{eos}\n[assistant]|a{eos}|"


def test_a_pair_is_rendered_as_the_prompts_of_its_run_are(tmp_path: Path) -> None:
    """By the template of a foreign tokenizer, or raw where the run says so."""
    pair = b'{"prompt": "Q:a\\nA:", "response": "b"}'
    assert spelled(foreign(tmp_path, STRINGS).read(pair)) == "[user]Q:a\nA:{eos}\n[assistant]|b{eos}|"
    raw = foreign(tmp_path, STRINGS, chat=False)
    assert spelled(raw.read(pair)) == "Q:a\nA:|b{eos}|"
    with pytest.raises(ConversationError, match="holds the token that ends an answer"):
        raw.read(b'{"prompt": "a", "response": "b<eos>c"}')
    with pytest.raises(ConversationError, match="no chat template"):
        raw.read(json.dumps({"messages": TALK}).encode())


def test_a_template_that_is_not_prefix_stable_is_refused_unless_only_the_last_answer_counts(
    tmp_path: Path,
) -> None:
    """Such as those that drop the thinking of earlier answers."""
    forgets = STRINGS.replace(
        "{{ m.content }}",
        "{{ m.content if loop.last or m.role == 'user' else m.content.split('</think>')[-1] }}",
    )
    reads = foreign(tmp_path, forgets)
    turns = [
        {"role": role, "content": "<think>x</think>y" if role == "assistant" else "q"}
        for role in ("user", "assistant", "user", "assistant")
    ]
    with pytest.raises(ConversationError, match="not prefix-stable") as caught:
        reads.read(json.dumps({"messages": turns}).encode())
    assert caught.value.place == "messages[1]"
    last = reads.read(json.dumps({"messages": turns, "train": "last"}).encode())
    assert spelled(last).count("<think>") == 1
    assert spelled(last).endswith("[assistant]|<think>x</think>y{eos}|")


def test_a_template_without_an_end_is_refused(tmp_path: Path) -> None:
    reads = foreign(tmp_path, STRINGS.replace("{{ eos_token }}", ""))
    with pytest.raises(ConfigError, match="would never stop"):
        reads.read(b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}')


def test_transcript_when_a_text_can_end_a_turn_is_refused() -> None:
    """A tokenizer that reads a stop id out of plain text: here, a line break."""
    turns = [Turn("user", "a"), Turn("assistant", "b\nc")]
    stop_ids = {*TOKENIZER.stop_ids, TOKENIZER.token_id("\n")}
    with pytest.raises(ConversationError, match="holds the token that ends an answer"):
        transcribe(CHAT, turns, stop_ids=stop_ids, counted=Counted.ALL)


def make_order(lengths: Sequence[int], *, epochs: float | None = None, **rules: int | None) -> Order:
    given = {"batch_size": 4, "tokens_per_step": None} | rules
    return Order(
        np.asarray(lengths, dtype=np.int32),
        StepRules(**given),  # type: ignore[arg-type]
        seed=7,
        shuffles=True,
        epochs=epochs,
    )


def taken(order: Order, num_steps: int) -> list[list[int]]:
    steps, place = [], 0
    for _ in range(num_steps):
        steps.append(order.take(place).tolist())
        place += len(steps[-1])
    return steps


def test_order_when_epochs_follow_each_other_takes_everything_once_an_epoch() -> None:
    order = make_order([1] * 10)
    numbers = [number for step in taken(order, 5) for number in step]
    assert len(numbers) == 20
    assert sorted(numbers[:10]) == sorted(numbers[10:]) == list(range(10))
    assert numbers[:10] != numbers[10:] != list(range(10))
    assert taken(make_order([1] * 10), 5) == taken(order, 5)
    assert [each.tolist() for each in (order.take(12), order.take(4))] == [numbers[12:16], numbers[4:8]]
    assert len(make_order([1, 1], batch_size=7).take(0)) == 7


def test_order_when_epochs_are_counted_ends_with_the_rest() -> None:
    order = make_order([1] * 10, epochs=2.5)
    assert order.count_steps() == 7
    assert [len(step) for step in taken(order, 8)] == [4, 4, 4, 4, 4, 4, 1, 0]


def test_order_when_tokens_are_counted_fills_steps_with_whole_examples() -> None:
    lengths = [*np.random.default_rng(0).integers(1, 30, size=50).tolist(), 400]
    order = make_order(lengths, tokens_per_step=100, epochs=3)
    steps = taken(order, order.count_steps())
    assert sorted(number for step in steps for number in step) == sorted(list(range(51)) * 3)
    sizes = [sum(lengths[number] for number in step) for step in steps]
    assert [step for step, size in zip(steps, sizes, strict=True) if size > 100] == [[50]] * 3
    for size, following in zip(sizes[:-1], steps[1:], strict=True):
        assert size + lengths[following[0]] > 100


def test_order_of_a_seed_is_fixed_for_ever() -> None:
    """A stage that is resumed under another numpy goes through the data in the same order."""
    assert make_order([1] * 8, batch_size=8).take(0).tolist() == [6, 3, 4, 0, 2, 7, 5, 1]


def test_shares_when_weighted_sum_to_one_over_counted_tokens() -> None:
    examples = [
        read({"prompt": "a", "response": "bcd"}),
        read({"prompt": "a", "response": "b", "weight": 3}),
        read({"messages": TALK, "weight": 0.5}),
    ]
    shares = token_shares(examples)
    counted = [int(example.counted_T.sum()) for example in examples]
    assert sum(share * number for share, number in zip(shares, counted, strict=True)) == pytest.approx(1)
    assert shares[1] / shares[0] == pytest.approx(3)
    sample = as_sample(examples[2], "d:1")
    assert sample.num_drawn == counted[2]
    assert [*sample.prompt_ids, *sample.response_ids] == examples[2].ids_T.tolist()


def test_settings_that_contradict_each_other_are_refused_when_read(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('[sft]\nmax_tokens = "2k"\npack_tokens = "1k"\nstop_after_rounds = 2\n')
    with pytest.raises(ConfigError, match="(?s)must not exceed sft.pack_tokens.*needs sft.holdout"):
        load_run_file(path)
