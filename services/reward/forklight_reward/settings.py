"""Deployment settings of the four roles, read from the environment (FORKLIGHT_<FIELD>).

Scoring itself is in the run file.
"""

from __future__ import annotations

from pydantic import Field, SecretStr

from forklight_core.settings import ServiceSettings


class FrontSettings(ServiceSettings):
    """The front door."""

    redis_url: str
    """Redis that holds the scoring queue."""
    blobs_url: str
    """Blob store with payloads and task specifications."""
    buffer_address: str
    """host:port of the buffer."""
    verifier_address: str
    """host:port of the verifier; several, separated by commas, are asked in turn."""
    sandbox_address: str
    """host:port of the sandbox; several, separated by commas, are asked in turn."""
    judge_address: str
    """host:port of the judge; several, separated by commas, are asked in turn."""
    submit_deadline_s: float = Field(default=300.0, gt=0)
    """How long a verdict is offered to a buffer that does not answer before its lease is left to expire."""
    drain_s: float = Field(default=20.0, gt=0, le=600)
    """Time that running samples may take when the service is told to stop."""


class VerifierSettings(ServiceSettings):
    """The verifier."""


class SandboxSettings(ServiceSettings):
    """The sandbox."""

    sandbox_slots: int = Field(default=0, ge=0, le=256)
    """Programs run at once; 0: one a core. More than that distorts their clocks."""
    self_test_every_s: float = Field(default=30.0, gt=0)
    """Pause between two self-tests while they fail."""
    sandbox_compiler: str = "g++"
    """C++ compiler, a command under /usr of this machine; empty: only Python is served."""
    sandbox_warm_jails: int = Field(default=8, ge=0, le=64)
    """Jails that wait for programs of one size of disk; 0: every jail is made when it is asked for."""
    sandbox_max_warm_jails: int = Field(default=16, ge=0, le=256)
    """Jails that wait, of all sizes together."""
    sandbox_warm_idle_s: float = Field(default=120.0, gt=0)
    """How long a jail waits before it is thrown away."""


class JudgeSettings(ServiceSettings):
    """The judge."""

    buffer_address: str = ""
    """host:port of the buffer, told of alarms and measures against length; empty: only the log is."""
    judge_api_key: SecretStr = SecretStr("")
    """Bearer key of the judge's endpoints; empty: none is sent."""
    canaries_timeout_s: float = Field(default=120.0, gt=0)
    """How long the judge may take over all canaries."""
    canaries_every_s: float = Field(default=30.0, gt=0)
    """Pause between two checks while they fail."""
