"""The samples of a group side by side: what they earned, where they part, how they end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from forklight.v1 import buffer_pb2
from forklight_console.samples.ports import SampleDesk
from forklight_console.samples.sample_page import MOST_PROMPT, Payload, read_payload
from forklight_console.samples.searching import SampleRow, make_row
from forklight_console.samples.tokens import advantage_level, first_difference, group_advantages
from forklight_console.shown import format_moment, format_number, visible

MOST_BYTES = 96 * 2**20
"""Of payloads that are read to compare them."""
EXCERPT_TOKENS = 24
MOST_ENDING = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class SideRow:
    """One sample beside the others."""

    row: SampleRow
    name: str
    advantage: str
    level: int
    """-4 to 4, for the colour."""
    share: int
    """Length in hundredths of the longest."""
    differs: str
    """Token at which it leaves the sample that all are compared with."""
    differs_link: str
    excerpt: str
    ending: str
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPage:
    """What the template draws."""

    name: str
    facts: Sequence[tuple[str, str]]
    prompt: str
    rows: Sequence[SideRow]
    compared_with: str
    problem: str
    prompt_link: str


async def make_group_page(desk: SampleDesk, group: buffer_pb2.GetGroupReply, reference: str) -> GroupPage:
    """`reference` names the sample that the others are compared with; empty: the first with tokens."""
    num_bytes = sum(sample.record.payload.size_bytes for sample in group.samples)
    too_much = num_bytes > MOST_BYTES
    payloads: list[Payload] = []
    if not too_much:
        payloads = await asyncio.to_thread(lambda: [read_payload(desk, each) for each in group.samples])
    names = [each.record.sample_id.rpartition("/")[2] for each in group.samples]
    whole = [at for at, payload in enumerate(payloads) if payload.arrays is not None]
    compared = next((at for at in whole if names[at] == reference), whole[0] if whole else None)
    rows = await asyncio.to_thread(_rows, desk, group, payloads, compared)
    return GroupPage(
        name=group.group_id.rpartition("/")[2],
        facts=_facts(group),
        prompt=visible(group.prompt, most=MOST_PROMPT),
        rows=rows,
        compared_with="" if compared is None else names[compared],
        problem=f"responses are not compared: their payloads are {num_bytes / 2**20:,.0f} MiB"
        if too_much
        else "",
        prompt_link=visible(group.prompt_id, most=200),
    )


def _rows(
    desk: SampleDesk, group: buffer_pb2.GetGroupReply, payloads: Sequence[Payload], compared: int | None
) -> list[SideRow]:
    records = [each.record for each in group.samples]
    advantages = group_advantages([each.reward if each.HasField("reward") else None for each in records])
    longest = max((each.num_response_tokens for each in records), default=0) or 1
    found = []
    for at, record in enumerate(records):
        row = make_row(record)
        payload = payloads[at] if payloads else Payload(arrays=None, spans=())
        differs, start = _difference(payloads, at, compared)
        found.append(
            SideRow(
                row=row,
                name=row.name.rpartition("/")[2],
                advantage=format_number(advantages[at], 3),
                level=advantage_level(advantages[at]),
                share=round(100 * record.num_response_tokens / longest),
                differs=differs,
                differs_link="" if start is None else f"{row.link}?start={max(0, start - EXCERPT_TOKENS)}",
                excerpt="" if start is None else _excerpt(desk, payload, start),
                ending="" if payload.arrays is None else visible(payload.arrays.text[-MOST_ENDING:]),
                problem=payload.problem,
            )
        )
    return found


def _difference(payloads: Sequence[Payload], at: int, compared: int | None) -> tuple[str, int | None]:
    if compared is None or payloads[at].arrays is None:
        return "-", None
    if at == compared:
        return "compared with", None
    mine, other = payloads[at].arrays, payloads[compared].arrays
    assert mine is not None and other is not None
    start = first_difference(mine.response_ids, other.response_ids)
    return ("the same", None) if start is None else (f"{start:,}", start)


def _excerpt(desk: SampleDesk, payload: Payload, start: int) -> str:
    if payload.arrays is None:
        return ""
    ids = payload.arrays.response_ids.tolist()
    return visible("".join(desk.text.pieces(ids, start, min(len(ids), start + EXCERPT_TOKENS))), most=400)


def _facts(group: buffer_pb2.GetGroupReply) -> list[tuple[str, str]]:
    rewards = [each.record.reward for each in group.samples if each.record.HasField("reward")]
    facts = [
        ("prompt", visible(group.prompt_id, most=200)),
        ("kind, domain", f"{visible(group.kind)}, {visible(group.domain) or '-'}"),
        ("opened", f"{format_moment(group.opened_at)}, version {group.opened_version}"),
        ("window", f"{group.window_tokens:,} tokens"),
        ("scored", f"{len(rewards)} of {len(group.samples)}"),
    ]
    if rewards:
        facts.append(("mean reward", format_number(sum(rewards) / len(rewards))))
    if group.HasField("batch_step"):
        facts.append(("batch", f"step {group.batch_step}"))
    if group.redrive_of:
        facts.append(("redriven", f"in place of {group.redrive_of}"))
    return facts
