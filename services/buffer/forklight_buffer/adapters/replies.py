"""What scripts answer and hashes hold, as the buffer's nouns."""

from __future__ import annotations

from collections.abc import Sequence

from forklight_buffer.live import (
    LiveGroup,
    LiveSample,
    LiveSegment,
    PendingSample,
    SegmentsNow,
    Standing,
)
from forklight_buffer.ports import Accepted
from forklight_buffer.states import Outcome, Purpose, State, Status
from forklight_core.errors import FencedError, InvalidInputError, NotFoundError


def words(reply: object) -> list[str]:
    """A list reply as text."""
    if not isinstance(reply, list):
        raise TypeError(f"expected a list from the script, got {reply!r}")
    return [item.decode() if isinstance(item, bytes) else str(item) for item in reply]


def pairs(reply: object) -> dict[str, bytes]:
    """A flat hash reply as a dictionary."""
    if not isinstance(reply, list):
        raise TypeError(f"expected a hash from the script, got {reply!r}")
    return {reply[at].decode(): reply[at + 1] for at in range(0, len(reply), 2)}


def accepted(reply: Sequence[str], what: str) -> Accepted:
    """The outcome of a submission, or the error it is."""
    word = reply[0]
    if word == "unknown":
        raise NotFoundError(
            f"{what}: no open sample of this name waits for it; it was never opened or is long over"
        )
    if word == "fenced":
        raise FencedError(
            f"{what}: the lease is not the newest of its queue entry, which is held by {reply[1]}"
        )
    if word == "accepted":
        return Accepted(outcome=Outcome.ACCEPTED, status=Status(reply[1]))
    return Accepted(outcome=Outcome[word.upper()])


def segments_now(reply: Sequence[str], what: str) -> SegmentsNow:
    """How a response stands after a change of its segments, or the error it is."""
    word = reply[0]
    if word in ("unknown", "fenced"):
        accepted(reply, what)
    if word == "misplaced":
        raise InvalidInputError(
            f"{what}: {reply[1]} tokens of the response are saved; the next segment starts there, "
            "and dropping begins where a saved one starts"
        )
    if word == "outside":
        raise InvalidInputError(f"{what}: it ends behind the sample's window of {reply[1]} tokens")
    if word == "dropped":
        return SegmentsNow(outcome=Outcome.DROPPED)
    return SegmentsNow(
        outcome=Outcome[word.upper()],
        num_saved_tokens=int(reply[1]),
        num_dropped_tokens=int(reply[2]) if len(reply) > 2 else 0,
        dropped=tuple(reply[3:]),
    )


def pending_sample(text: str) -> PendingSample:
    """An index, and below it the segments, one a line."""
    index, _, body = text.partition("\n")
    return PendingSample(index=int(index), segments=_segments(body))


def _segments(body: str) -> tuple[LiveSegment, ...]:
    found = []
    for line in body.splitlines():
        start, num_tokens, payload_id, num_bytes, version = line.split("|")
        found.append(
            LiveSegment(
                start=int(start),
                num_tokens=int(num_tokens),
                payload_id=payload_id,
                payload_bytes=int(num_bytes),
                min_version=int(version),
            )
        )
    return tuple(found)


def live_group(group_id: str, found: dict[str, bytes]) -> LiveGroup:
    """A group's hash."""

    def number(name: str) -> int:
        return int(found.get(name, b"0") or b"0")

    step = found.get("step", b"")
    return LiveGroup(
        group_id=group_id,
        status=Status(found["status"].decode()),
        purpose=Purpose(number("purpose")),
        prompt_id=found["prompt"].decode(),
        kind=found["kind"].decode(),
        spec_id=found.get("spec", b"").decode(),
        spec_bytes=number("spec_bytes"),
        window=number("window"),
        index=number("index"),
        position=number("position"),
        opened_version=number("version"),
        opened_at=float(found["at"]),
        queue=found.get("queue", b"tasks").decode(),
        task_entry=found.get("entry", b"").decode(),
        step=int(step) if step else None,
        samples=tuple(_live_sample(found, index) for index in range(number("size"))),
        trash=found.get("trash", b""),
    )


def _live_sample(found: dict[str, bytes], index: int) -> LiveSample:
    state, since, version, tokens, num_bytes, reason = found[f"s{index}"].decode().split("|", 5)
    reward = found.get(f"r{index}")
    return LiveSample(
        index=index,
        state=State(int(state)),
        since=float(since),
        min_version=int(version),
        num_tokens=int(tokens),
        num_bytes=int(num_bytes),
        reason=reason,
        trajectory=found.get(f"t{index}", b""),
        verdict=found.get(f"v{index}", b""),
        reward=float(reward) if reward else None,
        scoring_entry=found.get(f"e{index}", b"").decode(),
        segments=_segments(found.get(f"g{index}", b"").decode()),
    )


def standing(found: dict[str, bytes]) -> Standing:
    """The run's hash, as far as admission needs it."""

    def number(name: str) -> int:
        return int(found.get(name, b"0"))

    return Standing(
        version=number("version"),
        step=number("step"),
        open_groups=number("open_groups"),
        ready_groups=number("ready_groups"),
        leased_groups=number("leased_groups"),
        evaluating_groups=number("evaluating_groups"),
        held_tokens=number("tokens"),
        held_bytes=number("bytes"),
        window=number("window"),
    )
