"""The judge that decides: windows and probes in, what should hold from the next step on and what to tell out.

Nothing here touches a disk or a network; `upkeep` carries out and keeps what this says.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forklight.v1 import types_pb2
from forklight_reward import metrics
from forklight_reward.judge.length_fit import LengthFit
from forklight_reward.judge.length_monitor import MonitorReport
from forklight_reward.judge.padding import PaddingReport
from forklight_reward.judge.recalibration import Calibration, Level, Recalibrator
from forklight_reward.judge.store import Book
from forklight_reward.judge.watch import SeenGroup, window_of

MOST_TO_TELL = 100

MEASURES = {
    Level.NONE: "no measure",
    Level.OFFSET: "an offset a doubling of length",
    Level.PROMPT: "the length-neutral prompt",
    Level.REFERENCE: "references of like length; lower the weight of judged prompts to a half",
    Level.OFF: "none: it abstains from everything until a person has looked (`forklight judge allow`)",
}

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Step:
    """Means of what was judged since the last new policy version."""

    num_samples: int = 0
    characters: float = 0.0
    num_correct: int = 0


class Ladder:
    """One judge's mind about itself."""

    def __init__(self, book: Book, *, judge: str) -> None:
        self.judge = judge
        self.version = 0
        """Newest policy version, for people."""
        self.is_dirty = False
        self.to_tell: list[types_pb2.RunEvent] = []
        self.to_log: list[dict[str, object]] = []
        self.windows_since_probe = 0
        self.abstain_share = 0.0
        self._step = Step()
        self.resume(book)

    @property
    def memory(self) -> Mapping[str, int]:
        """Counters that outlive this process."""
        return {"windows": self._num_windows, "alarms": self._num_alarms, "levels": self._num_levels}

    def resume(self, book: Book) -> None:
        """Go on from what is on disk; what matters is told once more, under the same id."""
        ladder = book.ladder
        self.recalibrator = Recalibrator() if ladder is None else Recalibrator.resume(ladder)
        self.known = book.current
        self._num_windows = book.memory.get("windows", 0)
        self._num_alarms = book.memory.get("alarms", 0)
        self._num_levels = book.memory.get("levels", 0)
        self._was_alarm = self.recalibrator.raw.is_ringing
        metrics.set_judge_level(self.known.level)
        if self._was_alarm:
            self._tell_alarm(None)
        if self.known.level is not Level.NONE:
            self._tell_level()

    def add_groups(self, groups: Sequence[SeenGroup]) -> None:
        """A window."""
        recalibrator = self.recalibrator
        window, served_N = window_of(groups, recalibrator.active.version)
        report = recalibrator.add_window(window, served_N)
        self._num_windows += 1
        self.windows_since_probe += 1
        self._step.num_samples += len(window.scores_N)
        self._step.characters += float((2.0**window.lengths_N).sum())
        self._step.num_correct += int(window.correct_N.sum())
        residual = recalibrator.residual_fit
        metrics.set_judge_length(_beta(report.fit), report.cusum, is_alarm=report.is_alarm)
        if residual is not None:
            metrics.set_judge_residual(residual.beta)
        self._log(
            "window",
            window=self._num_windows,
            slope=_beta(report.fit),
            error=None if report.fit is None else report.fit.error,
            residual=_beta(residual),
            **self._standing(report),
        )
        self._follow(report)

    def add_padding(self, raw: PaddingReport, served: PaddingReport) -> None:
        """A probe."""
        report = self.recalibrator.add_padding(raw, served)
        self.windows_since_probe = 0
        metrics.set_judge_padding(raw.gain)
        self._log(
            "padding",
            padding=raw.gain,
            padding_lower95=raw.lower95,
            padding_left=served.gain,
            num_answers=raw.num_pairs,
            **self._standing(report),
        )
        self._follow(report)

    def step_on(self, version: int, calibration: Calibration) -> None:
        """A policy version that was not seen before is judged under this calibration."""
        self.version = version
        step, self._step = self._step, Step()
        if step.num_samples:
            mean = step.characters / step.num_samples
            self.recalibrator.raw.drift.add(mean, step.num_correct / step.num_samples)
            self.is_dirty = True
        if calibration.version != self.recalibrator.active.version:
            self.recalibrator.adopt(calibration)
            self.is_dirty = True
            metrics.set_judge_level(calibration.level)
            self._log(
                "switch",
                calibration=calibration.version,
                level=calibration.level.value,
                beta=calibration.beta,
            )

    def proposed(self, current: Calibration) -> None:
        """What was proposed is on disk, and holds for policy versions to come."""
        self.is_dirty = False
        if current.level is not self.known.level:
            self._num_levels += 1
            self.known = current
            self.is_dirty = True  # the counter
            self._tell_level()
        self.known = current

    def _follow(self, report: MonitorReport) -> None:
        self.is_dirty = True
        if report.is_alarm == self._was_alarm:
            return
        self._was_alarm = report.is_alarm
        if report.is_alarm:
            self._num_alarms += 1
        self._tell_alarm(report.fit)

    def _tell_alarm(self, fit: LengthFit | None) -> None:
        slope = (
            "" if fit is None else f": {fit.beta:+.3f} a doubling at equal correctness, error {fit.error:.3f}"
        )
        if self._was_alarm:
            self._tell(
                f"judge-alarm-{self._num_alarms}",
                kind="judge_alarm",
                severity=types_pb2.SEVERITY_WARNING,
                title=f"The judge pays for length{slope}. Look at judge/log.jsonl of the run folder",
            )
        else:
            self._tell(
                f"judge-alarm-{self._num_alarms}-ended",
                kind="judge_alarm_ended",
                severity=types_pb2.SEVERITY_INFO,
                title="The judge no longer pays for length",
            )

    def _tell_level(self) -> None:
        level = self.known.level
        severity = types_pb2.SEVERITY_ALERT if level is Level.OFF else types_pb2.SEVERITY_WARNING
        self._tell(
            f"judge-level-{self._num_levels}",
            kind="judge_recalibrated",
            severity=types_pb2.SEVERITY_INFO if level is Level.NONE else severity,
            title=f"Groups of policy versions to come are judged at level {level.value}: {MEASURES[level]}",
        )

    def _tell(self, event_id: str, *, kind: str, severity: types_pb2.Severity, title: str) -> None:
        evidence = {
            "judge": self.judge,
            "level": self.known.level.value,
            "calibration": self.known.version,
            "beta": self.known.beta,
            "cusum": self.recalibrator.raw.state.cusum,
            "general_weight": self.known.general_weight,
        }
        logger.warning("judge: %s", title, extra={"event_id": event_id, **evidence})
        event = types_pb2.RunEvent(
            id=event_id,
            kind=kind,
            severity=severity,
            version=self.version,
            at=time.time(),
            title=title,
            evidence_json=json.dumps(evidence),
        )
        self.to_tell = [*self.to_tell, event][-MOST_TO_TELL:]
        self._log(kind, title=title)

    def _standing(self, report: MonitorReport) -> dict[str, object]:
        active = self.recalibrator.active
        return {
            "cusum": report.cusum,
            "alarm": report.is_alarm,
            "level": active.level.value,
            "calibration": active.version,
            "beta": active.beta,
            "abstain_share": self.abstain_share,
        }

    def _log(self, kind: str, **figures: object) -> None:
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in figures.items()
        }
        self.to_log.append({"at": time.time(), "kind": kind, "version": self.version, **finite})


def _beta(fit: LengthFit | None) -> float | None:
    return None if fit is None else fit.beta
