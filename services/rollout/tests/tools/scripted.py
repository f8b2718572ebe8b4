"""An engine that writes given texts, one a turn, and a tool in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from forklight_core.errors import UnavailableError
from forklight_model.tokenizer import build_character_tokenizer
from forklight_rollout.adapters.memory import MemoryEngine, MemorySequence
from forklight_rollout.generation.generator import Generator
from forklight_rollout.generation.groups import FinishedSample, GroupWork, SampleStart
from forklight_rollout.ports import DrawRules, EndRules, EngineLimits, PromptStart, StepTokens
from forklight_rollout.tools.encoding import make_encoder
from forklight_rollout.tools.format import REPLY_CLOSE
from forklight_rollout.tools.ports import Arguments, ToolCall, ToolOutcome, ToolReply, ToolRules

TOKENIZER = build_character_tokenizer()
EOS = TOKENIZER.token_id("<eos>")
LIMITS = EngineLimits(num_sequences=4, max_tokens=4000, vocabulary_size=TOKENIZER.vocab_size)
RULES = ToolRules(names=("python",), max_calls=3, max_output_tokens=200, timeout_s=2.0)
REPLY_TAIL = TOKENIZER.encode(REPLY_CLOSE)
ENCODER = make_encoder(TOKENIZER, TOKENIZER.vocab_size)


def call_of(code: str) -> str:
    """What a model writes to run a program."""
    return f"<tool_call>{json.dumps({'name': 'python', 'arguments': {'code': code}})}</tool_call>"


class TextEngine(MemoryEngine):
    """Writes `turns[0]`, after a reply `turns[1]`, and so on; each token has a probability of its own.

    `num_ahead` tokens more come in the same step: an engine may have drawn on before it hears of a stop.
    """

    def __init__(self, turns: Sequence[str], *, num_ahead: int = 0, limits: EngineLimits = LIMITS) -> None:
        super().__init__(limits)
        self.turns = [TOKENIZER.encode(turn) for turn in turns]
        self.num_ahead = num_ahead
        self.admitted: list[tuple[int, ...]] = []
        self.turn_marks: list[bool] = []
        self._responses: dict[int, list[int]] = {}

    def admit(self, prompt: PromptStart) -> None:
        super().admit(prompt)
        for start in prompt.sequences:
            assert len(start.prefix_ids) < prompt.end.max_new_tokens, "nothing is left to draw"
            self.admitted.append(start.prefix_ids)
            self.turn_marks.append(start.is_turn)
            self._responses[id(self._sequences[start.key])] = list(start.prefix_ids)

    def step(self) -> StepTokens:
        parts = [MemoryEngine.step(self) for _ in range(1 + self.num_ahead)]
        if len(parts) == 1:
            return parts[0]
        names = ("keys", "ids", "logprobs", "raw_logprobs", "reasons")
        return replace(
            parts[0], **{name: [x for part in parts for x in getattr(part, name)] for name in names}
        )

    def draw(self, sequence: MemorySequence) -> tuple[int, float]:
        response = self._responses[id(sequence)]
        turn, start = 0, 0
        for place in range(len(response) - len(REPLY_TAIL) + 1):
            if response[place : place + len(REPLY_TAIL)] == REPLY_TAIL:
                turn, start = turn + 1, place + len(REPLY_TAIL)
        text, place = self.turns[min(turn, len(self.turns) - 1)], len(response) - start
        token = text[place] if place < len(text) else EOS
        response.append(token)
        return token, -0.25 * (1 + len(response) % 3)


@dataclass
class FakeTool:
    """Port Tool: says what `reply` says; can be away, slow, or broken."""

    reply: Callable[[Arguments], str] = lambda arguments: f"ran {arguments['code']}"
    num_away: int = 0
    """So many tries find nobody."""
    error: Exception | None = None
    gate: asyncio.Event | None = None
    """A try waits for it."""
    tries: list[str] = field(default_factory=list)
    num_now: int = 0
    most_at_once: int = 0

    async def run(self, arguments: Arguments, call: ToolCall) -> ToolReply:
        self.tries.append(call.sample_id)
        self.num_now += 1
        self.most_at_once = max(self.most_at_once, self.num_now)
        try:
            await asyncio.sleep(0)
            if self.gate is not None:
                await self.gate.wait()
            if self.error is not None:
                raise self.error
            if len(self.tries) <= self.num_away:
                raise UnavailableError("no sandbox answers")
            return ToolReply(text=self.reply(arguments), outcome=ToolOutcome.OK)
        finally:
            self.num_now -= 1


def tool_work(
    index: int = 0,
    *,
    num_samples: int = 1,
    max_new_tokens: int = 2000,
    stop_strings: tuple[str, ...] = (),
    tools: ToolRules | None = RULES,
) -> GroupWork:
    """Samples that may call."""
    group_id = f"test-run/g{index:08d}"
    return GroupWork(
        group_id=group_id,
        prompt_ids=(1, 20, 30, 2),
        draw=DrawRules(temperature=1.0),
        end=EndRules(max_new_tokens=max_new_tokens, stop_ids=frozenset({EOS})),
        samples=tuple(
            SampleStart(sample_id=f"{group_id}/s{number:03d}", seed=number) for number in range(num_samples)
        ),
        stop_strings=stop_strings,
        tools=tools,
    )


def run_until_idle(generator: Generator) -> tuple[list[FinishedSample], list[ToolCall]]:
    """Step while there is anything to do; what ended and what calls."""
    finished: list[FinishedSample] = []
    calls: list[ToolCall] = []
    for _ in range(20_000):
        if generator.is_idle:
            return finished, calls
        finished += generator.step()
        calls += generator.take_calls()
    raise AssertionError("the generator did not come to rest")


def run_with_replies(
    generator: Generator, reply: Callable[[ToolCall], Sequence[int]]
) -> dict[str, FinishedSample]:
    """To the end, every call answered."""
    finished: dict[str, FinishedSample] = {}
    for _ in range(100):
        ended, calls = run_until_idle(generator)
        finished |= {sample.sample_id: sample for sample in ended}
        if not calls:
            return finished
        for call in calls:
            assert generator.resume(call.key, reply(call))
    raise AssertionError("it never stops calling")
