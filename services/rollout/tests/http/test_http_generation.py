"""What clients get: the tokens of the queue, whole or streamed, cut at stop strings, with log-probs."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from forklight.v1 import types_pb2
from forklight_rollout.adapters.memory import MemoryEngine
from forklight_rollout.admission import Capability, read_group
from forklight_rollout.generation.generator import Generator
from forklight_rollout.ports import EngineLimits, PromptStart

SEED = 41
QUESTION = "What is 2 + 2?"


def join_stream(chunks: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """What a stream says of each choice, put together."""
    found: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            whole = found.setdefault(
                choice["index"], {"text": "", "logprobs": [], "raw": [], "token_ids": [], "ends": []}
            )
            whole["text"] += choice["text"] if "text" in choice else choice["delta"].get("content", "")
            logprobs = choice["logprobs"] or {}
            whole["logprobs"] += logprobs.get("token_logprobs", logprobs.get("content", []))
            whole["token_ids"] += choice.get("token_ids", [])
            extension = choice.get("forklight", {})
            whole["raw"] += extension.get("raw_logprobs", [])
            if choice["finish_reason"] is not None:
                whole["ends"].append((choice["finish_reason"], extension["seed"], extension["version_spans"]))
    return found


def read_whole(reply: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """The same of an answer that was not streamed."""
    found = {}
    for choice in reply["choices"]:
        logprobs, extension = choice["logprobs"] or {}, choice["forklight"]
        found[choice["index"]] = {
            "text": choice["text"] if "text" in choice else choice["message"]["content"],
            "logprobs": logprobs.get("token_logprobs", logprobs.get("content", [])),
            "raw": extension.get("raw_logprobs", []),
            "token_ids": choice.get("token_ids", []),
            "ends": [(choice["finish_reason"], extension["seed"], extension["version_spans"])],
        }
    return found


@pytest.mark.parametrize("stop", [None, ["a", "q", "+"], ["zz", "Q"]])
@pytest.mark.parametrize("details", [{}, {"logprobs": 0, "return_token_ids": True}])
async def test_a_streamed_completion_is_the_whole_one(
    pod: Any, stop: list[str] | None, details: dict[str, object]
) -> None:
    body = {"prompt": ["1+1=", "abc"], "n": 3, "seed": SEED, "max_tokens": 30, "ignore_eos": True, **details}
    whole = await pod.complete(**body, stop=stop)
    chunks = await pod.stream("completions", **body, stop=stop, stream_options={"include_usage": True})
    assert join_stream(chunks) == read_whole(whole)
    assert [choice["index"] for choice in whole["choices"]] == list(range(6))
    assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], whole["usage"])
    assert {chunk["object"] for chunk in chunks} == {whole["object"]} == {"text_completion"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


async def test_a_streamed_chat_is_the_whole_one(pod: Any) -> None:
    messages = [{"role": "user", "content": QUESTION}]
    body = {"n": 2, "seed": SEED, "logprobs": True, "return_token_ids": True, "max_completion_tokens": 25}
    whole = await pod.chat(QUESTION, **body)
    chunks = await pod.stream("chat/completions", messages=messages, **body)
    assert join_stream(chunks) == read_whole(whole)
    assert whole["object"] == "chat.completion"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert [chunk["choices"][0]["delta"] for chunk in chunks[:2]] == [
        {"role": "assistant", "content": ""}
    ] * 2
    assert chunks[0]["prompt_token_ids"] == whole["prompt_token_ids"]
    assert whole["prompt_token_ids"] == pod.tokenizer.encode_prompt(QUESTION)


async def test_the_engine_remembers_conversations_and_nothing_else(
    pod: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[bool] = []
    admit = pod.engine.admit

    def note(prompt: PromptStart) -> None:
        turns.extend(start.is_turn for start in prompt.sequences)
        admit(prompt)

    monkeypatch.setattr(pod.engine, "admit", note)
    await pod.chat(QUESTION, max_completion_tokens=3)
    await pod.chat(QUESTION, max_completion_tokens=3, n=2)
    await pod.complete(max_tokens=3)
    assert turns == [True, False, False, False]


async def test_samples_have_the_tokens_of_a_group_of_the_queue(pod: Any) -> None:
    sampling = types_pb2.Sampling(num_samples=4, max_new_tokens=20, temperature=1.0, top_p=1.0, seed=SEED)
    envelope = types_pb2.Envelope(group_id="test-run/g00000000")
    task = types_pb2.GenerationTask(envelope=envelope, prompt=QUESTION, sampling=sampling)
    limits = EngineLimits(num_sequences=8, max_tokens=128, vocabulary_size=pod.tokenizer.vocab_size)
    capability = Capability(
        limits=limits, encode=pod.tokenizer.encode_prompt, stop_ids=pod.tokenizer.stop_ids
    )
    generator = Generator(MemoryEngine(limits))
    generator.add(read_group(task, range(4), capability))
    finished = []
    while not generator.is_idle:
        finished += generator.step()
    queue = {sample.sample_id[-3:]: sample.response.ids.tolist() for sample in finished}
    reply = await pod.chat(QUESTION, n=4, seed=SEED, max_tokens=20, return_token_ids=True)
    assert {f"{choice['index']:03d}": choice["token_ids"] for choice in reply["choices"]} == queue
    assert [choice["forklight"]["seed"] for choice in reply["choices"]] == [SEED + i for i in range(4)]
    by_ids = await pod.complete(
        pod.tokenizer.encode_prompt(QUESTION), n=4, seed=SEED, max_tokens=20, return_token_ids=True
    )
    assert [each["token_ids"] for each in by_ids["choices"]] == [
        each["token_ids"] for each in reply["choices"]
    ]


async def test_text_ends_before_a_stop_string_that_tokens_cut_and_ids_keep_it(pod: Any) -> None:
    body = {"seed": SEED, "max_tokens": 60, "ignore_eos": True, "return_token_ids": True}
    text = (await pod.complete(**body))["choices"][0]["text"]
    stop = text[20:24]
    assert text.count(stop) == 1
    (choice,) = (await pod.complete(**body, stop=stop))["choices"]
    assert (choice["text"], choice["finish_reason"]) == (text[:20], "stop")
    assert pod.tokenizer.decode(choice["token_ids"]) == text[:24]
    chunks = await pod.stream("completions", prompt="2+2=", **body, stop=stop)
    told = "".join(chunk["choices"][0]["text"] for chunk in chunks)
    assert told == text[:20]
    # What is only the beginning of a stop string is told when something else follows.
    other = text[20:23] + ("x" if text[23] != "x" else "y")
    (choice,) = (await pod.complete(**body, stop=[other]))["choices"]
    assert (choice["text"], choice["finish_reason"]) == (text, "length")


async def test_a_sample_is_stopped_when_only_its_text_tells_that_it_is_over(
    make_pod: Callable[..., Any],
) -> None:
    async with make_pod() as pod:
        body = {"seed": SEED, "max_tokens": 60, "ignore_eos": True, "return_token_ids": True}
        (whole,) = (await pod.complete(**body))["choices"]
    async with make_pod(is_gated=True, watches_text=False) as pod:
        asked = asyncio.create_task(pod.complete(**body, stop=whole["text"][8:12]))
        pod.engine.allow(20)
        (choice,) = (await asked)["choices"]
        assert (choice["text"], choice["finish_reason"]) == (whole["text"][:8], "stop")
        assert choice["token_ids"] == whole["token_ids"][: len(choice["token_ids"])]
        assert len(choice["token_ids"]) < 20
        await pod.eventually(lambda: pod.engine.num_held == 0)


async def test_logprobs_are_those_of_the_tokens_and_their_texts_make_the_text(pod: Any) -> None:
    (choice,) = (await pod.complete(seed=SEED, max_tokens=40, logprobs=0, return_token_ids=True))["choices"]
    logprobs, ids = choice["logprobs"], choice["token_ids"]
    expected = -math.log(pod.tokenizer.vocab_size)
    assert logprobs["token_logprobs"] == pytest.approx([expected] * len(ids))
    assert choice["forklight"]["raw_logprobs"] == logprobs["token_logprobs"]
    assert "".join(logprobs["tokens"]) == choice["text"]
    assert logprobs["text_offset"] == [len("".join(logprobs["tokens"][:place])) for place in range(len(ids))]
    (choice,) = (await pod.chat(seed=SEED, max_tokens=40, logprobs=True, top_logprobs=0))["choices"]
    content = choice["logprobs"]["content"]
    assert bytes(byte for each in content for byte in each["bytes"]).decode() == choice["message"]["content"]
    assert all(each["top_logprobs"] == [] for each in content)


async def test_stop_ids_end_a_sample_and_are_no_text(pod: Any) -> None:
    (eos,) = pod.tokenizer.stop_ids
    body = {"seed": SEED, "max_tokens": 60, "return_token_ids": True}
    (choice,) = (await pod.complete(**body))["choices"]
    assert (choice["finish_reason"], choice["token_ids"][-1]) == ("stop", eos)
    assert choice["text"] == pod.tokenizer.decode(choice["token_ids"])
    (choice,) = (await pod.complete(**body, ignore_eos=True))["choices"]
    assert (choice["finish_reason"], len(choice["token_ids"])) == ("length", 60)
    letter = choice["token_ids"][5]
    before = choice["token_ids"][: choice["token_ids"].index(letter)]
    (choice,) = (await pod.complete(**body, ignore_eos=True, stop_token_ids=[letter]))["choices"]
    assert (choice["finish_reason"], choice["token_ids"][-1]) == ("stop", letter)
    assert pod.tokenizer.decode(choice["token_ids"][:-1]) == choice["text"]
    assert letter not in before


async def test_repetition_ends_a_sample_when_asked_for(pod: Any) -> None:
    rules = {"repetition_tokens": 3, "repetition_probability": 0.001}
    reply = await pod.complete(seed=SEED, max_tokens=60, ignore_eos=True, **rules)
    assert reply["choices"][0]["finish_reason"] == "repetition"
    assert reply["usage"] == {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7}


async def test_without_max_tokens_a_sample_may_fill_the_window(make_pod: Callable[..., Any]) -> None:
    async with make_pod(max_tokens=50) as pod:
        assert (await pod.complete(ignore_eos=True))["usage"]["completion_tokens"] == 46
    async with make_pod(max_tokens=50, max_new_tokens=7) as pod:
        assert (await pod.complete(ignore_eos=True))["usage"]["completion_tokens"] == 7
        reply = await pod.post("completions", prompt="a", max_tokens=8)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "max_tokens")


async def test_tokens_say_which_policy_versions_drew_them(make_pod: Callable[..., Any]) -> None:
    class Version:
        version = 7

    def swap(generator: Generator) -> None:
        generator.engine.stage(Version())  # type: ignore[arg-type]
        generator.engine.swap()

    async with make_pod(is_gated=True) as pod:
        asked = asyncio.create_task(pod.complete(max_tokens=5, ignore_eos=True))
        pod.engine.allow(2)
        await pod.eventually(lambda: pod.thread.reading.num_tokens == 2)
        await pod.thread.call(swap)
        pod.engine.allow(3)
        (choice,) = (await asked)["choices"]
    assert choice["forklight"]["version_spans"] == [{"start": 0, "version": 0}, {"start": 2, "version": 7}]


async def test_a_stream_tells_tokens_as_they_come(make_pod: Callable[..., Any]) -> None:
    async with make_pod(is_gated=True) as pod:
        body = {"prompt": "a", "max_tokens": 3, "ignore_eos": True, "return_token_ids": True, "stream": True}
        async with pod.client.stream("POST", "/v1/completions", json=body) as reply:
            lines = (line async for line in reply.aiter_lines() if '"token_ids"' in line)
            for number in range(1, 4):
                pod.engine.allow(1)
                choice = json.loads((await anext(lines)).removeprefix("data: "))["choices"][0]
                assert (len(choice["token_ids"]), pod.thread.reading.num_tokens) == (1, number)
            assert choice["finish_reason"] == "length"


async def test_fifty_requests_at_once_get_each_its_own_tokens(pod: Any) -> None:
    async def ask(number: int) -> list[int]:
        reply = await pod.complete(f"{number}+1=", seed=number, max_tokens=20, return_token_ids=True)
        ids: list[int] = reply["choices"][0]["token_ids"]
        return ids

    together = await asyncio.gather(*(ask(number) for number in range(50)))
    assert together == [await ask(number) for number in range(50)]
    assert len({tuple(ids) for ids in together}) > 40
    assert pod.service.num_requests == 0
