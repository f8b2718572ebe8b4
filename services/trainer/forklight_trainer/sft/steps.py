"""The steps of a cold start over an engine: learn, measure, save, until the last one or a stop."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from forklight_core.errors import PreconditionError
from forklight_core.runfile.schema import SftSection
from forklight_trainer.batches.batch import Int64Array
from forklight_trainer.batches.packing import Pack
from forklight_trainer.loss.objective import LikelihoodObjective
from forklight_trainer.ports import TrainEngine
from forklight_trainer.sft.data import StageData
from forklight_trainer.sft.events import SftProgress, StageSaved, StageStart, Tell
from forklight_trainer.sft.holdout import add_round, measure, round_of
from forklight_trainer.sft.packs import pack_examples
from forklight_trainer.sft.saves import StageState
from forklight_trainer.sft.schedule import Pace, learning_rate_at


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepBatch:
    """What one step learns from."""

    numbers: Int64Array
    """Of the demonstrations."""
    packs: list[Pack]

    @property
    def num_tokens(self) -> int:
        return sum(len(pack.input_ids_T) for pack in self.packs)


class StageSteps:
    """All steps of a stage. A step's demonstrations are read and packed while the step before is computed."""

    def __init__(
        self,
        sft: SftSection,
        data: StageData,
        engine: TrainEngine,
        *,
        save: Callable[[StageState], None],
        tell: Tell,
    ) -> None:
        self._sft, self._data, self._engine, self._save, self._tell = sft, data, engine, save, tell

    def is_over(self, state: StageState) -> bool:
        """All steps are made, or the held-out loss has not fallen for long enough."""
        patience, rounds = self._sft.stop_after_rounds, state.holdout
        is_stale = bool(patience) and rounds is not None and rounds.rounds_since_best >= patience
        return state.step >= self._data.num_steps or is_stale

    def run(self, state: StageState, stop: threading.Event, pace: Pace) -> StageState:
        """Go on from a state; the state at the end, which is on disk if the stage is not over."""
        self._tell(StageStart(step=state.step, num_steps=self._data.num_steps))
        pace.begin()
        saved = state.step
        with ThreadPoolExecutor(max_workers=1) as reader:
            coming = reader.submit(self.read, state.place)
            while not (self.is_over(state) or stop.is_set()):
                batch = coming.result()
                coming = reader.submit(self.read, state.place + len(batch.numbers))
                state = self._measure(self._learn(state, batch, pace))
                if self._is_due(state.step) and not self.is_over(state):
                    self._keep(state)
                    saved = state.step
        if not self.is_over(state) and state.step > saved:
            self._keep(state)
        return state

    def read(self, place: int) -> StepBatch:
        """The step that begins at a place of the order."""
        corpus, numbers = self._data.train, self._data.order.take(place)
        if not len(numbers):
            return StepBatch(numbers=numbers, packs=[])
        examples = [corpus.read(int(number)) for number in numbers]
        names = [corpus.name(int(number)) for number in numbers]
        packs = pack_examples(self._engine, examples, names, pack_tokens=self._sft.pack_tokens)
        return StepBatch(numbers=numbers, packs=packs)

    def _learn(self, state: StageState, batch: StepBatch, pace: Pace) -> StageState:
        step, num_steps = state.step + 1, self._data.num_steps
        learning_rate = learning_rate_at(step, num_steps, self._sft)
        try:
            outcomes = self._engine.accumulate(batch.packs, LikelihoodObjective())
            loss = math.fsum(outcome.loss for outcome in outcomes)
            self._check_loss(loss, step, batch)
            grad_norm = self._engine.update(learning_rate=learning_rate, grad_clip=self._sft.grad_clip)
        finally:
            self._engine.discard_gradients()
        pace.mark(batch.num_tokens)
        state = replace(
            state,
            step=step,
            place=state.place + len(batch.numbers),
            num_tokens=state.num_tokens + batch.num_tokens,
            loss=loss,
        )
        self._tell(
            SftProgress(
                step=step,
                num_steps=num_steps,
                loss=loss,
                num_tokens=state.num_tokens,
                seconds=pace.seconds,
                learning_rate=learning_rate,
                grad_norm=grad_norm,
                tokens_per_s=pace.tokens_per_s,
                eta_s=pace.eta_s(num_steps - step),
            )
        )
        return state

    def _measure(self, state: StageState) -> StageState:
        """The held-out loss, when it is due."""
        corpus = self._data.holdout
        is_last = state.step == self._data.num_steps
        if corpus is None or not (is_last or state.step % self._sft.holdout_every_steps == 0):
            return state
        loss = measure(self._engine, corpus, pack_tokens=self._sft.pack_tokens)
        rounds = add_round(state.holdout, state.step, loss)
        self._tell(round_of(rounds, state.step))
        return replace(state, holdout=rounds)

    def _is_due(self, step: int) -> bool:
        every = self._sft.checkpoint_every_steps
        return bool(every) and step % every == 0

    def _keep(self, state: StageState) -> None:
        self._save(state)
        self._tell(StageSaved(step=state.step))

    def _check_loss(self, loss: float, step: int, batch: StepBatch) -> None:
        if not math.isfinite(loss):
            first = self._data.train.name(int(batch.numbers[0]))
            raise PreconditionError(
                f"step {step} of the cold start has the loss {loss}; the optimizer was not touched. Of its "
                f"{len(batch.numbers)} demonstrations {first} is the first; lower sft.learning_rate, or look "
                "at the weights the run starts from"
            )
