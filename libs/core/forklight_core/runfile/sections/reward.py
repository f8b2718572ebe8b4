"""Scoring."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from forklight_core.runfile.sections.section import Section
from forklight_core.runfile.units import Count, Seconds

ADDRESS = re.compile(r"https?://[^\s/@?#]+(/[^\s@?#]*)?")


def check_address(address: str) -> str:
    """Without a user or password: what is in a run file is printed, and stored with every checkpoint."""
    if ADDRESS.fullmatch(address) is None:
        raise ValueError(
            "must be http(s)://HOST[:PORT][/PATH] without user or password (a key goes into the "
            "environment variable FORKLIGHT_JUDGE_API_KEY)"
        )
    return address


EndpointUrl = Annotated[str, AfterValidator(check_address)]


class JudgeSection(Section):
    """The generative reward model."""

    kind: Literal["rule", "openai"] = "rule"
    """rule: by words in common, for tests and wiring; openai: a model behind OpenAI's chat API."""
    endpoints: tuple[EndpointUrl, ...] = ()
    """Base addresses of the model, without /v1; a rollout pod's door is one."""
    model: str = ""
    """Name of the model; empty: the endpoint's only one."""
    mode: Literal["five_grades", "pairwise"] = "five_grades"
    """Grade against the reference, or compare with it in both orders."""
    votes: Annotated[int, Field(ge=1, le=16)] = 2
    """Of five_grades; every second one reads the candidate first."""
    binary_floor: bool = False
    """five_grades: grades of 2 and less are worth nothing."""
    length_neutral: bool = False
    """Ask with the rubric that values no length, and show answers of like length."""
    special_tokens: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Control tokens of the judge's tokenizer, broken in foreign text beside the common ones."""
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0
    """Of the judge."""
    max_tokens: Count = 1024
    """Of one reply."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 32
    """Calls at once of one judge process, over all endpoints."""


class RewardSection(Section):
    """Scoring."""

    correct_weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Weight of the part `correct`."""
    format_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the part `format`; it counts only when the answer is correct."""
    max_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Tries before a sample ends as reward_failed."""
    timeout_s: Seconds = 30.0
    """Deadline of one try."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 16
    """Samples scored at once by one front door."""
    verifier_processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Killable worker processes of one verifier."""
    judge: JudgeSection = JudgeSection()
    """Who grades what rules cannot."""
