"""The parts of the adapter that need no vLLM: rules to parameters, outputs to tokens, staging, the outbox."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from forklight_core.errors import ConfigError, UnavailableError, WeightsError
from forklight_model.sizes import SIZES
from forklight_rollout.adapters.vllm import VllmOptions, vllm_engine_factory
from forklight_rollout.adapters.vllm.launch import engine_arguments
from forklight_rollout.adapters.vllm.model_folder import make_model_folder, shard_paths
from forklight_rollout.adapters.vllm.outbox import Delta, Outbox
from forklight_rollout.adapters.vllm.requests import read_deltas, read_scores, sampling_values
from forklight_rollout.adapters.vllm.staging import check_successor, check_values
from forklight_rollout.ports import DrawRules, EndRules, FinishReason, PromptStart, SequenceStart
from services.rollout.tests.versions import verify, write_delta
from services.rollout.tests.vllm.publishing import SHARD, nano_model, publish, publish_tensors

OPTIONS = VllmOptions(dtype="float32", num_sequences=4, max_tokens=200)


@dataclass
class Columns:
    """vLLM's FlatLogprobs, as far as it is read."""

    logprobs: list[float]
    start_indices: list[int] = field(default_factory=list)


@dataclass
class Completion:
    token_ids: list[int]
    logprobs: Columns | None
    finish_reason: str | None = None


@dataclass
class RequestOutput:
    outputs: list[Completion]
    prompt_logprobs: Any = None


def delta(key: int, epoch: int = 0, reason: FinishReason | None = None) -> Delta:
    return Delta(key=key, epoch=epoch, ids=(1,), logprobs=(-1.0,), raw_logprobs=(-1.0,), reason=reason)


def test_a_missing_vllm_is_told_with_the_command_that_installs_it() -> None:
    if find_spec("vllm") is not None:
        pytest.skip("vLLM is installed here")
    with pytest.raises(ConfigError, match=r'pip install "forklight-rollout\[vllm\]" \(vllm==0\.25\.1'):
        vllm_engine_factory(OPTIONS)


@pytest.mark.parametrize("wrong", [{"num_sequences": 0}, {"memory_share": 1.5}, {"cache_bytes": -1}])
def test_options_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        replace(OPTIONS, **wrong)


def test_rules_become_parameters() -> None:
    start = SequenceStart(key=3, seed=2**64 - 1, prefix_ids=(4, 5), num_certain=1)
    prompt = PromptStart(
        group=1,
        prompt_ids=(1, 2),
        draw=DrawRules(temperature=0.7, top_p=0.9, top_k=5, min_p=0.1),
        end=EndRules(max_new_tokens=10, stop_ids=frozenset({9, 8}), repetition_tokens=30),
        sequences=(start,),
    )
    values = sampling_values(prompt, start)
    assert (values["max_tokens"], values["stop_token_ids"], values["ignore_eos"]) == (8, [8, 9], True)
    assert values["extra_args"]["forklight"] == {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "seed": -1,
        "repetition_tokens": 30,
        "repetition_probability": 0.99,
        "num_certain": 1,
    }


def test_an_output_is_cut_where_the_weights_changed() -> None:
    numbers = [-1.0, -2.0, 0.0, -3.0, -4.0, 0.0, -5.0, -6.0, 1.0]
    output = RequestOutput([Completion([7, 8, 9], Columns(numbers), "length")])
    first, second = read_deltas(3, output)
    assert (first.ids, first.epoch, first.raw_logprobs, first.reason) == ((7, 8), 0, (-2.0, -4.0), None)
    assert (second.ids, second.epoch, second.logprobs) == ((9,), 1, (-5.0,))
    assert second.reason is FinishReason.LENGTH


def test_an_output_without_our_sampler_is_an_error() -> None:
    with pytest.raises(UnavailableError, match="2 tokens with 2 numbers"):
        list(read_deltas(3, RequestOutput([Completion([7, 8], Columns([-1.0, -1.0]))])))


def test_an_end_that_nobody_asked_for_is_an_error() -> None:
    with pytest.raises(UnavailableError, match="'abort'"):
        list(read_deltas(3, RequestOutput([Completion([], None, "abort")])))


def test_scores_are_the_first_number_of_each_place() -> None:
    columns = Columns([-1.0, -9.0, -2.0], start_indices=[0, 0, 2])
    assert read_scores(RequestOutput([], columns)) == [-1.0, -2.0]


def test_the_outbox_gives_one_version_at_a_time_and_nothing_of_the_closed() -> None:
    outbox = Outbox()
    outbox.open([1, 2])
    for each in (delta(1), delta(2), delta(1, epoch=1), delta(3)):
        outbox.put(each)
    assert outbox.close([2, 5]) == [2]
    assert [(each.key, each.epoch) for each in outbox.take(0)] == [(1, 0)]
    assert [(each.key, each.epoch) for each in outbox.take(0)] == [(1, 1)]
    assert outbox.take(0) == []


def test_a_sequence_that_got_its_reason_is_closed() -> None:
    outbox = Outbox()
    outbox.open([1])
    outbox.put(delta(1, reason=FinishReason.STOP))
    assert outbox.is_awaited
    outbox.take(0)
    assert not outbox.is_awaited
    assert outbox.close([1]) == []


def test_taking_waits_for_what_comes() -> None:
    outbox = Outbox()
    outbox.open([1])
    sender = threading.Thread(target=outbox.put, args=(delta(1),))
    sender.start()
    assert len(outbox.take(30.0)) == 1
    sender.join()


def test_a_failure_is_told_after_what_came_before_it() -> None:
    outbox = Outbox()
    outbox.open([1])
    outbox.put(delta(1))
    outbox.fail(RuntimeError("no more memory"))
    outbox.fail(RuntimeError("and this followed"))
    assert len(outbox.take(0)) == 1
    with pytest.raises(UnavailableError, match="vLLM's engine died: RuntimeError: no more memory"):
        outbox.take(0)


def test_a_model_folder_holds_the_configuration_and_the_shards(tmp_path: Path) -> None:
    weights = publish(tmp_path, nano_model(0), 4)
    with make_model_folder(weights) as name:
        assert {path.name for path in Path(name).iterdir()} == {"config.json", SHARD}
        assert '"minimax_m1"' in (Path(name) / "config.json").read_text()
        arguments = engine_arguments(Path(name), OPTIONS, max_model_tokens=201, device="cpu")
    assert arguments["enforce_eager"]
    assert arguments["max_model_len"] == 201
    assert (tmp_path / "v00000004" / SHARD).exists()


def test_a_gpu_with_little_room_left_is_no_obstacle_where_the_caches_size_is_given() -> None:
    """vLLM starts only where its share of a GPU is free, even if it is told how much to take."""
    given, shared = (
        engine_arguments(Path("x"), options, max_model_tokens=201, device="cuda")
        for options in (replace(OPTIONS, cache_bytes=2**30), OPTIONS)
    )
    assert (given["kv_cache_memory_bytes"], given["gpu_memory_utilization"] < 0.05) == (2**30, True)
    assert shared["gpu_memory_utilization"] == OPTIONS.memory_share
    assert shared["compilation_config"]["cudagraph_mode"] == "FULL_DECODE_ONLY"


def test_a_successor_has_the_same_names_and_finite_values(tmp_path: Path) -> None:
    config = SIZES["nano"].to_published()
    running = publish_tensors(tmp_path, {"a": torch.ones(2, 3)}, config, 0)
    check_successor(publish_tensors(tmp_path, {"a": torch.zeros(2, 3)}, config, 1), running)
    for number, (tensors, why) in enumerate(
        [
            ({"b": torch.zeros(2, 3)}, "other names or shapes"),
            ({"a": torch.zeros(3, 2)}, "other names or shapes"),
            ({"a": torch.full((2, 3), torch.nan)}, "not finite"),
        ]
    ):
        with pytest.raises(WeightsError, match=why):
            check_successor(publish_tensors(tmp_path, tensors, config, 2 + number), running)
    with pytest.raises(WeightsError, match="another architecture"):
        check_successor(publish_tensors(tmp_path, {"a": torch.ones(2, 3)}, {"x": 1}, 9), running)


def test_a_file_that_is_not_as_promised_is_refused(tmp_path: Path) -> None:
    weights = publish_tensors(tmp_path, {"a": torch.ones(2), "b": torch.ones(2)}, {}, 0)
    path = weights.folder / SHARD
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(WeightsError, match="tensor b is torn"):
        check_values(weights)
    path.unlink()
    with pytest.raises(WeightsError, match="cannot be read"):
        check_values(weights)


def test_a_delta_is_put_together_for_vllm(tmp_path: Path) -> None:
    old = {"a": torch.ones(2, 3), "b": torch.arange(5, dtype=torch.bfloat16)}
    new = {"a": torch.ones(2, 3), "b": torch.arange(5, dtype=torch.bfloat16)}
    new["b"][3] = -0.0
    full = publish_tensors(tmp_path, old, {}, 0)
    delta = verify(write_delta(full, new, old, 1))
    check_successor(delta, full)
    with make_model_folder(delta) as name:
        (path,) = shard_paths(name)
        found = load_file(path)
    assert found.keys() == new.keys()
    for each, tensor in new.items():
        assert torch.equal(found[each].view(torch.uint8), tensor.view(torch.uint8))
    (full.folder / SHARD).write_bytes((full.folder / SHARD).read_bytes()[:-1] + b"!")
    with pytest.raises(WeightsError, match="is torn"):
        check_successor(delta, full)
