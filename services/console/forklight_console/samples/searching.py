"""The search form, and its hits in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from forklight.v1 import buffer_pb2, types_pb2
from forklight_console.shown import enum_word, format_moment, format_number, visible

TERMINAL = ("trained", "filtered", "stale", "reward_failed", "infra_failed", "cancelled")
OPEN = ("queued", "generated", "scored", "ready", "leased")
ORDERS = ("newest", "oldest", "highest_reward", "lowest_reward", "longest", "shortest")
FINISHES = ("stop", "length", "repetition", "cancelled")
PURPOSES = ("train", "evaluate")
REASONS = (
    "all_equal", "too_few_scored", "evaluation", "left_out", "stale_on_arrival", "stale_in_queue",
    "stale_unfinished", "generation_cancelled", "run_finished", "dead_letter", "blob_lost", "blob_corrupt",
    "prompt_lost", "infra_error", "abstain",
)  # fmt: skip
NUMBERS = ("reward_min", "reward_max", "length_min", "length_max", "step_min", "step_max")
TEXTS = ("kind", "domain", "reason")
MOST_TEXT = 300
PAGE = 50


class FormError(ValueError):
    """A field of the form that cannot be, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow:
    """A sample of a table."""

    name: str
    """GROUP/SAMPLE without the run."""
    link: str
    group_link: str
    group: str
    state: str
    reason: str
    reward: str
    length: str
    finish: str
    kind: str
    domain: str
    prompt_id: str
    step: str
    versions: str
    moment: str


def read_form(values: Mapping[str, str]) -> buffer_pb2.SearchSamplesRequest:
    """What is asked for; FormError names the field that is wrong."""
    request = buffer_pb2.SearchSamplesRequest(limit=PAGE, after=values.get("after", "")[:MOST_TEXT])
    for name in NUMBERS:
        if text := values.get(name, "").strip():
            setattr(request, name, _number(name, text))
    for name in (*TEXTS, "prompt_id"):
        setattr(request, name, values.get(name, "").strip()[:MOST_TEXT])
    if state := values.get("state", ""):
        request.states.extend(_states(state))
    order = _enum(buffer_pb2.SampleOrder, "SAMPLE_ORDER_", values.get("order", ""), ORDERS)
    request.order = cast("buffer_pb2.SampleOrder", order)
    finish = _enum(types_pb2.FinishReason, "FINISH_REASON_", values.get("finish", ""), FINISHES)
    request.finish_reason = cast("types_pb2.FinishReason", finish)
    purpose = _enum(types_pb2.Purpose, "PURPOSE_", values.get("purpose", ""), PURPOSES)
    request.purpose = cast("types_pb2.Purpose", purpose)
    return request


def _number(name: str, text: str) -> float | int:
    try:
        value = float(text)
    except ValueError:
        raise FormError(f"{name.replace('_', ' ')}: {text[:40]!r} is no number") from None
    if name.startswith("reward"):
        if value != value or abs(value) > 1e100:
            raise FormError(f"{name.replace('_', ' ')}: {text[:40]!r} is no finite number")
        return value
    if not (value.is_integer() and 0 <= value < 2**31):
        raise FormError(f"{name.replace('_', ' ')}: {text[:40]!r} is no whole number from 0 on")
    return int(value)


def _states(state: str) -> list[types_pb2.SampleState]:
    names = OPEN if state == "open" else (state,)
    if state not in ("open", *OPEN, *TERMINAL):
        raise FormError(f"no sample state is called {state[:40]!r}")
    return [
        cast("types_pb2.SampleState", types_pb2.SampleState.Value(f"SAMPLE_STATE_{n.upper()}")) for n in names
    ]


def _enum(enum: object, prefix: str, name: str, known: Sequence[str]) -> int:
    if not name:
        return 0
    if name not in known:
        raise FormError(f"{name[:40]!r} is none of {', '.join(known)}")
    return int(enum.Value(prefix + name.upper()))  # type: ignore[attr-defined]


def make_row(record: buffer_pb2.SampleRecord) -> SampleRow:
    """A record in words."""
    group, _, sample = record.sample_id.rpartition("/")
    group_name = group.rpartition("/")[2]
    span = str(record.min_version)
    if record.max_version != record.min_version:
        span += f" to {record.max_version}"
    length = f"{record.num_response_tokens:,}"
    if record.num_saved_tokens and not record.num_response_tokens:
        length = f"{record.num_saved_tokens:,} so far"
    return SampleRow(
        name=f"{group_name}/{sample}",
        link=f"/samples/{group_name}/{sample}",
        group=group_name,
        group_link=f"/groups/{group_name}",
        state=enum_word(types_pb2.SampleState.Name(record.state), "SAMPLE_STATE_"),
        reason=visible(record.reason, most=200),
        reward=format_number(record.reward if record.HasField("reward") else None),
        length=length,
        finish=enum_word(types_pb2.FinishReason.Name(record.finish_reason), "FINISH_REASON_").replace(
            "unspecified", "-"
        ),
        kind=visible(record.kind, most=60),
        domain=visible(record.domain, most=60),
        prompt_id=visible(record.prompt_id, most=80),
        step=str(record.step) if record.step else "-",
        versions=span,
        moment=format_moment(record.updated_at),
    )
