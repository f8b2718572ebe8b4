"""The figures of sequences, each against its definition written out in plain loops and float64."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from forklight.v1 import types_pb2
from forklight_core.errors import InvalidInputError
from forklight_core.runfile import RunFile
from forklight_model.logprobs import token_logprobs
from forklight_model.model import HybridModel
from forklight_trainer.adapters.torch_plain import OptimizerSettings, TorchEngine
from forklight_trainer.batches.batch import TrainingBatch, TrainingGroup, TrainingSample
from forklight_trainer.batches.fetch import fetch_batch
from forklight_trainer.steering.figures import read_figures
from forklight_trainer.steps.records import StepRecord, append_record, build_record, record_content
from forklight_trainer.steps.repetition import STRETCH, mark_repeated
from forklight_trainer.steps.sequences import sequence_figures
from forklight_trainer.steps.step import PolicyState, step_settings, train_step
from forklight_trainer.steps.tally import Tally

Maker = Any
STOP = types_pb2.FINISH_REASON_STOP
LENGTH = types_pb2.FINISH_REASON_LENGTH
REPETITION = types_pb2.FINISH_REASON_REPETITION


def sample_of(
    num_tokens: int,
    *,
    reward: float = 0.0,
    finish: types_pb2.FinishReason = STOP,
    drawn: np.ndarray[Any, np.dtype[np.bool_]] | None = None,
    ids: np.ndarray[Any, np.dtype[np.int32]] | None = None,
) -> TrainingSample:
    return TrainingSample(
        sample_id=f"s{num_tokens}",
        prompt_ids=np.array([1], dtype=np.int32),
        response_ids=np.arange(num_tokens, dtype=np.int32) if ids is None else ids,
        behaviour_logprobs=np.zeros(num_tokens, dtype=np.float32),
        versions=np.zeros(num_tokens, dtype=np.int64),
        reward=reward,
        finish_reason=finish,
        drawn=drawn,
    )


def batch_of(samples: list[TrainingSample]) -> TrainingBatch:
    group = TrainingGroup(group_id="g", samples=tuple(samples))
    return TrainingBatch(batch_id="b", step=1, groups=(group,))


def drawn_logprobs(samples: list[TrainingSample], seed: int = 0) -> list[np.ndarray[Any, Any]]:
    chance = np.random.default_rng(seed)
    return [-chance.exponential(1.0, sample.num_drawn) for sample in samples]


def written_out(logprobs: list[np.ndarray[Any, Any]]) -> tuple[float, float, float]:
    """Perplexity, that of the tails, and the ratio to that of the heads."""
    everything = [float(value) for each in logprobs for value in each]
    lengths = sorted(len(each) for each in logprobs)
    middle = len(lengths) // 2
    median = lengths[middle] if len(lengths) % 2 else (lengths[middle - 1] + lengths[middle]) / 2
    heads, tails = [], []
    for each in logprobs:
        if len(each) < 16 or len(each) < median:
            continue
        quarter = len(each) // 4
        heads += [float(each[place]) for place in range(quarter)]
        tails += [float(each[len(each) - quarter + place]) for place in range(quarter)]
    if len(tails) < 32:
        heads, tails = [], []

    def perplexity(values: list[float]) -> float:
        return math.exp(-math.fsum(values) / len(values)) if values else math.nan

    return perplexity(everything), perplexity(tails), perplexity(tails) / perplexity(heads)


@pytest.mark.parametrize(
    "lengths", [(10, 32, 80, 81), (128, 34, 67), (130,), (16,) * 8, (200, 3, 3), (40, 41)]
)
def test_perplexity_of_all_and_of_tails_is_the_definition(lengths: tuple[int, ...]) -> None:
    samples = [sample_of(length) for length in lengths]
    logprobs = drawn_logprobs(samples)
    found = sequence_figures(batch_of(samples), [0.0] * len(samples), logprobs)
    expected = written_out(logprobs)
    figures = (found.perplexity, found.tail_perplexity, found.tail_ratio)
    assert figures == pytest.approx(expected, rel=1e-12, nan_ok=True)
    assert math.isnan(found.tail_ratio) == (lengths == (40, 41))  # 20 tokens in tails are too few


def test_tail_ratio_when_tails_turn_to_garble_is_their_factor() -> None:
    """Heads at perplexity e^0.2, tails at e^1.7; short samples and the middles do not count."""
    samples = [sample_of(80), sample_of(160), sample_of(12)]
    logprobs = [np.full(n, -0.2) for n in (80, 160, 12)]
    logprobs[0][60:], logprobs[1][120:], logprobs[2][:] = -1.7, -1.7, -9.0
    logprobs[1][40:120] = -5.0
    found = sequence_figures(batch_of(samples), [0.0] * 3, logprobs)
    assert found.tail_perplexity == pytest.approx(math.exp(1.7))
    assert found.tail_ratio == pytest.approx(math.exp(1.5))


def test_figures_when_there_is_nothing_to_measure_are_nan_and_never_too_large() -> None:
    samples = [sample_of(3, finish=types_pb2.FINISH_REASON_UNSPECIFIED)]
    found = asdict(sequence_figures(batch_of(samples), [0.0], [np.full(3, -1e4)]))
    assert math.isfinite(found.pop("perplexity"))
    assert found.pop("repeated_share") == 0.0
    assert all(math.isnan(value) for value in found.values()), found


def test_lengths_by_sign_of_the_advantage_are_means_and_percentiles_of_the_whole_response() -> None:
    """What tools put in counts as length; an advantage of 0 is neither."""
    drawn = np.ones(30, dtype=np.bool_)
    drawn[10:20] = False
    samples = [sample_of(10), sample_of(30, drawn=drawn), sample_of(50), sample_of(7), sample_of(20)]
    found = sequence_figures(batch_of(samples), [1.0, 0.5, -2.0, 0.0, -0.1], drawn_logprobs(samples))
    assert (found.length_mean_positive, found.length_mean_negative) == (20.0, 35.0)
    assert found.length_p99_positive == pytest.approx(10 + 0.99 * 20)
    assert found.length_p99_negative == pytest.approx(20 + 0.99 * 30)


def test_stops_are_shares_of_the_samples_that_say_why_they_ended() -> None:
    reasons = [STOP, LENGTH, LENGTH, REPETITION, STOP, types_pb2.FINISH_REASON_UNSPECIFIED]
    samples = [sample_of(8, finish=reason) for reason in reasons]
    found = sequence_figures(batch_of(samples), [0.0] * 6, drawn_logprobs(samples))
    assert (found.window_stops, found.repetition_stops) == (0.4, 0.2)


def repeated_in_loops(ids: list[int]) -> list[bool]:
    """Every stretch looked up among all earlier ones."""
    repeated, seen = [False] * len(ids), set()
    for start in range(len(ids) - STRETCH + 1):
        stretch = tuple(ids[start : start + STRETCH])
        if stretch in seen:
            repeated[start : start + STRETCH] = [True] * STRETCH
        seen.add(stretch)
    return repeated


def test_repeated_tokens_are_those_of_stretches_seen_before() -> None:
    chance = np.random.default_rng(0)
    for num_tokens in [*range(40), 200, 700]:
        for num_words in (1, 2, 3, 50):
            ids = chance.integers(0, num_words, num_tokens).astype(np.int32)
            assert mark_repeated(ids).tolist() == repeated_in_loops(ids.tolist()), (num_tokens, num_words)
    period = np.tile(chance.integers(0, 200_000, 37).astype(np.int32), 5)
    assert mark_repeated(period).tolist() == [False] * 37 + [True] * 148


def test_repeated_share_when_a_tool_repeats_itself_counts_only_the_policy() -> None:
    drawn = np.zeros(100, dtype=np.bool_)
    drawn[:20] = True
    said = np.concatenate([np.arange(20), np.zeros(80)]).astype(np.int32)
    looping = np.tile(np.arange(4, dtype=np.int32), 10)
    samples = [sample_of(100, ids=said, drawn=drawn), sample_of(40, ids=looping)]
    found = sequence_figures(batch_of(samples), [0.0] * 2, drawn_logprobs(samples))
    assert found.repeated_share == 36 / 60


def test_logprobs_by_sample_when_packs_are_out_of_order_are_put_back() -> None:
    tally = Tally(
        columns={
            "logprobs": [torch.tensor([-3.0, -3.5]), torch.tensor([-1.0, -1.5, -1.75, 0.0])],
            "sample": [torch.tensor([3, 3]), torch.tensor([1, 1, 1, 0])],
        }
    )
    assert [each.tolist() for each in tally.logprobs_by_sample(5)] == [
        [0.0],
        [-1.0, -1.5, -1.75],
        [],
        [-3.0, -3.5],
        [],
    ]


def record_of_a_step(
    make_model: Callable[[int], HybridModel], maker: Maker
) -> tuple[StepRecord, Any, TrainingBatch]:
    batch = fetch_batch(maker.batch(1), maker.blobs, "test-run").batch
    assert batch is not None
    engine = TorchEngine(make_model(0), OptimizerSettings(betas=(0.9, 0.95), eps=1e-15, weight_decay=0.0))
    policy = PolicyState(
        version=0, is_published=True, contract=batch.samples[0].contract, find_version=lambda version: None
    )
    outcome = train_step(engine, batch, step_settings(RunFile()), policy)
    return build_record(outcome, step=1, version=0, window=40, seconds={"train": 1.0}), outcome, batch


def test_perplexity_of_a_step_is_that_of_the_weights_before_the_update(
    make_model: Callable[[int], HybridModel], maker: Maker
) -> None:
    record, _, batch = record_of_a_step(make_model, maker)
    model, total, count = make_model(0), 0.0, 0
    for sample in batch.samples:
        ids = torch.from_numpy(np.concatenate([sample.prompt_ids, sample.response_ids]).astype(np.int64))
        with torch.no_grad():
            scored = token_logprobs(model, ids, torch.tensor([0, len(ids)], dtype=torch.int32)).logprobs_T
        total -= float(scored[len(sample.prompt_ids) :].double().sum())
        count += len(sample.response_ids)
    assert record.perplexity == pytest.approx(math.exp(total / count), rel=1e-5)


def test_figures_for_steering_when_read_from_the_line_are_those_of_the_live_step(
    tmp_path: Path, make_model: Callable[[int], HybridModel], maker: Maker
) -> None:
    record, _, _ = record_of_a_step(make_model, maker)
    live = read_figures(record_content(record))
    append_record(tmp_path / "steps.jsonl", record)
    line = read_figures(json.loads((tmp_path / "steps.jsonl").read_text()))
    assert repr(live) == repr(line)  # NaN equals nothing; its print does
    assert (live.step, live.window, live.entropy) == (1, 40, record.entropy)
    assert (live.perplexity, live.length_p99) == (record.perplexity, record.length_p99)


def test_read_figures_when_figures_are_off_policy_old_or_odd_leaves_them_out() -> None:
    line = {"step": 3, "correlation": 0.5, "parity_version": 2, "parity_tokens": 100, "entropy": None}
    assert read_figures(line).correlation == 0.5
    assert math.isnan(read_figures({**line, "parity_version": None}).correlation)
    assert math.isnan(read_figures({**line, "parity_tokens": 31}).correlation)
    old = read_figures({"step": 3, "grad_norm": "wide", "perplexity": True})
    assert (old.window, math.isnan(old.grad_norm), math.isnan(old.perplexity)) == (0, True, True)
    with pytest.raises(InvalidInputError, match="whole number as step"):
        read_figures({"entropy": 0.3})
