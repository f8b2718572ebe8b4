"""Training groups as a table: each sample a dot, by what it earned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forklight.v1 import buffer_pb2
from forklight_console.samples.searching import SampleRow, make_row
from forklight_console.shown import format_moment, format_number, visible


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A sample; `css` says its place between the least and the greatest reward of the page."""

    css: str
    row: SampleRow


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLine:
    """A group."""

    name: str
    link: str
    dots: Sequence[Dot]
    mean: str
    spread: str
    lengths: str
    prompt_id: str
    kind: str
    domain: str
    version: int
    moment: str
    state: str


def make_groups_page(reply: buffer_pb2.ListGroupsReply) -> list[GroupLine]:
    """Every group of a page."""
    rewards = [each.reward for group in reply.groups for each in group.samples if each.HasField("reward")]
    low, high = (min(rewards), max(rewards)) if rewards else (0.0, 1.0)
    return [_line(group, low, high) for group in reply.groups]


def _line(group: buffer_pb2.GroupRecord, low: float, high: float) -> GroupLine:
    rewards = [each.reward for each in group.samples if each.HasField("reward")]
    lengths = [each.num_response_tokens for each in group.samples if each.num_response_tokens]
    name = group.group_id.rpartition("/")[2]
    num_ended = len(group.samples)
    return GroupLine(
        name=name,
        link=f"/groups/{name}",
        dots=[_dot(each, low, high) for each in group.samples],
        mean=format_number(sum(rewards) / len(rewards)) if rewards else "-",
        spread="all equal" if len(rewards) > 1 and max(rewards) == min(rewards) else "",
        lengths=f"{min(lengths):,} to {max(lengths):,}" if lengths else "-",
        prompt_id=visible(group.prompt_id, most=80),
        kind=visible(group.kind, most=60),
        domain=visible(group.domain, most=60),
        version=group.opened_version,
        moment=format_moment(group.opened_at),
        state="over" if group.is_over else f"open, {num_ended} of {group.size} ended",
    )


def _dot(record: buffer_pb2.SampleRecord, low: float, high: float) -> Dot:
    if not record.HasField("reward"):
        return Dot(css="none", row=make_row(record))
    place = (record.reward - low) / (high - low) if high > low else 0.5
    return Dot(css=f"r{round(4 * place)}", row=make_row(record))
