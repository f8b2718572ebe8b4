"""What is asked of the loop when an alarm rings, and when going back has been tried often enough.

An episode begins with a roll back and ends when the run has got `roll_back_steps` past the step that rang.
Inside one, `max_roll_backs` are allowed, whichever alarm asks and whatever step they lead to: the next alarm
is a pause. What a roll back restores knows nothing of it, so this is not in the checkpoint: it is worked out
from the steps that the run went back from, which the checkpoint store records for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forklight_core.runfile.sections.steering import CollapseSection
from forklight_trainer.steering.collapse import Alarm
from forklight_trainer.steering.events import Action, ActionKind


@dataclass(slots=True, kw_only=True)
class Episode:
    """The present trouble."""

    num_roll_backs: int = 0
    rang_at: int = 0
    """Latest step that a roll back was asked at."""


class Recovery:
    """Turns alarms that ring into at most one action."""

    def __init__(self, settings: CollapseSection) -> None:
        self._settings = settings
        self._episode = Episode()

    def pass_step(self, step: int) -> None:
        """A step is done; far enough past the trouble the episode is over."""
        if step > self._episode.rang_at + self._settings.roll_back_steps:
            self._episode = Episode()

    def choose(self, rung: Sequence[Alarm], step: int) -> Action:
        """For the alarms that began to ring at this step. A pause goes before a roll back."""
        pausing = [alarm for alarm in rung if alarm.detector.settings.action == "pause"]
        going_back = [alarm for alarm in rung if alarm.detector.settings.action == "roll_back"]
        if pausing:
            return Action(kind=ActionKind.PAUSE, reason=_names(pausing))
        if not going_back:
            return Action()
        episode = self._episode
        if episode.num_roll_backs >= self._settings.max_roll_backs:
            return Action(
                kind=ActionKind.PAUSE,
                reason=(
                    f"{_names(going_back)}: rolled back {episode.num_roll_backs} times already and it came "
                    "back; change the run file or the data before the run goes on"
                ),
            )
        self._note(step)
        target = max(0, min(alarm.since for alarm in going_back) - self._settings.roll_back_steps)
        return Action(kind=ActionKind.ROLL_BACK, step=target, reason=_names(going_back))

    def restore(self, went_back_from: Sequence[int]) -> None:
        """From the steps that the run stood at when it went back, oldest first."""
        self._episode = Episode()
        for step in went_back_from:
            self.pass_step(step)
            self._note(step)

    def _note(self, step: int) -> None:
        self._episode.num_roll_backs += 1
        self._episode.rang_at = max(self._episode.rang_at, step)


def _names(alarms: Sequence[Alarm]) -> str:
    return " and ".join(f"collapse.{alarm.detector.name} since step {alarm.since}" for alarm in alarms)
