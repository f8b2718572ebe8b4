"""A runner that tells its followers what it does: they do the same, at the same place of the same order.

Commands gather until one that all processes compute together (prefill, decode, score, a check); then they
leave in one frame, before this process begins with it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from forklight_core.wire import RoutingArrays
from forklight_kernels import SampledTokens
from forklight_model.model import HybridModel
from forklight_model.same_weights import weights_digest
from forklight_rollout.adapters.native.columns import RowLines
from forklight_rollout.adapters.native.ranks.agreement import agree_on_mode, require_same_digest
from forklight_rollout.adapters.native.ranks.checks import Checks
from forklight_rollout.adapters.native.ranks.commands import (
    Command,
    CommandBuffer,
    flatten_lines,
    flatten_pieces,
)
from forklight_rollout.adapters.native.ranks.followers import Followers
from forklight_rollout.adapters.native.ranks.messages import Answer, Build, Forget, Keep, Load
from forklight_rollout.adapters.native.runner import Drawn, Launched, Runner, RunnerManner
from forklight_rollout.memory_plan import MemoryPlan
from forklight_rollout.weights.manifest import PublishedWeights

LOAD_DEADLINE_S = 3600.0
BUILD_DEADLINE_S = 1800.0
CHECK_EVERY = 64
"""Frames, about as many steps."""
WAIT_S = 5e-5


class LeadingRunner(Runner):
    """Process 0 of several."""

    def __init__(
        self, followers: Followers, model: HybridModel, plan: MemoryPlan, manner: RunnerManner
    ) -> None:
        self._followers, self._commands, self._checks = followers, CommandBuffer(), Checks(followers)
        self._num_frames = 0
        self._staging, self._keeping = threading.Lock(), threading.Lock()
        followers.tell(Build(plan=plan, uses_graphs=manner.uses_graphs, runs_ahead=manner.runs_ahead))
        with self._explaining():
            super().__init__(model, plan, manner)
        answers = followers.hear(BUILD_DEADLINE_S)
        followers.is_following, followers.release = True, super().close
        self.numeric_mode = agree_on_mode([self.numeric_mode, *(each.mode for each in answers if each.mode)])

    def feed(
        self, slots: Sequence[int], pieces: Sequence[Sequence[int]], seen: Sequence[int]
    ) -> list[RoutingArrays]:
        lengths, ids = flatten_pieces(pieces)
        with self._together(Command.FEED, slots, lengths, ids, seen):
            return super().feed(slots, pieces, seen)

    def start(self, slot: int, first: int, lines: RowLines, *, is_filtered: bool) -> Drawn:
        self._commands.add(Command.START, slot, first, int(is_filtered), *flatten_lines(lines))
        return super().start(slot, first, lines, is_filtered=is_filtered)

    def decode(
        self, num_rows: int, *, is_filtered: bool
    ) -> tuple[SampledTokens, Tensor, list[RoutingArrays]]:
        with self._together(Command.DECODE, num_rows, int(is_filtered)):
            return super().decode(num_rows, is_filtered=is_filtered)

    def score(self, ids: Sequence[int]) -> list[float]:
        with self._together(Command.SCORE, ids):
            return super().score(ids)

    def copy_logits(self, source: int, target: int) -> None:
        self._commands.add(Command.COPY_LOGITS, source, target)
        super().copy_logits(source, target)

    def forget_logits(self, slot: int) -> None:
        self._commands.add(Command.FORGET_LOGITS, slot)
        super().forget_logits(slot)

    def write_table(self, slots: Sequence[int], columns: Sequence[int], pages: Sequence[int]) -> None:
        self._commands.add(Command.WRITE_TABLE, slots, columns, pages)
        super().write_table(slots, columns, pages)

    def clear_table(self, slots: Sequence[int]) -> None:
        self._commands.add(Command.CLEAR_TABLE, slots)
        super().clear_table(slots)

    def copy_pages(self, from_pages: Sequence[int], to_pages: Sequence[int]) -> None:
        self._commands.add(Command.COPY_PAGES, from_pages, to_pages)
        super().copy_pages(from_pages, to_pages)

    def copy_slot(self, from_slot: int, to_slots: Sequence[int]) -> None:
        self._commands.add(Command.COPY_SLOT, from_slot, to_slots)
        super().copy_slot(from_slot, to_slots)

    def reset(self, slots: Sequence[int]) -> None:
        self._commands.add(Command.RESET, slots)
        super().reset(slots)

    def set_length(self, slot: int, length: int) -> None:
        self._commands.add(Command.SET_LENGTH, slot, length)
        super().set_length(slot, length)

    def move_row(self, source: int, target: int) -> None:
        self._commands.add(Command.MOVE_ROW, source, target)
        super().move_row(source, target)

    def clear_row(self, row: int) -> None:
        self._commands.add(Command.CLEAR_ROW, row)
        super().clear_row(row)

    def stage(self, weights: PublishedWeights) -> None:
        """Every process its part; staged in all of them or in none."""
        with self._staging:
            try:
                dtype = self.model.lm_head.weight.dtype
                load_parts(self._followers, weights, dtype, lambda: self.staged.load(weights))
            except BaseException:
                self._tell_all(Forget())
                self.staged.forget()
                raise
            with self._keeping:
                self._tell_all(Keep())
                self.staged.keep()

    def swap(self) -> int:
        """Returns when all have done it, so that what is staged next cannot overtake it."""
        with self._keeping:
            version = super().swap()
            self._commands.add(Command.SWAP, version)
            self._begin_check()
            self._send()
            self._checks.wait()
            return version

    def wait(self, launched: Launched | None = None) -> None:
        """Looks after the followers meanwhile: without one of them the device would never come to the end."""
        if self.cache.device.type != "cuda":
            return
        arrived = launched.arrived if launched is not None else _now()
        end = time.monotonic() + self._followers.wish.deadline_s
        while arrived is not None and not arrived.query():  # type: ignore[no-untyped-call]
            self._followers.require_sound()
            if time.monotonic() > end:
                self._followers.fail("the GPUs wait for each other")
            time.sleep(WAIT_S)

    def close(self) -> None:
        self._followers.close()

    @contextmanager
    def _together(self, command: Command, *arguments: int | Sequence[int]) -> Iterator[None]:
        """Tell all that they begin with this now."""
        if self._num_frames % CHECK_EVERY == 0:
            self._begin_check()
        self._num_frames += 1
        self._commands.add(command, *arguments)
        self._send()
        self._checks.collect()
        with self._explaining():
            yield

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """A message that breaks off is a RuntimeError of torch; say whose fault it is."""
        started = time.monotonic()
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise self._followers.explained(error, time.monotonic() - started) from error

    def _begin_check(self) -> None:
        """At this place of the order of commands."""
        self._commands.add(Command.CHECK, self._checks.begin(self.columns.digest()))

    def _send(self) -> None:
        self._followers.send(self._commands.take())

    def _tell_all(self, task: Keep | Forget) -> None:
        """Something that takes no time."""
        self._followers.tell(task)
        self._followers.hear(self._followers.wish.deadline_s)


def load_parts(
    followers: Followers, weights: PublishedWeights, dtype: torch.dtype, load: Callable[[], HybridModel]
) -> tuple[HybridModel, list[Answer]]:
    """This process loads its part while the others load theirs; WeightsError unless all have one version."""
    followers.tell(Load(weights=weights, dtype=str(dtype).removeprefix("torch.")))
    try:
        model = load()
        digest = weights_digest(model)
    finally:
        answers = followers.hear(LOAD_DEADLINE_S)
    require_same_digest(weights, digest, answers)
    return model, answers


def _now() -> torch.cuda.Event:
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event
