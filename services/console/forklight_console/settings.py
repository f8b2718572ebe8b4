"""Deployment settings of the console, read from the environment (FORKLIGHT_<FIELD>)."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from forklight_core.settings import ServiceSettings


class ConsoleSettings(ServiceSettings):
    """What the console is told by its environment."""

    listen: str = "127.0.0.1:7117"
    """host:port of the pages. Beyond loopback only with a token."""
    buffer_address: str
    """host:port of the buffer."""
    token: SecretStr = SecretStr("")
    """Who has it may see everything and control the run: 16 characters or more; empty: whoever gets here."""
    token_file: Path | None = None
    """File that holds the token, in its place (a mounted secret)."""
    open_to_all: bool = False
    """Listen beyond loopback without a token all the same: a proxy in front asks for one."""
    runs_folder: Path | None = None
    """Folder whose run folders may be compared; empty: the one that the run folder is in."""
    rollout_address: str = ""
    """host:port of the rollout pods, every address of the host is one; empty: those of system.json."""
    sample_every_s: float = Field(default=5.0, ge=0.5, le=300)
    """Seconds between two looks at queues and pods, for the charts over time."""
    namespace: str = ""
    """Kubernetes namespace whose workloads are shown; empty: not in a cluster."""
    deletion_costs: bool = False
    """In that namespace: annotate rollout pods with what they hold, so that the idlest goes first."""
    trainer_address: str = ""
    """host:port of the trainer; empty: that of system.json."""
    blobs_url: str = ""
    """Where payloads live, as for the buffer; empty: the folder `blobs` of the run folder."""
    tokenizer_folder: Path | None = None
    """Folder with the tokenizer.json that tokens are shown by; empty: the newest one in the run folder."""
    trace_url: str = ""
    """Where a sample's trace is shown, with {trace_id} in it; empty: its id is shown to be copied."""
