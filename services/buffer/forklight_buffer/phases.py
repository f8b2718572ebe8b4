"""Run control: running, paused, draining, finished. A finished run has no open sample."""

from __future__ import annotations

import asyncio

from forklight_buffer.context import Context
from forklight_buffer.journal import Journal
from forklight_buffer.records import Control
from forklight_buffer.states import Phase, Purpose, Reason, State, Status
from forklight_core.errors import InvalidInputError, PreconditionError
from forklight_core.runfile import RunFile


def is_last_evaluation(control: Control, run_file: RunFile) -> bool:
    """Every step is done, and the run only waits for what its last version is worth."""
    is_over = control.step >= run_file.trainer.steps
    return is_over and control.automatic and control.phase is Phase.DRAINING


class PhaseControl:
    """Changes the phase. Callers hold the context's turn."""

    def __init__(self, context: Context, journal: Journal) -> None:
        self._context = context
        self._journal = journal

    async def set_phase(self, phase: Phase, reason: str, *, automatic: bool = False) -> Phase:
        """Ledger first, then Redis; the same phase for the same reason again is nothing new."""
        context = self._context
        control = await asyncio.to_thread(context.ledger.control)
        if phase in (Phase.PAUSED, Phase.FINISHED) and not reason.strip():
            raise InvalidInputError(
                f"a reason is needed to make the run {phase.name.lower()}: say why, for those who look later"
            )
        if phase is Phase.RUNNING and is_last_evaluation(control, context.run_file):
            return control.phase  # it goes on with what is left of it
        last_step = context.run_file.trainer.steps
        if phase is not Phase.FINISHED and control.step >= last_step:
            raise PreconditionError(
                f"the run has done its {last_step} steps and cannot be "
                f"{phase.name.lower()}: raise trainer.steps to go on"
            )
        await self._change(control, phase, reason, automatic=automatic)
        if phase is Phase.FINISHED:
            await self.cancel_open()
        context.notify_all()
        return phase

    async def _change(self, control: Control, phase: Phase, reason: str, *, automatic: bool) -> None:
        context = self._context
        if (control.phase, control.reason) != (phase, reason):
            await asyncio.to_thread(context.ledger.set_phase, phase, reason, automatic=automatic)
            await context.record("phase", f"{control.phase.name.lower()} -> {phase.name.lower()}: {reason}")
        await context.live.set_run({"phase": str(int(phase))})

    async def begin_last_evaluation(self, reason: str) -> None:
        """Training is over: what is open of it ends, evaluation rounds may still be served."""
        control = await asyncio.to_thread(self._context.ledger.control)
        await self._change(control, Phase.DRAINING, reason, automatic=True)
        await self.cancel_training()
        self._context.notify_all()

    async def cancel_training(self) -> None:
        """End open and ready training groups, if there are any."""
        live = self._context.live
        standing = await live.standing()
        if standing.open_groups + standing.ready_groups == 0:
            return
        for group_id in await live.live_groups():
            group = await live.read_group(group_id)
            if group is not None and group.purpose is Purpose.TRAIN:
                await live.close_group(group_id, State.CANCELLED, Reason.RUN_FINISHED, leased_too=False)
        await self._journal.flush()

    async def cancel_open(self) -> None:
        """End what is open, but for batches a trainer holds: those are committed, or cancelled when it asks
        for more.
        """
        live = self._context.live
        for group_id in await live.live_groups():
            await live.close_group(group_id, State.CANCELLED, Reason.RUN_FINISHED, leased_too=False)
        await self._journal.flush()
        self._journal.rounds_moved = True  # what is open of them is cut

    async def cancel_batches(self, from_step: int) -> None:
        """The trainer will not learn these any more."""
        live = self._context.live
        for step, group_ids in (await live.batches()).items():
            if step < from_step:
                continue
            for group_id in group_ids:
                group = await live.read_group(group_id)
                if group is not None and group.status is Status.LEASED:
                    await live.close_group(group_id, State.CANCELLED, Reason.RUN_FINISHED, leased_too=True)
            await live.place_batch(step, 0, [])
        await self._journal.flush()
