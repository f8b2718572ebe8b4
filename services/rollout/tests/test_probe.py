"""The probe: how two sides are compared, and that nothing is drawn with weights that fail it."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from forklight.v1 import types_pb2
from forklight_core.errors import DataLossError, WeightsError
from forklight_core.weights.manifest import Manifest, Probe, TensorEntry, parse_manifest
from forklight_rollout.adapters.memory import MemoryEngine
from forklight_rollout.generation.draft import Span
from forklight_rollout.generation.generator import Generator
from forklight_rollout.generation.groups import FinishedSample, GroupWork, SampleStart
from forklight_rollout.ports import DrawRules, EndRules, EngineLimits, PromptStart
from forklight_rollout.weights.manifest import PublishedWeights
from forklight_rollout.weights.probe import ProbeOutcome, run_probe
from forklight_rollout.weights.swap_policy import SwapCache, SwapPolicy, SwapRules, swap_weights

VOCABULARY = 103
LIMITS = EngineLimits(num_sequences=4, max_tokens=512, vocabulary_size=VOCABULARY)
NUM_TOKENS = 201
GPU = types_pb2.NumericMode(is_parity=True, contract="k0", device="GPU X", torch="2.0", triton="3.0")
SCORES = array("f", [-0.1 * place - 1.0 for place in range(NUM_TOKENS - 1)])


class ScoringEngine(MemoryEngine):
    """Says what it is told to of any sequence; remembers what was admitted."""

    def __init__(self, limits: EngineLimits = LIMITS, *, mode: types_pb2.NumericMode = GPU) -> None:
        super().__init__(limits, mean_tokens=1000)
        self.scores: Sequence[float] = SCORES
        self.mode = mode
        self.admitted: list[PromptStart] = []

    @property
    def numeric_mode(self) -> types_pb2.NumericMode:
        return self.mode

    def score(self, ids: Sequence[int]) -> Sequence[float]:
        return self.scores[: len(ids) - 1]

    def admit(self, prompt: PromptStart) -> None:
        self.admitted.append(prompt)
        super().admit(prompt)


def make_probe(**changes: object) -> Probe:
    probe = Probe(
        ids=tuple(place % VOCABULARY for place in range(NUM_TOKENS)),
        logprobs=tuple(SCORES),
        is_parity=True,
        contract="k0",
        device="GPU X",
        torch="2.0",
        triton="3.0",
    )
    return replace(probe, **changes)  # type: ignore[arg-type]


def make_weights(probe: Probe | None, *, version: int = 1, dtype: str = "bfloat16") -> PublishedWeights:
    manifest = Manifest(
        run_id="run",
        version=version,
        step=version,
        contract="c0",
        kernels="k0",
        config_json="{}",
        files=(),
        tensors={"lm_head.weight": TensorEntry(name="lm_head.weight", shape=(1,), dtype=dtype, hash="")},
        probe=probe,
    )
    return PublishedWeights(folder=Path(), manifest_id=f"b3:{version}", manifest=manifest, tokenizer_hash="")


def shifted(*, by: float, places: int) -> array[float]:
    return array("f", [score + by * (place < places) for place, score in enumerate(SCORES)])


def manifest_bytes(probe: object) -> bytes:
    fields = {
        "schema_version": 2,
        "kind": "full",
        "run_id": "run",
        "version": 3,
        "step": 3,
        "contract": "c0",
        "kernels": "k0",
        "config": {},
        "files": [],
        "tensors": {},
        "probe": probe,
    }
    return json.dumps(fields).encode()


def probe_fields(**changes: object) -> dict[str, object]:
    mode = {"is_parity": True, "contract": "k0", "device": "GPU X", "torch": "2.0", "triton": "3.0"}
    ids, logprobs = [place % VOCABULARY for place in range(NUM_TOKENS)], SCORES.tolist()
    return {"ids": ids, "logprobs": logprobs, "mode": mode} | changes


def test_a_probe_comes_out_of_the_manifest_with_its_bits() -> None:
    probe = parse_manifest(manifest_bytes(probe_fields()), Path("manifest.json")).probe
    assert probe == make_probe()
    assert array("f", probe.logprobs).tobytes() == SCORES.tobytes()
    assert parse_manifest(manifest_bytes(None), Path("manifest.json")).probe is None


@pytest.mark.parametrize(
    "changes",
    [
        {"ids": [1]},
        {"ids": [-1, *range(NUM_TOKENS - 1)]},
        {"logprobs": SCORES.tolist()[1:]},
        {"logprobs": [math.nan, *SCORES.tolist()[1:]]},
        {"logprobs": ["x"] * (NUM_TOKENS - 1)},
        {"mode": None},
    ],
)
def test_a_probe_that_cannot_be_meant_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(WeightsError, match="not a manifest this build reads"):
        parse_manifest(manifest_bytes(probe_fields(**changes)), Path("manifest.json"))


def test_sides_that_compute_alike_must_agree_in_every_bit() -> None:
    engine = ScoringEngine()
    equal = run_probe(engine, make_weights(make_probe()), 100.0)
    assert (equal.outcome, equal.num_compared, equal.num_off) == (ProbeOutcome.EQUAL, 200, 0)
    last_bit = array("f", SCORES)
    last_bit[7] = math.nextafter(last_bit[7], 0.0)  # lost again in fp32
    last_bit[8] *= 1 + 2**-23
    engine.scores = last_bit
    unequal = run_probe(engine, make_weights(make_probe()), 100.0)
    assert (unequal.outcome, unequal.num_off, unequal.is_sound) == (ProbeOutcome.DISAGREES, 1, False)
    assert 0 < unequal.max_difference < 1e-6
    assert "1 of 200 log-probs" in unequal.reason and "both sides compute alike" in unequal.reason


@pytest.mark.parametrize(
    ("mode", "changes", "named"),
    [
        (types_pb2.NumericMode(is_parity=False), {}, "tolerance mode of this pod"),
        (GPU, {"is_parity": False}, "tolerance mode of the trainer"),
        (GPU, {"device": "GPU Y"}, "device GPU X here, GPU Y there"),
        (GPU, {"torch": "2.1"}, "torch 2.0 here, 2.1 there"),
        (GPU, {"triton": "3.1"}, "triton 3.0 here, 3.1 there"),
        (GPU, {"contract": "k1"}, "contract k0 here, k1 there"),
    ],
)
def test_sides_that_compute_otherwise_are_compared_at_a_tolerance(
    mode: types_pb2.NumericMode, changes: dict[str, object], named: str
) -> None:
    engine, weights = ScoringEngine(mode=mode), make_weights(make_probe(**changes))
    engine.scores = shifted(by=0.01, places=200)
    near = run_probe(engine, weights, 0.02)
    assert (near.outcome, near.num_off) == (ProbeOutcome.WITHIN, 0)
    assert named in near.reason
    assert run_probe(engine, weights, 0.005).outcome is ProbeOutcome.DISAGREES


@pytest.mark.parametrize(("places", "is_sound"), [(4, True), (5, False)])
@pytest.mark.parametrize("by", [5.0, math.nan])
def test_a_few_tokens_may_be_far_off_at_a_tolerance_and_no_more(
    places: int, is_sound: bool, by: float
) -> None:
    engine = ScoringEngine(mode=types_pb2.NumericMode())
    engine.scores = shifted(by=by, places=places) if by == by else array("f", [by] * places) + SCORES[places:]
    result = run_probe(engine, make_weights(make_probe()), 0.1)
    assert (result.is_sound, result.num_off) == (is_sound, places)


@pytest.mark.parametrize(("dtype", "outcome"), [("bfloat16", "within"), ("float32", "disagrees")])
def test_without_a_tolerance_the_type_of_the_weights_decides(dtype: str, outcome: str) -> None:
    engine = ScoringEngine(mode=types_pb2.NumericMode())
    engine.scores = shifted(by=0.05, places=200)
    assert run_probe(engine, make_weights(make_probe(), dtype=dtype), None).outcome == outcome


def test_a_pod_that_holds_fewer_tokens_compares_the_first_ones() -> None:
    engine = ScoringEngine(replace(LIMITS, max_tokens=64))
    assert run_probe(engine, make_weights(make_probe()), None).num_compared == 63


def test_a_probe_that_cannot_be_scored_disagrees() -> None:
    class RefusingEngine(ScoringEngine):
        def score(self, ids: Sequence[int]) -> Sequence[float]:
            raise DataLossError("no log-probs today")

    weights = make_weights(make_probe())
    assert "no log-probs today" in run_probe(RefusingEngine(), weights, None).reason
    engine = ScoringEngine()
    engine.scores = ()
    assert "0 log-probs for 201 tokens" in run_probe(engine, weights, None).reason
    small = ScoringEngine(replace(LIMITS, vocabulary_size=50))
    assert not run_probe(small, weights, None).is_sound


def test_weights_without_a_probe_are_sound_and_say_so() -> None:
    result = run_probe(ScoringEngine(), make_weights(None), None)
    assert (result.outcome, result.is_sound) == (ProbeOutcome.ABSENT, True)


def work(num_samples: int = 2, max_new_tokens: int = 8) -> GroupWork:
    return GroupWork(
        group_id="run/g0",
        prompt_ids=(1, 2, 3),
        draw=DrawRules(temperature=1.0),
        end=EndRules(max_new_tokens=max_new_tokens),
        samples=tuple(SampleStart(sample_id=f"s{place}", seed=place) for place in range(num_samples)),
    )


def started(engine: ScoringEngine, *, num_steps: int = 3) -> Generator:
    generator = Generator(engine)
    generator.add(work())
    for _ in range(num_steps):
        generator.step()
    generator.note_saved("s1", 2)
    return generator


def swap(
    generator: Generator, engine: ScoringEngine, version: int, rules: SwapRules
) -> tuple[bool, tuple[str, ...]]:
    weights = make_weights(make_probe(), version=version)
    engine.stage(weights)
    result = swap_weights(generator, weights, rules)
    assert result.swap_s >= result.probe.probe_s > 0
    return result.probe.is_sound, result.lost


def finish(generator: Generator) -> dict[str, FinishedSample]:
    finished: dict[str, FinishedSample] = {}
    for _ in range(100):
        finished |= {sample.sample_id: sample for sample in generator.step()}
    return finished


def test_nothing_is_drawn_with_weights_that_fail_their_probe() -> None:
    engine = ScoringEngine()
    generator = started(engine)
    engine.scores = shifted(by=1.0, places=1)
    assert swap(generator, engine, 1, SwapRules()) == (False, ())
    assert (generator.num_running, generator.num_waiting, generator.is_idle) == (0, 2, True)
    num_tokens = generator.num_tokens
    assert finish(generator) == {}
    assert generator.num_tokens == num_tokens == 6
    engine.scores = SCORES
    assert swap(generator, engine, 2, SwapRules()) == (True, ())
    ended = finish(generator)["s0"]
    assert len(ended.response.ids) == 8
    assert ended.response.spans == (Span(start=0, version=0), Span(start=3, version=2))


def test_what_is_not_saved_can_be_taken_along_after_a_failed_probe() -> None:
    engine = ScoringEngine()
    generator = started(engine)
    engine.scores = shifted(by=1.0, places=1)
    swap(generator, engine, 1, SwapRules())
    taken = {sample.sample_id: sample.response for sample in generator.interrupt({"s0", "s1"})}
    assert [(name, part.start, len(part.ids)) for name, part in taken.items()] == [("s0", 0, 3), ("s1", 2, 1)]
    assert {span.version for part in taken.values() for span in part.spans} == {0}


def test_keep_lets_samples_go_on_with_their_caches() -> None:
    engine = ScoringEngine()
    generator = started(engine)
    assert swap(generator, engine, 1, SwapRules()) == (True, ())
    assert finish(generator)["s0"].response.spans == (Span(start=0, version=0), Span(start=3, version=1))
    assert len(engine.admitted) == 1


def test_recompute_prefills_what_there_is_of_a_sample_again() -> None:
    engine = ScoringEngine()
    generator = started(engine)
    assert swap(generator, engine, 1, SwapRules(cache=SwapCache.RECOMPUTE)) == (True, ())
    ended = finish(generator)
    again = {len(start.prefix_ids) for start in engine.admitted[1].sequences}
    assert again == {3}
    assert ended["s1"].response.spans == (Span(start=0, version=0), Span(start=3, version=1))


def test_restart_makes_every_sample_one_of_one_version_and_names_what_was_saved() -> None:
    engine = ScoringEngine()
    generator = started(engine)
    assert swap(generator, engine, 1, SwapRules(policy=SwapPolicy.RESTART)) == (True, ("s1",))
    ended = finish(generator)
    assert [sample.response.spans for sample in ended.values()] == [(Span(start=0, version=1),)] * 2
    assert all(len(sample.response.ids) == 8 for sample in ended.values())
