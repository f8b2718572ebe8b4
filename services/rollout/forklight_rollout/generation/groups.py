"""What is generated: a group of samples of one prompt, and the samples it becomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from forklight_rollout.generation.draft import Draft, Stretch
from forklight_rollout.ports import DrawRules, EndRules, FinishReason
from forklight_rollout.tools.ports import ToolRules


class Listener(Protocol):
    """Hears of one sample as it is generated, and of its end. On the engine's thread: must not wait."""

    def take(self, token: int, logprob: float, raw_logprob: float) -> None:
        """The next token."""
        ...

    def finish(self, sample: FinishedSample) -> None:
        """It has ended. Nobody else is told."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleStart:
    """One sample to generate, or to go on with."""

    sample_id: str
    seed: int
    draft: Draft | None = None
    """What there is of it already; its owner from now on is the generator."""
    listener: Listener | None = None
    """Of a client that waits for it; None for work of the queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupWork:
    """The samples of a group that this pod generates."""

    group_id: str
    prompt_ids: tuple[int, ...]
    draw: DrawRules
    end: EndRules
    samples: tuple[SampleStart, ...]
    stop_strings: tuple[str, ...] = ()
    """Text that ends a sample, wherever tokens cut it."""
    tools: ToolRules | None = None
    """What its samples may call; None: a call is plain text."""
    is_conversation: bool = False
    """A prompt that begins with one of its samples will probably follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedSample:
    """A generation that has ended. The stop token is one of its response's."""

    sample_id: str
    group_id: str
    prompt_ids: tuple[int, ...]
    response: Stretch
    reason: FinishReason
    started_at: float  # unix time, seconds
    finished_at: float
    tools: ToolRules | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSample:
    """A generation that goes on, or was interrupted: what it has from some token on."""

    sample_id: str
    group_id: str
    prompt_ids: tuple[int, ...]
    response: Stretch
