"""Sends a version's files to all pods at once, beside the next step. What goes wrong, pods read as files."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from forklight_core.errors import UnavailableError
from forklight_core.runfile.sections.publication import PublicationSection
from forklight_model.file_sending import FileSender
from forklight_model.sending_group import SendRules

log = logging.getLogger(__name__)


def open_sender(publication: PublicationSection, device: str) -> VersionSender | None:
    """Where the run file asks for one. Opens its port."""
    if publication.transport != "broadcast":
        return None
    rules = SendRules(
        rendezvous=publication.rendezvous,
        backend=publication.broadcast_backend,
        num_receivers=publication.broadcast_pods,
        join_s=publication.broadcast_join_s,
        deadline_s=publication.broadcast_deadline_s,
    )
    return VersionSender(FileSender(rules, torch.device(device)))


class VersionSender:
    """One version at a time: a newer one takes the place of one that is still being sent."""

    def __init__(self, sender: FileSender) -> None:
        self._sender = sender
        self._cancelled = threading.Event()
        self._thread: threading.Thread | None = None

    def send(self, session: str, paths: Sequence[Path]) -> None:
        """Begin to send these files, under the version's manifest id; returns at once."""
        self._cancelled.set()
        self._cancelled = threading.Event()
        self._thread = threading.Thread(
            target=self._send, args=(session, paths, self._cancelled), daemon=True, name="send-weights"
        )
        self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Whether what was begun is over by then, well or not."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    def close(self) -> None:
        """Give up what is under way."""
        self._cancelled.set()

    def _send(self, session: str, paths: Sequence[Path], cancelled: threading.Event) -> None:
        started = time.monotonic()
        try:
            num_pods = self._sender.send(session, paths, cancelled)
        except (UnavailableError, OSError, RuntimeError) as error:
            log.warning("weights were not sent, pods read files", extra={"reason": str(error)})
            return
        seconds = round(time.monotonic() - started, 3)
        log.info("weights sent", extra={"manifest_id": session, "num_pods": num_pods, "seconds": seconds})
