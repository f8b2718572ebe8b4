"""The native engine on the real nano model: tokens, log-probs, forks, slots."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from forklight_model.generate import GenerationLimits, generate_tokens
from forklight_model.logprobs import token_logprobs
from forklight_model.model import HybridModel
from forklight_rollout.adapters.native import NativeEngine, feeds
from forklight_rollout.generation.generator import Generator
from forklight_rollout.generation.groups import FinishedSample, GroupWork

Finish = Callable[[Generator], dict[str, FinishedSample]]
LONG_PROMPT = tuple(7 + index * 13 % 90 for index in range(50))


def generate(engine: NativeEngine, finish: Finish, *works: GroupWork) -> dict[str, FinishedSample]:
    generator = Generator(engine)
    for work in works:
        generator.add(work)
    return finish(generator)


def test_tokens_are_the_same_when_the_batch_is_another(
    make_engine: Callable[..., NativeEngine], make_work: Callable[..., GroupWork], finish: Finish
) -> None:
    works = [
        make_work(
            index, prompt_ids=LONG_PROMPT[: 3 + 5 * index], seed=100 * index, max_new_tokens=10 + 9 * index
        )
        for index in range(5)
    ]
    alone: dict[str, FinishedSample] = {}
    for work in works:
        alone |= generate(make_engine(max_batch=1), finish, work)
    together = generate(make_engine(max_batch=3), finish, *works)
    assert len(together) == 5
    for sample_id, sample in together.items():
        assert sample.response.ids == alone[sample_id].response.ids
        assert list(sample.response.raw_logprobs) == pytest.approx(
            list(alone[sample_id].response.raw_logprobs), abs=1e-4
        )


def test_tokens_equal_the_command_lines_generator_for_a_seed(
    make_engine: Callable[..., NativeEngine],
    make_work: Callable[..., GroupWork],
    finish: Finish,
    models: dict[int, HybridModel],
) -> None:
    seed = 2**63 + 5
    work = make_work(prompt_ids=LONG_PROMPT, seed=seed, temperature=0.8, top_p=0.9, max_new_tokens=24)
    (sample,) = generate(make_engine(), finish, work).values()
    limits = GenerationLimits(max_new_tokens=24, temperature=0.8, top_p=0.9, seed=seed - 2**64)
    token_ids, logprobs = generate_tokens(models[0], LONG_PROMPT, limits)
    assert sample.response.ids.tolist() == token_ids
    assert sample.response.logprobs.tolist() == pytest.approx(logprobs, abs=1e-4)


def test_logprobs_equal_the_trainers_when_the_whole_sequence_is_scored(
    make_engine: Callable[..., NativeEngine],
    make_work: Callable[..., GroupWork],
    finish: Finish,
    models: dict[int, HybridModel],
) -> None:
    work = make_work(prompt_ids=LONG_PROMPT, num_samples=3, temperature=0.7, max_new_tokens=40)
    for sample in generate(make_engine(), finish, work).values():
        ids_T = torch.tensor([*sample.prompt_ids, *sample.response.ids])
        cu_seqlens = torch.tensor([0, len(ids_T)], dtype=torch.int32)
        for temperature, found in ((1.0, sample.response.raw_logprobs), (0.7, sample.response.logprobs)):
            scored_T = token_logprobs(models[0], ids_T, cu_seqlens, temperature).logprobs_T
            expected = scored_T[len(sample.prompt_ids) :].tolist()
            assert found.tolist() == pytest.approx(expected, abs=1e-4)


def test_forked_samples_equal_samples_with_a_prefill_of_their_own(
    make_engine: Callable[..., NativeEngine], make_work: Callable[..., GroupWork], finish: Finish
) -> None:
    forked = generate(make_engine(max_batch=4), finish, make_work(num_samples=4, seed=50))
    for number in range(4):
        engine = make_engine(max_batch=4)
        (single,) = generate(engine, finish, make_work(num_samples=1, seed=50 + number)).values()
        assert forked[f"test-run/g00000000/s{number:03d}"].response.ids == single.response.ids


def test_a_group_larger_than_the_batch_is_generated_in_parts(
    make_engine: Callable[..., NativeEngine], make_work: Callable[..., GroupWork], finish: Finish
) -> None:
    large = generate(make_engine(max_batch=16), finish, make_work(num_samples=11))
    small = generate(make_engine(max_batch=2), finish, make_work(num_samples=11), make_work(1, num_samples=3))
    assert len(small) == 14
    for sample_id, sample in large.items():
        assert small[sample_id].response.ids == sample.response.ids


def test_prompts_in_pieces_give_the_same_tokens_as_in_one(
    make_engine: Callable[..., NativeEngine],
    make_work: Callable[..., GroupWork],
    finish: Finish,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    works = [make_work(index, prompt_ids=LONG_PROMPT[index:], num_samples=2) for index in range(3)]
    whole = generate(make_engine(max_batch=32), finish, *works)
    monkeypatch.setattr(feeds, "PIECE_TOKENS", 16)
    monkeypatch.setattr(feeds, "ROUND_TOKENS", 40)
    pieces = generate(make_engine(max_batch=32), finish, *works)
    assert {key: sample.response.ids for key, sample in pieces.items()} == {
        key: sample.response.ids for key, sample in whole.items()
    }


def test_cancelled_sequences_leave_the_others_untouched(
    make_engine: Callable[..., NativeEngine], make_work: Callable[..., GroupWork], finish: Finish
) -> None:
    works = [make_work(index, num_samples=2, max_new_tokens=20) for index in range(4)]
    undisturbed = generate(make_engine(max_batch=8), finish, *works)
    generator = Generator(make_engine(max_batch=3))
    for work in works:
        generator.add(work)
    for _ in range(5):
        generator.step()
    gone = {"test-run/g00000000/s000", "test-run/g00000002/s001", "test-run/g00000001/s000"}
    cancelled = generator.cancel(gone)
    assert {sample.sample_id for sample in cancelled} < gone
    assert all(0 < len(sample.response.ids) <= 5 for sample in cancelled)
    finished = finish(generator)
    assert finished.keys() == undisturbed.keys() - gone
    for sample_id, sample in finished.items():
        assert sample.response.ids == undisturbed[sample_id].response.ids


def test_greedy_sequences_do_not_depend_on_their_seed(
    make_engine: Callable[..., NativeEngine], make_work: Callable[..., GroupWork], finish: Finish
) -> None:
    samples = list(generate(make_engine(), finish, make_work(num_samples=3, temperature=0.0)).values())
    assert len({tuple(sample.response.ids) for sample in samples}) == 1
    assert samples[0].response.logprobs.tolist() == [0.0] * 16
    assert -100 < min(samples[0].response.raw_logprobs) < 0 >= max(samples[0].response.raw_logprobs)


def test_a_bfloat16_engine_keeps_its_log_probs_close(
    make_engine: Callable[..., NativeEngine], make_work: Callable[..., GroupWork], finish: Finish
) -> None:
    work = make_work(prompt_ids=LONG_PROMPT, temperature=0.0, max_new_tokens=1)
    (exact,) = generate(make_engine(), finish, work).values()
    (rounded,) = generate(make_engine(dtype="bfloat16"), finish, work).values()
    assert rounded.response.raw_logprobs.tolist() == pytest.approx(
        exact.response.raw_logprobs.tolist(), abs=0.3
    )
