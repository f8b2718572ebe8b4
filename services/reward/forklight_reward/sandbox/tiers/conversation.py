"""Has one job done by a guest over a channel; clock, processor and output are watched from here as well."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from forklight_core.errors import UnavailableError
from forklight_reward.sandbox.limits import MIB
from forklight_reward.sandbox.result import Class, Usage
from forklight_reward.sandbox.runner import Ended, Job, NeverStartedError
from forklight_reward.sandbox.tiers.wire import PING, Transcript

START_LIMIT_S = 30.0
GRACE_S = 2.0
LOOK_S = 0.25
KILLED = 137


class Channel(Protocol):
    """Two ways to a guest."""

    def send(self, data: bytes) -> None:
        """Everything, or UnavailableError."""

    def receive(self, timeout_s: float) -> bytes | None:
        """What has come, at most 64 KiB at once; None when nothing came in time, b"" at the end."""

    def cpu_s(self) -> float:
        """Processor time of the whole place, seen from outside; 0 where nobody counts it."""


class GuestGoneError(UnavailableError):
    """The guest's channel ended in the middle of a job."""


class Said(BaseModel):
    """The guest's last frame."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    exit_code: int = Field(default=0, ge=0, le=255)
    broke: Class | None = None
    cpu_s: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    wall_s: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    memory_peak_bytes: int = Field(default=0, ge=0)
    failed: str = ""


@dataclass(slots=True)
class Outside:
    """What was seen from here."""

    began: float
    cpu_s: float = 0.0
    broke: Class | None = None


def new_transcript(job: Job) -> Transcript:
    """An empty one with the caps of the job."""
    return Transcript(output_bytes=job.limits.output_bytes, collect_bytes=job.limits.disk_mb * MIB)


def await_ready(channel: Channel, timeout_s: float) -> None:
    """Call the guest until it answers. UnavailableError when it does not."""
    channel.send(PING)
    transcript = Transcript(output_bytes=0, collect_bytes=0)
    deadline = time.monotonic() + timeout_s
    while not transcript.is_ready:
        left_s = deadline - time.monotonic()
        data = channel.receive(max(0.0, left_s)) if left_s > 0 else None
        if data:
            transcript.take(data)
        elif data == b"" or left_s <= 0:
            why = "ended" if data == b"" else f"said nothing for {timeout_s:.0f} s"
            raise UnavailableError(f"sandbox: the guest {why} before it was ready")


def converse(channel: Channel, request: bytes, job: Job) -> Ended:
    """Send the request and listen to the end. GuestGoneError when the guest went in the middle."""
    transcript = new_transcript(job)
    try:
        channel.send(request)
    except UnavailableError as error:
        raise NeverStartedError(str(error)) from error
    outside = Outside(began=time.monotonic())
    deadline = outside.began + START_LIMIT_S
    is_counting = False
    next_look = outside.began + LOOK_S
    while transcript.said is None and outside.broke is None:
        data = channel.receive(max(0.0, min(deadline, next_look) - time.monotonic()))
        if data == b"" and not transcript.is_started:
            raise NeverStartedError("sandbox: the guest went away before the job began")
        if data == b"":
            raise GuestGoneError("sandbox: the guest went away in the middle of a job")
        if data:
            transcript.take(data)
        now = time.monotonic()
        if transcript.is_started and not is_counting:
            is_counting, outside.began = True, now
            deadline = now + job.limits.wall_s + GRACE_S
        if now >= next_look:
            outside.cpu_s = max(outside.cpu_s, channel.cpu_s())
            next_look = now + LOOK_S
        outside.broke = broken_limit(transcript, job, outside, is_late=now >= deadline)
    return ended_of(transcript, outside)


def broken_limit(transcript: Transcript, job: Job, outside: Outside, *, is_late: bool) -> Class | None:
    """The limit that the job has broken as seen from here; that it was never started is not its doing.

    Processor time seen from here has that of a container's own kernel in it, so only a guest that lies by
    half is caught by it: the guest's count is the exact one.
    """
    if transcript.is_flooded:
        return Class.OUTPUT_LIMIT
    if transcript.said is not None:
        return None
    if is_late and not transcript.is_started:
        raise UnavailableError(f"sandbox: the guest did not start the job within {START_LIMIT_S:.0f} s")
    if is_late or outside.cpu_s > 2 * job.limits.cpu_s + GRACE_S:
        return Class.TIME_LIMIT
    return None


def ended_of(transcript: Transcript, outside: Outside) -> Ended:
    """How it ended, by the stricter of the two views."""
    try:
        said = Said.model_validate(transcript.said or {"exit_code": KILLED})
    except ValidationError as error:
        raise UnavailableError(
            f"sandbox: the guest's last frame is not what it should be: {error}"
        ) from error
    if said.failed:
        raise UnavailableError(f"sandbox: the guest could not begin the job: {said.failed}")
    wall_s = said.wall_s if outside.broke is None else time.monotonic() - outside.began
    usage = Usage(
        cpu_s=max(said.cpu_s, outside.cpu_s if outside.broke is not None else 0.0),
        wall_s=wall_s,
        memory_peak_bytes=said.memory_peak_bytes,
        output_bytes=len(transcript.stdout) + len(transcript.stderr),
    )
    return Ended(
        exit_code=said.exit_code,
        broke=outside.broke or said.broke,
        stdout=bytes(transcript.stdout),
        stderr=bytes(transcript.stderr),
        report=bytes(transcript.report),
        usage=usage,
        files=transcript.files,
    )


def ended_by_memory(job: Job) -> Ended:
    """A job whose whole place was ended by the kernel for want of memory."""
    usage = Usage(memory_peak_bytes=job.limits.memory_mb * MIB)
    return Ended(exit_code=KILLED, broke=Class.MEMORY_LIMIT, stdout=b"", stderr=b"", report=b"", usage=usage)
