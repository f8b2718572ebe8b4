"""The engine on transformers: rows decoded together over a `RowCache`, our sampler and our end rules.

    admit --> waiting --prefill, once a group--> rows --decode, draw--> tokens

Each step decodes every row, then prefills what waits as far as there are rows; all is read at the step's end.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from forklight.v1 import types_pb2
from forklight_core.errors import WeightsError
from forklight_kernels import SampledTokens
from forklight_model.hf.generation import decode, open_rows, prefill
from forklight_model.hf.numerics import hf_numeric_mode
from forklight_model.hf.policy import HfPolicy
from forklight_model.logprobs import token_logprobs
from forklight_rollout.adapters.hf.weights import load_hf_weights
from forklight_rollout.adapters.native.columns import RowColumns, RowLines
from forklight_rollout.adapters.native.engine import REASONS
from forklight_rollout.adapters.native.sequences import Row, make_row
from forklight_rollout.ports import EngineLimits, EngineTraits, PromptStart, StepTokens
from forklight_rollout.weights.manifest import PublishedWeights

ROUND_TOKENS = 4096
"""Tokens prefilled in a step (at least one sequence): how long decoding may wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HfOptions:
    """How engines of this kind compute."""

    dtype: str
    device: str = "auto"
    threads: int = 0  # 0 lets torch choose

    @property
    def number_type(self) -> torch.dtype:
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.dtype]


Drawn = tuple[SampledTokens, Tensor]
"""Tokens, and the code of the reason that each is a last one."""


class HfEngine:
    """See `ports.Engine`."""

    def __init__(self, policy: HfPolicy, limits: EngineLimits, *, version: int) -> None:
        self._policy, self._limits, self._version = policy, limits, version
        self._cache = open_rows(policy, limits.num_sequences, limits.max_tokens)
        self._columns = RowColumns(limits.num_sequences, policy.device)
        self._rows: list[Row] = []
        self._waiting: deque[Row] = deque()
        self._staged: tuple[HfPolicy, int] | None = None
        self._staging = threading.Lock()
        self._model_s = 0.0
        mode = hf_numeric_mode(policy.config, policy.device.type)
        self._numeric_mode = types_pb2.NumericMode(**asdict(mode))

    @property
    def limits(self) -> EngineLimits:
        return self._limits

    @property
    def traits(self) -> EngineTraits:
        return EngineTraits(exact_kernels=("head",), is_batch_invariant=False)

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
        self._waiting.extend(make_row(prompt, start) for start in prompt.sequences)

    @torch.inference_mode()
    def step(self) -> StepTokens:
        started = time.perf_counter()
        drawn = [self._decode()] if self._rows else []
        drawn += self._start(self._choose())
        rows = list(self._rows)
        tokens = self._read(rows, drawn)
        self._model_s += time.perf_counter() - started
        return tokens

    @torch.inference_mode()
    def retire(self, keys: Sequence[int]) -> None:
        gone = set(keys)
        self._waiting = deque(row for row in self._waiting if row.key not in gone)
        for row in [row for row in self._rows if row.key in gone]:
            self._remove(row)

    def score(self, ids: Sequence[int]) -> Sequence[float]:
        device = self._policy.device
        ends = torch.tensor([0, len(ids)], dtype=torch.int32)
        with torch.inference_mode():
            stats = token_logprobs(self._policy, torch.tensor(list(ids), device=device), ends.to(device))
        scores: list[float] = stats.logprobs_T[1:].tolist()
        return scores

    def stage(self, weights: PublishedWeights) -> None:
        with self._staging:
            self._staged = None  # two at once might not fit
        # transformers changes torch's default type while it builds a model: nothing in a step relies on it.
        policy = load_hf_weights(
            weights,
            dtype=self._policy.head_weight.dtype,
            device=self._policy.device,
            expected=self._policy.config,
        )
        with self._staging:
            self._staged = (policy, weights.version)

    def swap(self) -> None:
        with self._staging:
            if self._staged is None:
                raise WeightsError("no weights are staged: call stage first")
            (self._policy, self._version), self._staged = self._staged, None

    def close(self) -> None:
        """Nothing is held outside of this process."""

    def _decode(self) -> Drawn:
        """The next token of every row."""
        rows = slice(0, len(self._rows))
        logits_BV = decode(self._policy, self._cache, self._columns.last_ids_R[rows])
        is_filtered = any(row.draw.is_filtered for row in self._rows)
        return self._columns.draw(logits_BV, rows, is_filtered=is_filtered)

    def _choose(self) -> list[list[Row]]:
        """Who starts now; rows of one group that came together are fed once."""
        chosen: list[list[Row]] = []
        num_free, num_tokens = self._limits.num_sequences - len(self._rows), 0
        while self._waiting and num_free:
            row = self._waiting[0]
            is_alike = bool(chosen) and not row.ids and chosen[-1][0].prompt_ids == row.prompt_ids
            if is_alike and not chosen[-1][0].ids:
                chosen[-1].append(row)
            elif not chosen or num_tokens + row.position <= ROUND_TOKENS:
                chosen.append([row])
                num_tokens += row.position
            else:
                break
            self._waiting.popleft()
            num_free -= 1
        return chosen

    def _start(self, chosen: Sequence[Sequence[Row]]) -> list[Drawn]:
        """Feed them, give them rows, and draw their first tokens."""
        fed = prefill(self._policy, [members[0].all_ids for members in chosen])
        drawn = []
        for members, feed in zip(chosen, fed, strict=True):
            first = self._cache.join(feed.layers, feed.length, len(members))
            rows = slice(first, first + len(members))
            self._columns.write(first, RowLines.of(members))
            logits_MV = feed.logits_V.expand(len(members), -1)
            is_filtered = any(row.draw.is_filtered for row in members)
            drawn.append(self._columns.draw(logits_MV, rows, is_filtered=is_filtered))
            self._rows += members
        return drawn

    def _read(self, rows: Sequence[Row], drawn: Sequence[Drawn]) -> StepTokens:
        """Wait for the numbers; rows that ended leave."""
        columns = [(each.ids_B, each.logprobs_B, each.raw_logprobs_B, codes_B) for each, codes_B in drawn]
        ids, logprobs, raw_logprobs, codes = (
            ([value for column in part for value in column.tolist()] for part in zip(*columns, strict=True))
            if columns
            else ([], [], [], [])
        )
        for row, token in zip(rows, ids, strict=True):
            row.ids.append(token)
        for row, code in zip(rows, codes, strict=True):
            if code:
                self._remove(row)
        return StepTokens(
            version=self._version,
            keys=[row.key for row in rows],
            ids=ids,
            logprobs=logprobs,
            raw_logprobs=raw_logprobs,
            reasons=[REASONS[code] for code in codes],
        )

    def _remove(self, row: Row) -> None:
        """The last row takes its place."""
        place, last = self._rows.index(row), len(self._rows) - 1
        self._cache.leave(place)
        if place != last:
            self._columns.move(last, place)
            self._rows[place] = self._rows[last]
        self._rows.pop()
        self._columns.clear(last)
