"""How weights come to this pod, as run file and deployment say. Nothing of torch unless they are sent."""

from __future__ import annotations

import os
from pathlib import Path

from forklight_core.runfile.sections.publication import PublicationSection
from forklight_rollout.settings import RolloutSettings
from forklight_rollout.weights.cache import WeightsCache
from forklight_rollout.weights.source import CachedSource, Receiver, SharedFolder, WeightsSource


def open_source(settings: RolloutSettings, publication: PublicationSection) -> WeightsSource:
    """A folder that pod and trainer share, or copies in a folder of the pod's own."""
    is_sent = publication.transport == "broadcast"
    if not publication.url and not is_sent:
        return SharedFolder()
    name = settings.pod or f"rollout-{os.getpid()}"
    folder = (
        Path(settings.weights_cache) if settings.weights_cache else settings.run_folder / f"weights-{name}"
    )
    cache = WeightsCache(folder=folder, most_bytes=settings.weights_cache_bytes)
    return CachedSource(cache=cache, receiver=_open_receiver(publication) if is_sent else None)


def _open_receiver(publication: PublicationSection) -> Receiver:
    import torch

    from forklight_model.file_sending import FileReceiver
    from forklight_model.sending_group import SendRules

    rules = SendRules(
        rendezvous=publication.rendezvous,
        backend=publication.broadcast_backend,
        num_receivers=publication.broadcast_pods,
        join_s=publication.broadcast_join_s,
        deadline_s=publication.broadcast_deadline_s,
    )
    return FileReceiver(rules, torch.device("cuda") if torch.cuda.is_available() else None)
