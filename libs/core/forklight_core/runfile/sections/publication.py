"""How weights reach rollout."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from forklight_core.runfile.sections.section import Section
from forklight_core.runfile.units import Bytes, Seconds


class PublicationSection(Section):
    """How weights reach rollout."""

    full_every: Annotated[int, Field(ge=1, le=64)] = 8
    """One version in so many holds every weight; those between hold what changed. 1: all do, as in fp32."""
    delta_base: Literal["full", "previous"] = "full"
    """What changes are against: the last full version (any pod needs two files), or the version before."""
    base_values: Literal["host", "files"] = "host"
    """Where the trainer has the base's values: a copy in host memory, or read back every time."""
    verify: Literal["written", "read-back"] = "written"
    """Hash weights as they are written (every pod hashes what it reads), or read them back as well."""
    keep_versions: Annotated[int, Field(ge=2, le=64)] = 4
    """Newest versions kept on disk, besides those that they build on."""
    largest_file: Bytes = 4 << 30
    """Weights go to files of at most so many bytes; a larger tensor has one of its own."""
    lanes: Annotated[int, Field(ge=0, le=64)] = 0
    """Threads a trainer process hashes and writes with; 0: as many as it has cores, 16 at most."""
    url: Annotated[str, Field(pattern=r"^$|^(s3|file)://.+")] = ""
    """s3://bucket/prefix: pods fetch weights from there. Empty: from the run folder, which they share."""
    transport: Literal["files", "broadcast"] = "files"
    """How pods get a version's files: each reads them, or the trainer sends them to all at once as well."""
    rendezvous: Annotated[str, Field(pattern=r"^$|^.+:\d+$")] = ""
    """With `broadcast`: host:port of the trainer's first process, where pods and trainer meet."""
    broadcast_pods: Annotated[int, Field(ge=0, le=1024)] = 0
    """With `broadcast`: pods that are waited for. Others, and late ones, read files."""
    broadcast_backend: Literal["gloo", "nccl"] = "gloo"
    """With `broadcast`: over TCP, or between GPUs."""
    broadcast_join_s: Seconds = 10.0
    """With `broadcast`: how long pods are waited for; then it goes to those that came."""
    broadcast_deadline_s: Seconds = 60.0
    """With `broadcast`: how long sending may take; then it is given up, and pods read files."""

    @model_validator(mode="after")
    def _check_broadcast(self) -> PublicationSection:
        if self.transport == "broadcast" and not (self.rendezvous and self.broadcast_pods):
            raise ValueError(
                'publication.transport = "broadcast" needs publication.rendezvous (host:port of the trainer) '
                "and publication.broadcast_pods (how many pods take part)"
            )
        return self
