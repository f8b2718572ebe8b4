"""What the pages of samples and groups need from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from forklight.v1 import buffer_pb2
from forklight_core.wire import TrajectoryArrays

Body = Mapping[str, object]


class SampleSource(Protocol):
    """The buffer's inspection. Errors are those of `forklight_core.errors`."""

    async def search(self, request: buffer_pb2.SearchSamplesRequest) -> buffer_pb2.SearchSamplesReply:
        """Samples by what they are like."""

    async def group(self, group_id: str) -> buffer_pb2.GetGroupReply:
        """A group with all that is known of it."""

    async def groups(self, *, prompt_id: str, after: str, limit: int) -> buffer_pb2.ListGroupsReply:
        """A page of training groups, newest first."""


class PayloadSource(Protocol):
    """Payloads. They block: asked for in a thread."""

    def read(self, blob_ids: Sequence[str]) -> TrajectoryArrays:
        """One response: a blob, or those of its segments one after the other. NotFoundError for one that is
        gone, DataLossError for one that is not what was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictLine:
    """A verdict as the reward service's audit log has it, unproven."""

    file: str
    body: Body
    longer: str = ""
    """The longer evidence, where it was kept."""
    longer_problem: str = ""


class VerdictSource(Protocol):
    """The audit log of verdicts. It blocks: asked in a thread."""

    def find(self, sample_id: str, *, since: float, until: float) -> Sequence[VerdictLine]:
        """Verdicts of a sample that were written between two times, oldest first."""


class TextSource(Protocol):
    """Token ids to text. It blocks: asked in a thread."""

    @property
    def problem(self) -> str:
        """Why tokens are shown as numbers; empty when they are not."""

    def pieces(self, ids: Sequence[int], start: int, stop: int) -> list[str]:
        """The text of each token from `start` to `stop`; empty where a character is not yet whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleDesk:
    """All of them."""

    source: SampleSource
    payloads: PayloadSource
    verdicts: VerdictSource
    text: TextSource
    trace_url: str = ""
