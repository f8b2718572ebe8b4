"""What the routers chose is recorded for every token that was fed: a prompt once a group, then each token."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from forklight_core.errors import ConfigError
from forklight_core.wire import RoutingArrays, unpack_payload
from forklight_model.logprobs import token_logprobs
from forklight_model.model import HybridModel
from forklight_model.routing import Routing
from forklight_model.sizes import SIZES
from forklight_rollout.adapters.native import NativeEngine, NativeOptions, feeds, native_engine_factory
from forklight_rollout.adapters.native.choices import check_recordable, routing_bytes
from forklight_rollout.generation.generator import Generator
from forklight_rollout.generation.groups import FinishedSample, GroupWork
from forklight_rollout.leases.trajectory import build_payload
from forklight_rollout.memory_plan import MemoryWish
from forklight_rollout.ports import DrawRules, EndRules, PromptStart, SequenceStart
from forklight_rollout.weights.manifest import PublishedWeights

Finish = Callable[[Generator], dict[str, FinishedSample]]
MakeEngine = Callable[..., NativeEngine]
MakeWork = Callable[..., GroupWork]
NANO = SIZES["nano"]
LONG_PROMPT = tuple(7 + index * 13 % 90 for index in range(50))


def generate(engine: NativeEngine, finish: Finish, *works: GroupWork) -> dict[str, FinishedSample]:
    generator = Generator(engine)
    for work in works:
        generator.add(work)
    return finish(generator)


def chosen_in_one_pass(model: HybridModel, ids: list[int]) -> RoutingArrays:
    """What the trainer's pass over the whole sequence chooses for all tokens but the last."""
    routing = Routing()
    token_logprobs(model, torch.tensor(ids), torch.tensor([0, len(ids)], dtype=torch.int32), 1.0, routing)
    recorded = routing.recorded
    return RoutingArrays(
        experts=recorded.experts_LTK[:, :-1].transpose(0, 1).to(torch.uint8).numpy(),
        weights=recorded.weights_LTK[:, :-1].transpose(0, 1).numpy(),
    )


def assert_same_choices(found: RoutingArrays | None, expected: RoutingArrays) -> None:
    assert found is not None
    assert (found.experts.dtype, found.weights.dtype) == (np.uint8, np.float32)
    assert found.experts.shape == expected.experts.shape == found.weights.shape
    assert np.array_equal(found.experts, expected.experts)
    assert np.abs(found.weights - expected.weights).max() < 1e-4


@pytest.mark.parametrize("piece_tokens", [1024, 16])
def test_every_fed_token_has_the_experts_of_a_whole_pass(
    make_engine: MakeEngine,
    make_work: MakeWork,
    finish: Finish,
    models: dict[int, HybridModel],
    monkeypatch: pytest.MonkeyPatch,
    piece_tokens: int,
) -> None:
    monkeypatch.setattr(feeds, "PIECE_TOKENS", piece_tokens)
    works = [
        make_work(index, prompt_ids=LONG_PROMPT[5 * index :], num_samples=3, max_new_tokens=6 + 5 * index)
        for index in range(3)
    ]
    samples = generate(make_engine(max_batch=4, records_routing=True), finish, *works)
    assert len(samples) == 9
    for sample in samples.values():
        ids = [*sample.prompt_ids, *sample.response.ids]
        assert_same_choices(sample.response.routing, chosen_in_one_pass(models[0], ids))


def test_recording_changes_no_token_and_no_log_prob(
    make_engine: MakeEngine, make_work: MakeWork, finish: Finish
) -> None:
    works = [make_work(index, num_samples=2, max_new_tokens=9) for index in range(2)]
    recorded = generate(make_engine(records_routing=True), finish, *works)
    plain = generate(make_engine(), finish, *works)
    for sample_id, sample in plain.items():
        assert sample.response.routing is None
        assert (sample.response.ids, sample.response.logprobs) == (
            recorded[sample_id].response.ids,
            recorded[sample_id].response.logprobs,
        )


def test_forked_samples_share_the_record_of_their_prompt(make_engine: MakeEngine) -> None:
    engine = make_engine(records_routing=True)
    starts = tuple(SequenceStart(key=number, seed=number) for number in (1, 2, 3))
    engine.admit(
        PromptStart(
            group=1,
            prompt_ids=LONG_PROMPT,
            draw=DrawRules(temperature=1.0),
            end=EndRules(max_new_tokens=9),
            sequences=starts[:2],
        )
    )
    first = engine.step().routing
    assert first is not None and len(first) == 2
    assert first[0] is first[1]
    assert first[0].experts.shape == (50, NANO.num_hidden_layers, NANO.num_experts_per_tok)
    engine.admit(
        PromptStart(
            group=1,
            prompt_ids=LONG_PROMPT,
            draw=DrawRules(temperature=1.0),
            end=EndRules(max_new_tokens=9),
            sequences=starts[2:],
        )
    )
    second = engine.step().routing
    assert second is not None
    assert [len(fed.experts) for fed in second] == [1, 1, 50]
    assert second[2] is first[0]


def test_a_prompt_that_is_prefilled_again_after_a_swap_is_recorded_again(
    make_engine: MakeEngine,
    make_work: MakeWork,
    finish: Finish,
    models: dict[int, HybridModel],
    published: dict[int, PublishedWeights],
) -> None:
    engine = make_engine(max_batch=1, records_routing=True)
    generator = Generator(engine)
    generator.add(make_work(prompt_ids=LONG_PROMPT, num_samples=2, max_new_tokens=4))
    generator.step()
    engine.stage(published[1])
    engine.swap()
    samples = finish(generator)
    late = samples["test-run/g00000000/s001"]
    assert [span.version for span in late.response.spans] == [1]
    assert_same_choices(
        late.response.routing, chosen_in_one_pass(models[1], [*late.prompt_ids, *late.response.ids])
    )
    early = samples["test-run/g00000000/s000"]
    assert early.response.routing is not None
    assert len(early.response.routing.experts) == 50 + 4 - 1
    assert_same_choices(
        RoutingArrays(
            experts=early.response.routing.experts[:50], weights=early.response.routing.weights[:50]
        ),
        chosen_in_one_pass(models[0], [*LONG_PROMPT, 7]),
    )


def test_a_payload_carries_the_record(make_engine: MakeEngine, make_work: MakeWork, finish: Finish) -> None:
    (sample,) = generate(make_engine(records_routing=True), finish, make_work()).values()
    arrays = unpack_payload(build_payload(sample, decode=lambda ids: "", contract="c"))
    assert arrays.routing is not None and sample.response.routing is not None
    assert np.array_equal(arrays.routing.experts, sample.response.routing.experts)
    assert arrays.routing.weights.tobytes() == sample.response.routing.weights.tobytes()


def test_the_memory_plan_leaves_room_for_the_record(published: dict[int, PublishedWeights]) -> None:
    wish = MemoryWish(max_batch=64, max_prompt_tokens=64, max_new_tokens=64, budget_bytes=4_000_000)
    plain, recording = (
        native_engine_factory(
            wish, NativeOptions(dtype="float32", device="cpu", threads=1, records_routing=records)
        )(published[0])
        for records in (False, True)
    )
    assert recording.limits.num_sequences < plain.limits.num_sequences
    num_choices = 128 * NANO.num_hidden_layers * NANO.num_experts_per_tok
    assert routing_bytes(NANO, 128) == 5 * num_choices


def test_a_model_with_more_experts_than_a_byte_names_is_refused() -> None:
    with pytest.raises(ConfigError, match="257 experts and 256 fit"):
        check_recordable(dataclasses.replace(NANO, num_local_experts=257))
    check_recordable(dataclasses.replace(NANO, num_local_experts=256))
