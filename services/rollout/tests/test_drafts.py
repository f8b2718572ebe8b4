"""Responses that exist in part: interrupted, saved, begun again, gone on with."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from forklight_core.wire import RoutingArrays
from forklight_rollout.adapters.memory import MemoryEngine
from forklight_rollout.generation.draft import Draft, Span, restore_draft
from forklight_rollout.generation.generator import Generator
from forklight_rollout.generation.groups import FinishedSample, GroupWork
from forklight_rollout.generation.text_stops import TextStops
from forklight_rollout.ports import EndRules, EngineLimits, FinishReason

MakeWork = Callable[..., GroupWork]
Finish = Callable[[Generator], dict[str, FinishedSample]]
LIMITS = EngineLimits(num_sequences=4, max_tokens=1000, vocabulary_size=50)
FIRST = "test-run/g00000000/s000"


def make_draft(num_tokens: int, version: int = 0) -> Draft:
    draft = Draft()
    for token in range(num_tokens):
        draft.add(token, -0.5, -1.0, version)
    return draft


def routing_of(*tokens: int) -> RoutingArrays:
    column = np.array(tokens, dtype=np.uint8).reshape(-1, 1, 1)
    return RoutingArrays(experts=column, weights=column.astype(np.float32))


def test_another_pod_goes_on_with_the_same_tokens(make_work: MakeWork, finish: Finish) -> None:
    work = make_work(num_samples=3, max_new_tokens=20)
    whole = finish_all(Generator(MemoryEngine(LIMITS)), work, finish)
    first = Generator(MemoryEngine(LIMITS))
    first.add(work)
    for _ in range(7):
        first.step()
    left = {sample.sample_id: sample for sample in first.interrupt({s.sample_id for s in work.samples})}
    assert first.is_idle and len(left) == 3
    again = replace(
        work,
        samples=tuple(
            replace(start, draft=restore_draft(left[start.sample_id].response)) for start in work.samples
        ),
    )
    second = Generator(MemoryEngine(LIMITS, version=4))
    for sample_id, sample in finish_all(second, again, finish).items():
        assert sample.response.ids == whole[sample_id].response.ids
        assert sample.response.spans == (Span(start=0, version=0), Span(start=7, version=4))
        assert sample.reason is whole[sample_id].reason


def finish_all(generator: Generator, work: GroupWork, finish: Finish) -> dict[str, FinishedSample]:
    generator.add(work)
    return finish(generator)


def test_what_is_saved_is_not_read_again(make_work: MakeWork) -> None:
    generator = Generator(MemoryEngine(LIMITS))
    generator.add(make_work(max_new_tokens=100))
    for _ in range(10):
        generator.step()
    (open_sample,) = generator.read_unsaved(10)
    assert (open_sample.response.start, len(open_sample.response.ids)) == (0, 10)
    generator.note_saved(FIRST, 10)
    assert generator.read_unsaved(1) == []
    generator.step()
    generator.step()
    (open_sample,) = generator.interrupt({FIRST})
    assert (open_sample.response.start, len(open_sample.response.ids)) == (10, 2)
    assert open_sample.response.spans == (Span(start=10, version=0),)


def test_beginning_again_keeps_or_drops_the_tokens(make_work: MakeWork, finish: Finish) -> None:
    whole = finish_all(Generator(MemoryEngine(LIMITS)), make_work(num_samples=2, max_new_tokens=9), finish)
    for keeps_tokens in (True, False):
        generator = Generator(MemoryEngine(LIMITS))
        generator.add(make_work(num_samples=2, max_new_tokens=9))
        for _ in range(4):
            generator.step()
        generator.note_saved(FIRST, 3)
        lost = generator.begin_again(keeps_tokens=keeps_tokens)
        assert lost == ([] if keeps_tokens else [FIRST])
        assert generator.unstarted_groups() == ([] if keeps_tokens else ["test-run/g00000000"])
        assert (generator.num_running, generator.num_waiting) == (0, 2)
        before = generator.num_tokens
        finished = finish(generator)
        assert generator.num_tokens - before == (10 if keeps_tokens else 18)
        assert {key: each.response.ids for key, each in finished.items()} == {
            key: each.response.ids for key, each in whole.items()
        }


def test_a_sample_begun_anew_is_not_saved_before_its_old_tokens_are_forgotten(make_work: MakeWork) -> None:
    generator = Generator(MemoryEngine(LIMITS))
    generator.add(make_work(num_samples=2, max_new_tokens=90))
    for _ in range(6):
        generator.step()
    generator.note_saved(FIRST, 5)
    generator.begin_again(keeps_tokens=False)
    for _ in range(4):
        generator.step()
    assert {sample.sample_id for sample in generator.read_unsaved(1)} == {"test-run/g00000000/s001"}
    assert generator.begin_again(keeps_tokens=False) == [FIRST]  # still to be forgotten
    generator.step()
    generator.note_saved(FIRST, 0)
    assert {len(sample.response.ids) for sample in generator.read_unsaved(1)} == {1}
    assert len(generator.interrupt({FIRST})) == 1


def test_what_somebody_reads_as_it_comes_is_never_taken_back(make_work: MakeWork, finish: Finish) -> None:
    class Reader:
        def __init__(self) -> None:
            self.heard: list[int] = []
            self.ended: list[FinishedSample] = []

        def take(self, token: int, logprob: float, raw_logprob: float) -> None:
            self.heard.append(token)

        def finish(self, sample: FinishedSample) -> None:
            self.ended.append(sample)

    work, reader = make_work(max_new_tokens=9), Reader()
    (start,) = work.samples
    generator = Generator(MemoryEngine(LIMITS))
    generator.add(replace(work, samples=(replace(start, listener=reader),)))
    for _ in range(4):
        generator.step()
    assert generator.begin_again(keeps_tokens=False) == []
    assert finish(generator) == {} and generator.read_unsaved(0) == []
    (sample,) = reader.ended
    assert reader.heard == sample.response.ids.tolist() and len(reader.heard) == 9


def test_a_paused_generator_finishes_what_runs_and_starts_nothing(make_work: MakeWork) -> None:
    generator = Generator(MemoryEngine(LIMITS))
    generator.add(make_work(0, num_samples=6, max_new_tokens=3))
    generator.step()
    generator.is_admitting = False
    finished = [sample for _ in range(2) for sample in generator.step()]
    assert (len(finished), generator.num_waiting, generator.is_idle) == (4, 2, True)


def test_a_stop_string_ends_a_sample_wherever_tokens_cut_it(make_work: MakeWork, finish: Finish) -> None:
    letters = "xyabcab"
    generator = Generator(MemoryEngine(LIMITS), decode=lambda ids: "".join(letters[i % 7] for i in ids))
    unstopped = finish_all(generator, make_work(max_new_tokens=60), finish)
    ids = unstopped[FIRST].response.ids.tolist()
    text = "".join(letters[token % 7] for token in ids)
    assert "ab" in text
    stopped = finish_all(generator, make_work(max_new_tokens=60, stop_strings=("zz", "ab")), finish)[FIRST]
    assert stopped.reason is FinishReason.STOP
    assert stopped.response.ids.tolist() == ids[: text.index("ab") + 2]


def test_text_stops_see_strings_across_many_tokens_and_split_characters() -> None:
    data = "a\u00e9\u00e9 b</end> tail".encode()
    stops = TextStops(("</end>",), lambda ids: bytes(ids).decode(errors="replace"))
    hits = [place for place, byte in enumerate(data) if stops.accept(byte)]
    assert hits == [data.index(b">")]


def test_put_in_tokens_are_marked_and_break_a_row_of_certain_ones() -> None:
    rules = EndRules(max_new_tokens=50, repetition_tokens=9, repetition_probability=0.3)
    draft = make_draft(3)
    assert draft.count_certain(rules) == 3
    draft.put_in([7, 8], version=2)
    assert draft.count_certain(rules) == 0
    draft.add(9, -0.5, -1.0, 2)
    assert draft.count_certain(rules) == 1
    stretch = draft.stretch()
    assert stretch.drawn == bytes([1, 1, 1, 0, 0, 1])
    assert stretch.ids == array("i", [0, 1, 2, 7, 8, 9])
    assert stretch.raw_logprobs.tolist() == [-1.0, -1.0, -1.0, 0.0, 0.0, -1.0]
    assert stretch.spans == (Span(start=0, version=0), Span(start=3, version=2))


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_draft_cut_anywhere_and_restored_is_the_same(cut: int) -> None:
    draft = make_draft(2)
    draft.add(2, -0.5, -1.0, 1)
    draft.add(3, -0.5, -1.0, 1)
    rest = draft.stretch(cut)
    assert rest.ids.tolist() == [0, 1, 2, 3][cut:]
    assert (
        rest.spans
        == {
            1: (Span(start=1, version=0), Span(start=2, version=1)),
            2: (Span(start=2, version=1),),
            3: (Span(start=3, version=1),),
            4: (),
        }[cut]
    )
    restored = restore_draft(draft.stretch())
    restored.add(4, -0.5, -1.0, 1)
    assert restored.stretch().spans == draft.stretch().spans
    assert restored.num_saved == 4


def test_choices_of_a_prefix_fed_again_are_noted_once() -> None:
    draft = Draft()
    draft.add(0, 0.0, 0.0, 0)
    draft.note_routing(3, routing_of(1, 2, 3))
    draft.add(1, 0.0, 0.0, 0)
    draft.note_routing(3, routing_of(4))
    restored = restore_draft(draft.stretch())
    restored.add(2, 0.0, 0.0, 1)
    restored.note_routing(3, routing_of(91, 92, 93, 94, 5))  # prefilled again under other weights
    assert restored.stretch().routing is not None
    assert restored.routing is not None
    assert restored.routing.close().experts.ravel().tolist() == [1, 2, 3, 4, 5]
    tail = restored.stretch(1, num_prompt=3).routing
    assert tail is not None and tail.experts.ravel().tolist() == [4, 5]
