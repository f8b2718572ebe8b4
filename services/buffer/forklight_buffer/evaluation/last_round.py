"""How a run ends: after the last step its last version is evaluated, for so long as the run file allows.

Training is over then, so its open samples end at once; the trainer's last commit does not wait for any of it.
The wait begins anew with every start of the buffer: while it was away nobody could serve the round.
"""

from __future__ import annotations

import asyncio

from forklight_buffer.context import Context
from forklight_buffer.evaluation.rounds import Evaluator
from forklight_buffer.phases import PhaseControl, is_last_evaluation
from forklight_buffer.records import Control
from forklight_buffer.states import Phase


class LastRound:
    """Between the last commit and FINISHED."""

    def __init__(self, context: Context, phases: PhaseControl, evaluator: Evaluator) -> None:
        self._context = context
        self._phases = phases
        self._evaluator = evaluator
        self._since: float | None = None

    async def end_when_done(self) -> None:
        """After a commit: is every step done? Callers hold the turn."""
        control, trainer = await self._control(), self._context.run_file.trainer
        if control.step < trainer.steps or control.phase is Phase.FINISHED:
            return
        wait_s = self._context.run_file.evaluation.final_wait_s
        if not self._evaluator.holds_rounds or not wait_s:
            await self._finish("")
        elif not is_last_evaluation(control, self._context.run_file):
            self._since = self._context.clock()
            await self._phases.begin_last_evaluation(
                f"all {trainer.steps} steps are done; the run ends with the evaluation of version "
                f"{self._last_version(control)}, within {wait_s:g} s"
            )
            await self.look_now()

    async def look(self) -> int:
        """One pass; returns 0, there is never more to do at once."""
        if is_last_evaluation(await self._control(), self._context.run_file):
            async with self._context.turn:
                await self.look_now()
        return 0

    async def look_now(self) -> None:
        """Open the last round, see whether all are over, or the time is. Callers hold the turn."""
        context, control = self._context, await self._control()
        if not is_last_evaluation(control, context.run_file):
            return
        await self._phases.cancel_training()
        version = self._last_version(control)
        is_announced = control.version >= version
        if is_announced:
            await self._evaluator.hold(version)
        open_rounds = await asyncio.to_thread(context.ledger.open_rounds)
        if is_announced and not open_rounds:
            await self._finish(f", and version {version} is evaluated")
        elif self._waited_s() >= context.run_file.evaluation.final_wait_s:
            await self._finish(await self._why_not(version, is_announced=is_announced))

    def _last_version(self, control: Control) -> int:
        """The last step may lie between two versions: then the one before was the last."""
        trainer = self._context.run_file.trainer
        return max(control.version, control.step // trainer.updates_per_version)

    def _waited_s(self) -> float:
        if self._since is None:
            self._since = self._context.clock()
        return self._context.clock() - self._since

    async def _why_not(self, version: int, *, is_announced: bool) -> str:
        wait_s = self._context.run_file.evaluation.final_wait_s
        if not is_announced:
            return f"; version {version} was not announced within {wait_s:g} s and is not evaluated"
        ended = len(await asyncio.to_thread(self._context.ledger.evaluated_samples, version))
        round_ = await asyncio.to_thread(self._context.ledger.read_round, version)
        wanted = 0 if round_ is None else round_.num_samples
        return (
            f"; the evaluation of version {version} was not complete within {wait_s:g} s "
            f"({ended} of {wanted} samples had ended)"
        )

    async def _finish(self, how: str) -> None:
        steps = self._context.run_file.trainer.steps
        await self._phases.set_phase(Phase.FINISHED, f"all {steps} steps are done{how}", automatic=True)

    async def _control(self) -> Control:
        return await asyncio.to_thread(self._context.ledger.control)
