"""Scoring."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

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
    recalibrate: bool = True
    """Take measures against a judge that pays for length; false: only measure and warn."""
    padding_every: Annotated[int, Field(ge=0)] = 8
    """Windows of 64 groups between two padding probes; 0: none."""
    padding_answers: Annotated[int, Field(ge=8, le=1024)] = 64
    """Answers of one probe, each judged as it is and padded twice."""


class SandboxSection(Section):
    """Where programs that a model wrote are run."""

    tier: Literal["process", "jail", "container", "pod"] = "jail"
    """process: no walls; jail: this machine's own kernel; container: an engine; pod: a Kubernetes cluster."""
    allow_unsafe: bool = False
    """Permit tier process: whoever wrote a program then has all that the service has."""
    image: str = ""
    """Of container and pod: one with python3 (and c++), best by digest; an engine must have it already."""
    runtime: Literal["auto", "runsc", "runc"] = "auto"
    """Of container; auto: gVisor's runsc when the engine has it, else runc."""
    runtime_class: str = "gvisor"
    """Of pod; empty: the cluster's default, which shares the node's kernel."""
    namespace: str = "forklight-sandbox"
    """Of pod: a namespace for nothing else, with a policy that denies all traffic."""
    warm: Annotated[int, Field(ge=0, le=256)] = 2
    """Containers or pods kept ready, each for one job."""

    @model_validator(mode="after")
    def _check_tier(self) -> SandboxSection:
        """A tier without what it needs is an error now, not at the first program."""
        if self.tier == "process" and not self.allow_unsafe:
            raise ValueError(
                'tier = "process" lets a program read and reach whatever the service can: '
                'use "jail", or set allow_unsafe = true if every program is trusted'
            )
        if self.tier in ("container", "pod") and not self.image:
            raise ValueError(f'tier = "{self.tier}" needs image: one with python3, and c++ for C++ tasks')
        return self


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
    """Samples of each class (rules, code, repository, judge) scored at once by one front door."""
    shaping: bool = False
    """Clip and normalise rewards by source before the overlong penalty; for runs that mix sources."""
    verifier_processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Killable worker processes of one verifier."""
    sandbox: SandboxSection = SandboxSection()
    """Where programs run."""
    judge: JudgeSection = JudgeSection()
    """Who grades what rules cannot."""
