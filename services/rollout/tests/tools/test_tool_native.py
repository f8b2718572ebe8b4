"""The real engine behind calls: a response goes on as if its tokens had been there from the beginning."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from forklight_core.wire import unpack_payload
from forklight_model.logprobs import token_logprobs
from forklight_model.model import HybridModel
from forklight_model.routing import Routing
from forklight_rollout.adapters.native import NativeEngine
from forklight_rollout.generation.draft import Draft
from forklight_rollout.generation.generator import Generator
from forklight_rollout.generation.groups import FinishedSample, GroupWork
from forklight_rollout.leases.trajectory import build_payload
from forklight_rollout.ports import FinishReason
from forklight_rollout.tools.format import CALL_CLOSE, CALL_OPEN
from forklight_rollout.tools.ports import ToolRules
from services.rollout.tests.tools.scripted import run_with_replies

MakeEngine = Callable[..., NativeEngine]
MakeWork = Callable[..., GroupWork]
RULES = ToolRules(names=("python",), max_calls=9, max_output_tokens=64, timeout_s=1.0)
REPLY = [40 + index % 9 for index in range(11)]


def with_tools(work: GroupWork) -> GroupWork:
    return replace(work, tools=RULES)


def generate(
    engine: NativeEngine, work: GroupWork, markers: dict[int, str], reply: Sequence[int] = REPLY
) -> list[FinishedSample]:
    """To the end; some tokens mean markers, and every call gets the same reply."""
    generator = Generator(engine, decode=lambda ids: "".join(markers.get(token, ".") for token in ids))
    generator.add(work)
    return list(run_with_replies(generator, lambda call: reply).values())


def markers_of(engine: NativeEngine, work: GroupWork) -> dict[int, str]:
    """Let two tokens that the first sample draws be the markers of a call."""
    ids = generate(engine, work, {})[0].response.ids.tolist()
    opening = ids[2]
    closing = next(token for token in ids[3:] if token != opening)
    return {opening: CALL_OPEN, closing: CALL_CLOSE}


@pytest.mark.parametrize("records_routing", [False, True])
def test_log_probs_and_choices_behind_a_reply_are_those_of_one_pass(
    make_engine: MakeEngine, make_work: MakeWork, models: dict[int, HybridModel], records_routing: bool
) -> None:
    engine = make_engine(records_routing=records_routing)
    work = make_work(num_samples=3, max_new_tokens=60)
    samples = generate(engine, with_tools(work), markers_of(engine, work))
    assert sum(0 in sample.response.drawn for sample in samples) >= 1
    for sample in samples:
        arrays = unpack_payload(build_payload(sample, decode=lambda ids: "", contract="c"))
        ids = torch.tensor([*sample.prompt_ids, *arrays.response_ids.tolist()])
        routing, ends = Routing(), torch.tensor([0, len(ids)], dtype=torch.int32)
        with torch.no_grad():
            scored = token_logprobs(models[0], ids, ends, 1.0, routing).logprobs_T[len(sample.prompt_ids) :]
        drawn = np.frombuffer(sample.response.drawn, dtype=np.uint8) == 1
        assert np.abs(scored.numpy() - arrays.logprobs)[drawn].max() < 1e-4
        assert not arrays.logprobs[~drawn].any()
        if records_routing:
            expected = routing.recorded.experts_LTK[:, :-1].transpose(0, 1).to(torch.uint8).numpy()
            assert arrays.routing is not None and np.array_equal(arrays.routing.experts, expected)


@pytest.mark.parametrize("records_routing", [False, True])
def test_a_reply_that_fills_the_window_ends_a_sample_with_a_sound_payload(
    make_engine: MakeEngine, make_work: MakeWork, records_routing: bool
) -> None:
    engine = make_engine(records_routing=records_routing)
    work = make_work(max_new_tokens=60)
    (sample,) = generate(engine, with_tools(work), markers_of(engine, work), reply=[41] * 100)
    assert sample.reason is FinishReason.LENGTH
    arrays = unpack_payload(build_payload(sample, decode=lambda ids: "", contract="c"))
    # With routing, what the model never read has no choices and cannot stay.
    assert len(arrays.response_ids) == 60 if not records_routing else sample.response.drawn[-1] == 1
    assert (arrays.routing is not None) == records_routing


def test_tokens_put_in_last_are_forgotten_where_each_needs_its_choices() -> None:
    draft = Draft()
    draft.add(1, -math.inf, -1.0, 0)
    draft.put_in([2, 3], 0)
    draft.drop_unread(5)
    assert draft.ids.tolist() == [1, 2, 3], "without routing nothing is missing"
