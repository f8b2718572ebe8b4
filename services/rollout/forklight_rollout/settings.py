"""Deployment settings of a rollout pod, read from the environment (FORKLIGHT_<FIELD>)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from forklight_core.settings import ServiceSettings

LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")


class RolloutSettings(ServiceSettings):
    """What a pod is told by its environment; how to sample is in the run file and in each task."""

    redis_url: str
    """Redis that holds the task queue and the newest weights."""
    blobs_url: str
    """Blob store that payloads go to."""
    buffer_address: str
    """host:port of the buffer."""
    sandbox_address: str = ""
    """host:port of the sandbox; only needed when the run file's [tools] names one."""
    tool_calls: int = Field(default=16, ge=1, le=1024)
    """Tool calls of this pod under way at once; more wait."""
    tool_deadline_s: float = Field(default=300.0, gt=0)
    """How long a call is offered to a tool that is away before its group is handed back, saved."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model computes; auto takes a GPU when there is one."""
    max_prompt_tokens: int = Field(default=1024, ge=1)
    """Longest prompt in tokens; with the run's largest window it is the length of a cache slot."""
    cache_memory_bytes: int = Field(default=0, ge=0)
    """Memory of the device that the caches may take; 0: a quarter of what is free at start."""
    gpus_per_pod: int = Field(default=0, ge=0, le=64)
    """GPUs that hold the model together, a process each; 0: as rollout.tensor_parallel says."""
    gpus_deadline_s: float = Field(default=120.0, gt=0)
    """With several GPUs: a process that does not answer for so long has failed, and the pod ends."""
    weights_poll_s: float = Field(default=0.5, gt=0, le=60)
    """Seconds between two looks for new weights."""
    weights_cache: str = ""
    """Folder for copies of weights from a store, no other pod's; empty: weights-POD in the run folder."""
    weights_cache_bytes: int = Field(default=0, ge=0)
    """Copies stay while they take less than this; 0: only those of the newest two versions."""
    submit_deadline_s: float = Field(default=300.0, gt=0)
    """How long a sample is offered to a buffer that does not answer before its group is handed back."""
    http_token: SecretStr = SecretStr("")
    """What HTTP clients send as a bearer token; empty: they are not asked."""
    http_allow_open: bool = False
    """Listen for HTTP beyond loopback without a token: where the network decides who comes in."""
    http_listen: str = ""
    """host:port of the OpenAI-compatible HTTP door, e.g. 127.0.0.1:8000; empty: there is none."""
    http_model: str = ""
    """Name of the model for HTTP clients; empty: the run's id."""
    http_max_requests: int = Field(default=256, ge=1)
    """HTTP requests in flight; one more is answered with 503."""
    http_max_samples: int = Field(default=1024, ge=1)
    """Samples of all HTTP requests in flight; a request that would exceed it is answered with 503."""
    http_max_tokens: int = Field(default=0, ge=0)
    """Most new tokens of an HTTP request, and what it gets by default; 0: what fits the window."""

    @field_validator("http_listen")
    @classmethod
    def _check_http_listen(cls, listen: str, info: ValidationInfo) -> str:
        """An address; one that others reach needs a token, or that somebody says it needs none."""
        if not listen:
            return listen
        host, _, port = listen.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"{listen!r} is not host:port, for example 127.0.0.1:8000")
        token = info.data.get("http_token")
        is_guarded = isinstance(token, SecretStr) and bool(token.get_secret_value())
        if host not in LOOPBACK and not is_guarded and not info.data.get("http_allow_open"):
            raise ValueError(
                f"{listen!r} can be reached from elsewhere: set FORKLIGHT_HTTP_TOKEN, listen on 127.0.0.1, "
                "or set FORKLIGHT_HTTP_ALLOW_OPEN=true where the network lets in only who may"
            )
        return listen
