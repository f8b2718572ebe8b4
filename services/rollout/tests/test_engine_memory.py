"""The native engine's memory: pages run out, sequences leave and come back, turns are remembered."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import replace

import pytest

from forklight_rollout.adapters.native import NativeEngine, feeds
from forklight_rollout.adapters.native.pages import PagePool
from forklight_rollout.adapters.native.sequences import Feed, find_longest
from forklight_rollout.generation.draft import Draft
from forklight_rollout.generation.generator import Generator
from forklight_rollout.generation.groups import FinishedSample, GroupWork
from forklight_rollout.ports import DrawRules, EndRules, FinishReason, PromptStart, SequenceStart, StepTokens

MakeEngine = Callable[..., NativeEngine]
MakeWork = Callable[..., GroupWork]
Finish = Callable[[Generator], dict[str, FinishedSample]]
PROMPT = tuple(7 + index * 13 % 90 for index in range(50))
LONG_PROMPT = tuple(7 + index * 13 % 90 for index in range(500))
TIGHT = 1_880_000
"""Bytes in which four sequences have slots, but not all of their pages once they are past 512 tokens."""


def generate(engine: NativeEngine, finish: Finish, *works: GroupWork) -> dict[str, FinishedSample]:
    generator = Generator(engine)
    for work in works:
        generator.add(work)
    return finish(generator)


def tokens_of(samples: dict[str, FinishedSample]) -> dict[str, list[int]]:
    return {sample_id: sample.response.ids.tolist() for sample_id, sample in samples.items()}


def start(
    *sequences: SequenceStart, prompt_ids: tuple[int, ...] = PROMPT, group: int = 1, max_new_tokens: int = 8
) -> PromptStart:
    return PromptStart(
        group=group,
        prompt_ids=prompt_ids,
        draw=DrawRules(temperature=1.0),
        end=EndRules(max_new_tokens=max_new_tokens),
        sequences=sequences,
    )


def run(engine: NativeEngine, *, steps: int = 100) -> dict[int, list[int]]:
    """Step until every sequence seen has ended; the tokens of each."""
    found: dict[int, list[int]] = {}
    ended: set[int] = set()
    for _ in range(steps):
        tokens: StepTokens = engine.step()
        for key, token, reason in zip(tokens.keys, tokens.ids, tokens.reasons, strict=True):
            assert key not in ended
            found.setdefault(key, []).append(token)
            ended |= {key} if reason is not None else set()
        if found and ended == found.keys():
            return found
    raise AssertionError("the engine did not come to an end")


def test_a_page_is_free_when_its_last_owner_gives_it_back() -> None:
    pool = PagePool(num_pages=4, page_tokens=256)
    first, second = pool.take(2)
    assert 0 not in (first, second) and pool.num_free == 1
    assert pool.share([first]) == [first]
    pool.give_back([first, second])
    assert pool.num_free == 2
    pool.give_back([first])
    assert pool.num_free == 3
    with pytest.raises(AssertionError, match="more often"):
        pool.give_back([first])
    with pytest.raises(AssertionError, match="4 pages"):
        pool.take(4)
    assert [pool.count_for(number) for number in (0, 1, 256, 257)] == [0, 1, 1, 2]


def test_the_longest_beginning_is_found() -> None:
    def spare(ids: str, *, has_logits: bool) -> Feed:
        return Feed(ids=array("i", map(ord, ids)), has_logits=has_logits)

    spares = [
        spare(ids, has_logits=end) for ids, end in (("ab", True), ("abc", False), ("abx", True), ("", True))
    ]
    assert find_longest(array("i", map(ord, "abcd")), spares) is spares[1]
    assert (
        find_longest(array("i", map(ord, "abc")), spares) is spares[0]
    )  # nothing to start from in the other
    assert find_longest(array("i", map(ord, "abx")), spares) is spares[2]
    assert find_longest(array("i", map(ord, "b")), spares[:3]) is None


def test_running_ahead_gives_the_same_tokens_and_ends(
    make_engine: MakeEngine, make_work: MakeWork, finish: Finish
) -> None:
    works = [
        make_work(
            index,
            prompt_ids=PROMPT[: 5 + 9 * index],
            num_samples=3,
            seed=40 * index,
            max_new_tokens=1 + 7 * index,
            stop_ids=frozenset({11, 12, 13, 14, 15}),
        )
        for index in range(4)
    ]
    plain = generate(make_engine(max_batch=5, runs_ahead=False), finish, *works)
    ahead = generate(make_engine(max_batch=5, runs_ahead=True), finish, *works)
    assert tokens_of(ahead) == tokens_of(plain)
    assert {key: each.reason for key, each in ahead.items()} == {
        key: each.reason for key, each in plain.items()
    }
    assert {each.reason for each in plain.values()} == {FinishReason.STOP, FinishReason.LENGTH}


@pytest.mark.parametrize("runs_ahead", [False, True])
def test_sequences_that_have_to_leave_come_back_and_lose_nothing(
    make_engine: MakeEngine, make_work: MakeWork, finish: Finish, runs_ahead: bool
) -> None:
    work = make_work(num_samples=4, max_new_tokens=30, prompt_ids=LONG_PROMPT)
    roomy = make_engine(max_batch=4, max_prompt_tokens=500)
    expected = generate(roomy, finish, work)
    assert roomy.num_preempted == 0
    tight = make_engine(max_batch=4, max_prompt_tokens=500, budget_bytes=TIGHT, runs_ahead=runs_ahead)
    assert tight.limits.num_sequences == 4
    found = generate(tight, finish, work)
    assert tight.num_preempted > 0
    assert tokens_of(found) == tokens_of(expected)
    for sample_id, sample in found.items():
        assert list(sample.response.raw_logprobs) == pytest.approx(
            list(expected[sample_id].response.raw_logprobs), abs=1e-4
        )


def test_a_row_of_certain_tokens_is_counted_through_a_leave(
    make_engine: MakeEngine, make_work: MakeWork, finish: Finish
) -> None:
    # Every token is more probable than e**-60: the row ends at exactly this length, wherever it was cut.
    rules = {"max_new_tokens": 40, "repetition_tokens": 25, "repetition_probability": 1e-26}
    work = make_work(num_samples=4, prompt_ids=LONG_PROMPT, **rules)
    engine = make_engine(max_batch=4, max_prompt_tokens=500, budget_bytes=TIGHT)
    found = generate(engine, finish, work)
    assert engine.num_preempted > 0
    assert {(len(each.response.ids), each.reason) for each in found.values()} == {
        (25, FinishReason.REPETITION)
    }


def test_a_prefix_goes_on_with_the_draws_that_would_have_followed(
    make_engine: MakeEngine, make_work: MakeWork, finish: Finish
) -> None:
    work = make_work(num_samples=3, prompt_ids=PROMPT, max_new_tokens=30)
    whole = generate(make_engine(), finish, work)

    def draft_of(sample_id: str, num_tokens: int) -> Draft:
        draft, response = Draft(), whole[sample_id].response
        for token, logprob in zip(response.ids[:num_tokens], response.logprobs, strict=False):
            draft.add(token, logprob, logprob, 0)
        return draft

    for num_tokens in (1, 17, 29):
        samples = tuple(replace(each, draft=draft_of(each.sample_id, num_tokens)) for each in work.samples)
        assert tokens_of(generate(make_engine(), finish, replace(work, samples=samples))) == tokens_of(whole)


@pytest.mark.parametrize("runs_ahead", [False, True])
def test_a_turn_that_goes_on_is_not_prefilled_again(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, runs_ahead: bool
) -> None:
    engine, fresh = (make_engine(max_batch=2, runs_ahead=runs_ahead) for _ in range(2))
    engine.admit(start(SequenceStart(key=1, seed=5, is_turn=True)))
    first = run(engine)[1]
    prefix = (*first, 3, 4, 5)
    fed: list[int] = []
    feed = engine._runner.feed

    def count(slots: list[int], pieces: list[array[int]], seen: list[int]) -> object:
        fed.extend(len(piece) for piece in pieces)
        return feed(slots, pieces, seen)

    monkeypatch.setattr(engine._runner, "feed", count)
    second = start(SequenceStart(key=2, seed=5, prefix_ids=prefix), max_new_tokens=24)
    engine.admit(second)
    fresh.admit(second)
    assert run(engine) == run(fresh)
    assert fed == [4]  # the first turn's last token was never fed


def test_a_turn_taken_out_in_the_middle_is_remembered_as_well(make_engine: MakeEngine) -> None:
    engine, fresh = (make_engine(max_batch=2, runs_ahead=True) for _ in range(2))
    engine.admit(start(SequenceStart(key=1, seed=5, is_turn=True), max_new_tokens=40))
    drawn = [token for _ in range(9) for token in engine.step().ids]
    engine.retire([1])
    second = start(SequenceStart(key=2, seed=5, prefix_ids=(*drawn, 3, 4)), max_new_tokens=40)
    engine.admit(second)
    fresh.admit(second)
    assert run(engine) == run(fresh)


def test_the_same_prompt_again_is_not_prefilled_until_the_weights_change(
    make_engine: MakeEngine, published: dict[int, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(max_batch=32)
    rounds: list[int] = []
    feed = engine._runner.feed
    monkeypatch.setattr(engine._runner, "feed", lambda *given: rounds.append(len(given[1])) or feed(*given))
    for group in (1, 2):
        engine.admit(start(SequenceStart(key=group, seed=5), group=group))
        run(engine)
    assert rounds == [1]
    engine.stage(published[1])  # type: ignore[arg-type]
    engine.swap()
    engine.admit(start(SequenceStart(key=3, seed=5), group=3))
    run(engine)
    assert rounds == [1, 1]


def test_every_page_is_free_again_when_all_is_over(
    make_engine: MakeEngine, make_work: MakeWork, finish: Finish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "PIECE_TOKENS", 128)
    engine = make_engine(max_batch=4, max_prompt_tokens=500, budget_bytes=TIGHT, runs_ahead=True)
    generator = Generator(engine)
    for index in range(6):
        prompt_ids = LONG_PROMPT[90 * index :]
        generator.add(make_work(index, num_samples=2, prompt_ids=prompt_ids, max_new_tokens=5 + 4 * index))
    for _ in range(12):
        generator.step()
    generator.cancel({f"test-run/g0000000{index}/s001" for index in (0, 3, 5)})
    finish(generator)
    engine._feeds.invalidate()
    assert engine._pool.num_free == engine._pool.num_pages
    assert len(engine._rows) == 0 and engine._feeds.num_waiting == 0
