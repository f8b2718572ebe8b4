"""What every engine promises, as functions to run against any of them: `check_*(case)`.

A case may hand out one engine again and again: keys are never used twice, and nothing here depends on what
ran before. A test picks from `CHECKS` and says what its engine cannot show through the case.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from forklight_core.errors import WeightsError
from forklight_rollout.ports import DrawRules, EndRules, Engine, FinishReason, PromptStart, SequenceStart
from forklight_rollout.weights.manifest import PublishedWeights

PROMPT = tuple(7 + place * 13 % 90 for place in range(70))
"""Token ids below 97: longer than a chunk of 64, and no multiple of one."""
GREEDY = DrawRules(temperature=0.0)
PLAIN = DrawRules(temperature=1.0)
DEADLINE_S = 120.0

_keys = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCase:
    """An engine, and what it can be held to."""

    make: Callable[[], Engine]
    weights: tuple[PublishedWeights, PublishedWeights]  # of different versions; one of them is in use
    bad_weights: PublishedWeights | None = None  # to be refused; None: this engine never looks inside
    is_model: bool = True  # draws follow a distribution that weights, temperature and filters decide
    tolerance: float = 1e-4  # between log-probs of the same token in two ways


@dataclass(slots=True)
class Sampled:
    """What came for one sequence."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    raw_logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    reasons: list[FinishReason | None] = field(default_factory=list)


def ending(max_new_tokens: int, **rules: float) -> EndRules:
    """End rules that only length decides, unless others are given."""
    return replace(EndRules(max_new_tokens=max_new_tokens), **rules)  # type: ignore[arg-type]


def begin(
    engine: Engine,
    starts: Sequence[SequenceStart],
    end: EndRules,
    *,
    draw: DrawRules = PLAIN,
    prompt_ids: tuple[int, ...] = PROMPT,
) -> dict[int, Sampled]:
    """Admit sequences of one prompt, under keys of their own; empty records for what will come."""
    named = tuple(replace(start, key=next(_keys)) for start in starts)
    engine.admit(PromptStart(group=next(_keys), prompt_ids=prompt_ids, draw=draw, end=end, sequences=named))
    return {start.key: Sampled() for start in named}


def step_into(engine: Engine, records: dict[int, Sampled]) -> None:
    """One step, sorted into the records; tokens of anybody else are an error."""
    tokens = engine.step()
    columns = (tokens.ids, tokens.logprobs, tokens.raw_logprobs, tokens.reasons)
    assert {len(column) for column in columns} <= {len(tokens.keys)}
    for key, token, logprob, raw_logprob, reason in zip(tokens.keys, *columns, strict=True):
        record = records[key]
        assert record.reasons[-1:] in ([], [None]), f"sequence {key} got a token after its reason"
        record.ids.append(token)
        record.logprobs.append(logprob)
        record.raw_logprobs.append(raw_logprob)
        record.versions.append(tokens.version)
        record.reasons.append(reason)


def step_until(engine: Engine, records: dict[int, Sampled], is_done: Callable[[], bool]) -> None:
    """Step until something holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not is_done():
        assert time.monotonic() < deadline, f"no end within {DEADLINE_S:g} s: {records}"
        step_into(engine, records)


def finish(engine: Engine, records: dict[int, Sampled]) -> list[Sampled]:
    """Step until every sequence has its reason."""
    step_until(engine, records, lambda: all(each.reasons and each.reasons[-1] for each in records.values()))
    return list(records.values())


def sample(
    engine: Engine,
    end: EndRules,
    *,
    draw: DrawRules = PLAIN,
    prompt_ids: tuple[int, ...] = PROMPT,
    start: SequenceStart | None = None,
) -> Sampled:
    """One sequence to its end."""
    starts = [start or SequenceStart(key=0, seed=5)]
    (sampled,) = finish(engine, begin(engine, starts, end, draw=draw, prompt_ids=prompt_ids))
    return sampled


def check_a_partial_response_goes_on_as_the_whole(case: EngineCase) -> None:
    """Greedy and drawn: tokens of an uninterrupted run, cut after its first token and later."""
    engine = case.make()
    for draw, cut in ((GREEDY, 1), (PLAIN, 7)):
        whole = sample(engine, ending(20), draw=draw)
        prefix = SequenceStart(key=0, seed=5, prefix_ids=tuple(whole.ids[:cut]))
        rest = sample(engine, ending(20), draw=draw, start=prefix)
        assert rest.ids == whole.ids[cut:]
        assert rest.raw_logprobs == pytest.approx(whole.raw_logprobs[cut:], abs=case.tolerance)


def check_draws_do_not_depend_on_what_else_runs(case: EngineCase) -> None:
    """Same seed and weights, same tokens: alone, and beside others of its group."""
    engine = case.make()
    alone = sample(engine, ending(12), start=SequenceStart(key=0, seed=2))
    together = finish(
        engine, begin(engine, [SequenceStart(key=0, seed=seed) for seed in (1, 2, 3)], ending(12))
    )
    assert together[1].ids == alone.ids
    assert len({tuple(each.ids) for each in together}) == 3


def check_a_stop_token_ends_on_the_exact_token(case: EngineCase) -> None:
    """The stop token itself is the last one delivered."""
    engine = case.make()
    free = sample(engine, ending(16))
    stop = free.ids[9]
    stopped = sample(engine, ending(16, stop_ids=frozenset({stop})))
    assert stopped.ids[-1] == stop
    assert stop not in stopped.ids[:-1]
    assert stopped.reasons[-1] is FinishReason.STOP
    if case.is_model:
        assert stopped.ids == free.ids[: free.ids.index(stop) + 1]


def check_length_counts_the_prefix(case: EngineCase) -> None:
    """max_new_tokens is of the whole response."""
    engine = case.make()
    whole = sample(engine, ending(8))
    assert (len(whole.ids), whole.reasons[-1]) == (8, FinishReason.LENGTH)
    prefix = SequenceStart(key=0, seed=5, prefix_ids=tuple(whole.ids[:5]))
    rest = sample(engine, ending(8), start=prefix)
    assert (rest.ids, rest.reasons) == (whole.ids[5:], [None, None, FinishReason.LENGTH])


def check_repetition_ends_on_the_exact_token(case: EngineCase) -> None:
    """With a bound that every token passes; what a prefix counted is counted, and length comes after."""
    engine = case.make()
    certain = {"repetition_tokens": 4, "repetition_probability": 1e-30}
    sampled = sample(engine, ending(20, **certain))
    assert sampled.reasons == [None, None, None, FinishReason.REPETITION]
    prefix = SequenceStart(key=0, seed=5, prefix_ids=tuple(sampled.ids[:3]), num_certain=2)
    assert sample(engine, ending(20, **certain), start=prefix).reasons == [None, FinishReason.REPETITION]
    assert sample(engine, ending(4, **certain)).reasons[-1] is FinishReason.REPETITION
    assert sample(engine, ending(3, **certain)).reasons[-1] is FinishReason.LENGTH
    never = {"repetition_tokens": 1, "repetition_probability": 1.0}
    assert sample(engine, ending(3, **never)).reasons[-1] is FinishReason.LENGTH


def check_nothing_of_a_retired_sequence_is_delivered(case: EngineCase) -> None:
    """Running or not yet begun; the others go on, and unknown keys are ignored."""
    engine = case.make()
    records = begin(engine, [SequenceStart(key=0, seed=seed) for seed in (1, 2)], ending(40))
    step_until(engine, records, lambda: all(len(each.ids) >= 3 for each in records.values()))
    retired, kept = records
    engine.retire([retired, 10**9])
    num_before = len(records[retired].ids)
    unbegun = begin(engine, [SequenceStart(key=0, seed=3)], ending(40))
    engine.retire(list(unbegun))
    records |= unbegun
    step_until(engine, records, lambda: bool(records[kept].reasons[-1]))
    for _ in range(3):
        step_into(engine, records)
    assert len(records[retired].ids) == num_before < 40
    assert [len(each.ids) for each in unbegun.values()] == [0]
    assert len(records[kept].ids) == 40


def check_logprobs_are_aligned_and_never_positive(case: EngineCase) -> None:
    """Without temperature and filters both kinds are the same number; greedily a draw is certain."""
    engine = case.make()
    plain = sample(engine, ending(16))
    assert max(plain.logprobs + plain.raw_logprobs) <= 0.0
    assert plain.logprobs == pytest.approx(plain.raw_logprobs, abs=case.tolerance)
    greedy = sample(engine, ending(16), draw=GREEDY)
    assert max(greedy.raw_logprobs) <= 0.0
    if case.is_model:
        assert greedy.logprobs == pytest.approx([0.0] * 16, abs=1e-6)
        warm = sample(engine, ending(16), draw=DrawRules(temperature=0.5))
        assert max(warm.logprobs) <= 0.0
        assert warm.logprobs != pytest.approx(warm.raw_logprobs, abs=case.tolerance)


def check_scores_are_the_logprobs_of_the_draws(case: EngineCase) -> None:
    """Decode and prefill speak about the same model."""
    engine = case.make()
    sampled = sample(engine, ending(12))
    scores = list(engine.score([*PROMPT, *sampled.ids]))
    assert len(scores) == len(PROMPT) + 12 - 1
    assert scores[-12:] == pytest.approx(sampled.raw_logprobs, abs=case.tolerance)


def check_a_prompt_of_one_token_starts_from_nothing(case: EngineCase) -> None:
    """Also in memory that a longer sequence has left."""
    engine = case.make()
    finish(engine, begin(engine, [SequenceStart(key=0, seed=seed) for seed in (1, 2, 3)], ending(10)))
    sampled = sample(engine, ending(6), prompt_ids=PROMPT[:1])
    scores = list(engine.score([PROMPT[0], *sampled.ids]))
    assert sampled.raw_logprobs == pytest.approx(scores, abs=case.tolerance)


def check_filters_leave_the_likeliest_tokens(case: EngineCase) -> None:
    """Each filter at its narrowest is greedy, and what is left is certain; wide open, it changes nothing."""
    if not case.is_model:
        return
    engine = case.make()
    greedy = sample(engine, ending(10), draw=GREEDY)
    for narrow in ({"top_k": 1}, {"min_p": 1.0}, {"top_p": 1e-6}):
        sampled = sample(engine, ending(10), draw=replace(PLAIN, **narrow))
        assert sampled.ids == greedy.ids
        assert sampled.logprobs == pytest.approx([0.0] * 10, abs=1e-6)
        assert sampled.raw_logprobs == pytest.approx(greedy.raw_logprobs, abs=case.tolerance)
    plain = sample(engine, ending(10))
    assert sample(engine, ending(10), draw=replace(PLAIN, top_k=10**6, min_p=1e-30)).ids == plain.ids


def check_a_filtered_logprob_is_of_what_is_left(case: EngineCase) -> None:
    """Two tokens are left: both kinds of log-prob differ by the log of their mass."""
    if not case.is_model:
        return
    engine = case.make()
    sampled = sample(engine, ending(12), draw=replace(PLAIN, top_k=2))
    masses = [math.exp(raw - kept) for raw, kept in zip(sampled.raw_logprobs, sampled.logprobs, strict=True)]
    assert all(0.0 < mass <= 1.0 + case.tolerance for mass in masses)
    assert min(masses) < 1.0 - case.tolerance


def check_versions_switch_once_over_a_swap(case: EngineCase) -> None:
    """A running sequence goes on under the new weights, stamped as such, and is not lost."""
    engine = case.make()
    old, new = engine.version, _other(case, engine)
    records = begin(engine, [SequenceStart(key=0, seed=seed) for seed in (1, 2)], ending(60))
    step_until(engine, records, lambda: all(len(each.ids) >= 4 for each in records.values()))
    engine.stage(new)
    assert engine.version == old
    engine.swap()
    assert engine.version == new.version
    for sampled in finish(engine, records):
        num_old = sampled.versions.count(old)
        assert sampled.versions == [old] * num_old + [new.version] * (60 - num_old)
        assert 4 <= num_old < 60
        assert (len(sampled.ids), sampled.reasons[-1]) == (60, FinishReason.LENGTH)


def check_swapped_weights_are_the_ones_that_draw(case: EngineCase) -> None:
    """There and back again: what the first weights drew comes back, and the others drew something else."""
    if not case.is_model:
        return
    engine = case.make()
    drawn = []
    for _ in range(3):
        drawn.append((engine.version, sample(engine, ending(16), draw=GREEDY).ids))
        engine.stage(_other(case, engine))
        engine.swap()
    assert drawn[0] == drawn[2]
    assert drawn[0][0] != drawn[1][0]
    assert drawn[0][1] != drawn[1][1]


def check_bad_weights_change_nothing(case: EngineCase) -> None:
    """Refused by stage; the weights in use stay, and so does their version."""
    engine = case.make()
    version, before = engine.version, sample(engine, ending(8))
    with pytest.raises(WeightsError):
        engine.swap()
    if case.bad_weights is not None:
        with pytest.raises(WeightsError):
            engine.stage(case.bad_weights)
        with pytest.raises(WeightsError):
            engine.swap()
    assert engine.version == version
    assert sample(engine, ending(8)).ids == before.ids


def check_a_full_engine_loses_nobody(case: EngineCase) -> None:
    """As many sequences as it says it holds, of two groups, each with all its tokens in order."""
    engine = case.make()
    num_sequences = engine.limits.num_sequences
    half = num_sequences // 2
    records = begin(engine, [SequenceStart(key=0, seed=seed) for seed in range(half)], ending(9))
    others = [SequenceStart(key=0, seed=100 + seed) for seed in range(num_sequences - half)]
    records |= begin(engine, others, ending(13), prompt_ids=PROMPT[:3])
    sampled = finish(engine, records)
    assert sorted(len(each.ids) for each in sampled) == sorted([9] * half + [13] * (num_sequences - half))
    assert all(0 <= token < engine.limits.vocabulary_size for each in sampled for token in each.ids)


def _other(case: EngineCase, engine: Engine) -> PublishedWeights:
    (other,) = [weights for weights in case.weights if weights.version != engine.version]
    return other


CHECKS: tuple[Callable[[EngineCase], None], ...] = tuple(
    found for name, found in sorted(globals().items()) if name.startswith("check_")
)
