"""The engine on `forklight_model`: the trainer's own blocks, paged memory, a device that is never waiting.

    admit --> Feeds (prefill in pieces) --fork--> Rows (decode together) --> Launched --read--> tokens
                ^---- a row that must leave, with its tokens ----'

On a GPU `step` launches the next step before it reads the last one: the device never waits for the host. What
a sequence draws after its end is then dropped.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch

from forklight.v1 import types_pb2
from forklight_core.wire import RoutingArrays
from forklight_model.cache import PAGE_TOKENS
from forklight_model.model import HybridModel
from forklight_rollout.adapters.native.columns import RowLines
from forklight_rollout.adapters.native.feeds import Feeds
from forklight_rollout.adapters.native.pages import PagePool
from forklight_rollout.adapters.native.rows import Rows
from forklight_rollout.adapters.native.runner import Drawn, Launched, Runner, RunnerManner
from forklight_rollout.adapters.native.sequences import Feed, Row, make_row
from forklight_rollout.memory_plan import MemoryPlan
from forklight_rollout.ports import EngineLimits, EngineTraits, FinishReason, PromptStart, StepTokens
from forklight_rollout.weights.manifest import PublishedWeights

REASONS = (None, FinishReason.STOP, FinishReason.REPETITION, FinishReason.LENGTH)
"""By the codes of the end rules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeOptions:
    """How engines of this kind compute."""

    dtype: str
    device: str = "auto"
    threads: int = 0  # 0 lets torch choose
    records_routing: bool = False
    runs_ahead: bool | None = None  # launch a step before the last one is read; None: on a GPU
    num_gpus: int = 1  # that hold the model together, a process each; on a CPU processes
    gpus_deadline_s: float = 120.0  # one that does not answer for so long has failed

    @property
    def number_type(self) -> torch.dtype:
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.dtype]

    def manner_on(self, device: str) -> RunnerManner:
        """On this device. Recorded choices are read after each step, which leaves nothing to overlap."""
        is_free = device == "cuda" and not self.records_routing
        return RunnerManner(
            uses_graphs=is_free,
            runs_ahead=is_free if self.runs_ahead is None else self.runs_ahead and not self.records_routing,
            records_routing=self.records_routing,
        )


MakeRunner = Callable[[HybridModel, MemoryPlan, RunnerManner], Runner]


@dataclass(frozen=True, slots=True, kw_only=True)
class _UnderWay:
    """A step whose numbers have not been read."""

    version: int
    rows: list[Row]
    launched: Launched
    routing: list[RoutingArrays] | None


class NativeEngine:
    """See `ports.Engine`."""

    def __init__(
        self,
        model: HybridModel,
        plan: MemoryPlan,
        options: NativeOptions,
        *,
        version: int,
        make_runner: MakeRunner = Runner,
    ) -> None:
        self._model, self._version = model, version
        self._limits = EngineLimits(
            num_sequences=plan.num_sequences,
            max_tokens=plan.max_tokens,
            vocabulary_size=model.config.vocab_size,
        )
        self._manner = options.manner_on(model.lm_head.weight.device.type)
        self._runner = make_runner(model, plan, self._manner)
        self._numeric_mode = types_pb2.NumericMode(**asdict(self._runner.numeric_mode))
        self._pool = PagePool(plan.num_pages, PAGE_TOKENS)
        self._rows = Rows(self._runner, self._pool, plan.num_sequences)
        self._feeds = Feeds(
            self._runner, self._pool, first_slot=plan.num_sequences, reserve=plan.num_reserved_pages
        )
        self._under_way: deque[_UnderWay] = deque()
        self._read: deque[StepTokens] = deque()
        self._model_s = 0.0
        self.num_preempted = 0

    @property
    def limits(self) -> EngineLimits:
        return self._limits

    @property
    def traits(self) -> EngineTraits:
        return EngineTraits(
            exact_kernels=("lightning", "softmax", "moe", "head"),
            is_batch_invariant=self._numeric_mode.is_parity,
        )

    @property
    def version(self) -> int:
        return self._version

    @property
    def numeric_mode(self) -> types_pb2.NumericMode:
        return self._numeric_mode

    @property
    def model_s(self) -> float:
        return self._model_s

    def admit(self, prompt: PromptStart) -> None:
        num_tokens = len(prompt.prompt_ids) + prompt.end.max_new_tokens
        if not prompt.prompt_ids or num_tokens > self._limits.max_tokens:
            raise AssertionError(
                f"{len(prompt.prompt_ids)} prompt tokens and up to {prompt.end.max_new_tokens} new ones were "
                f"admitted; a sequence has 1 to {self._limits.max_tokens}"
            )
        self._feeds.admit(
            prompt.group, prompt.prompt_ids, [make_row(prompt, start) for start in prompt.sequences]
        )

    @torch.inference_mode()
    def step(self) -> StepTokens:
        has_launched = self._launch()
        while len(self._under_way) > (int(self._manner.runs_ahead and has_launched)):
            self._read.append(self._read_oldest())
        return self._read.popleft() if self._read else _no_tokens(self._version)

    @torch.inference_mode()
    def retire(self, keys: Sequence[int]) -> None:
        for key in keys:
            row = self._rows.find(key)
            if row is None:
                self._feeds.forget(key)
            else:
                self._remove(row)

    @torch.inference_mode()
    def score(self, ids: Sequence[int]) -> Sequence[float]:
        return self._runner.score(ids)

    def stage(self, weights: PublishedWeights) -> None:
        self._runner.stage(weights)

    def swap(self) -> None:
        """In stream order: steps under way end with the old weights, and recorded graphs stay valid."""
        self._version = self._runner.swap()
        self._feeds.invalidate()

    def close(self) -> None:
        """End the processes that share the work, if there are any. The engine is not used again."""
        self._runner.close()

    def _launch(self) -> bool:
        """Send the next step on its way; False when there was nothing to do."""
        rows: list[Row] = []
        drawn: list[Drawn] = []
        routing: list[RoutingArrays] = []
        if self._rows.running:
            self._make_room()
        started = time.perf_counter()
        if self._rows.running:
            rows += self._rows.running
            is_filtered = any(row.draw.is_filtered for row in rows)
            tokens, reasons_B, choices = self._runner.decode(len(rows), is_filtered=is_filtered)
            drawn.append((tokens, reasons_B))
            routing += choices
            self._rows.advance()
        has_fed = self._feeds.advance()
        for feed in self._feeds.ready():
            choices = feed.choices  # starting may be the last that is heard of the feed
            added = self._start(feed, drawn)
            rows += added
            routing += choices * len(added)
        if rows or has_fed:
            self._under_way.append(
                _UnderWay(
                    version=self._version,
                    rows=rows,
                    launched=Launched(drawn),
                    routing=routing if self._manner.records_routing else None,
                )
            )
        self._model_s += time.perf_counter() - started
        return bool(rows or has_fed)

    def _start(self, feed: Feed, drawn: list[Drawn]) -> list[Row]:
        """Give a feed's sequences rows as far as there are any."""
        number = min(len(feed.waiting), self._rows.num_free)
        if feed.group is not None and len(feed.ids) % PAGE_TOKENS:
            number = min(number, self._pool.num_free)  # each copies the prompt's last page
        if number == 0:
            return []
        added = feed.waiting[:number]
        place = self._rows.adopt(feed) if feed.group is None else self._rows.fork(feed, added)
        is_filtered = any(row.draw.is_filtered for row in added)
        drawn.append(self._runner.start(feed.slot, place, RowLines.of(added), is_filtered=is_filtered))
        if feed.group is None:
            self._feeds.drop(feed)
        else:
            self._feeds.started(feed, number)
        return added

    def _read_oldest(self) -> StepTokens:
        """Wait for a step's numbers; rows that ended leave."""
        step = self._under_way.popleft()
        started = time.perf_counter()
        self._runner.wait(step.launched)
        drawn = step.launched.read()
        self._model_s += time.perf_counter() - started
        wanted = [place for place, row in enumerate(step.rows) if row.is_open]
        for place in wanted:
            row = step.rows[place]
            row.ids.append(drawn.ids[place])
            if drawn.reasons[place]:
                row.length = row.position - 1  # its last token is never fed
                self._remove(row)
        return StepTokens(
            version=step.version,
            keys=[step.rows[place].key for place in wanted],
            ids=[drawn.ids[place] for place in wanted],
            logprobs=[drawn.logprobs[place] for place in wanted],
            raw_logprobs=[drawn.raw_logprobs[place] for place in wanted],
            reasons=[REASONS[drawn.reasons[place]] for place in wanted],
            routing=None if step.routing is None else [step.routing[place] for place in wanted],
        )

    def _remove(self, row: Row) -> None:
        row.is_open = False
        place = self._rows.place_of(row)
        if place is None:
            raise AssertionError(f"sequence {row.key} runs, but has no row")
        if row.is_turn and not self._manner.records_routing:
            self._feeds.keep(row, place)
        self._rows.remove(row)

    def _make_room(self) -> None:
        """A page for every row that needs one: from what is only kept, at last from the youngest row."""
        is_settled = False
        while not self._feeds.reclaim(self._rows.num_pages_wanted):
            if is_settled:
                self._preempt(max(self._rows.running, key=lambda row: row.key))
            while self._under_way:
                self._read.append(self._read_oldest())
            is_settled = True
        self._rows.grow()

    def _preempt(self, row: Row) -> None:
        """Take a row out; what it has is prefilled again later. Nothing of it is under way."""
        place = self._rows.place_of(row)
        if place is None:
            raise AssertionError(f"sequence {row.key} runs, but has no row")
        row.num_certain = self._runner.read_num_certain(place)
        self._rows.remove(row)
        self._feeds.put_back(row)
        self.num_preempted += 1


def _no_tokens(version: int) -> StepTokens:
    return StepTokens(version=version, keys=(), ids=(), logprobs=(), raw_logprobs=(), reasons=())
