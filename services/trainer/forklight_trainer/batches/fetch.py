"""From a leased batch's references to arrays: every blob is read and verified before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from forklight.v1 import types_pb2
from forklight_core.blobs import BlobStore
from forklight_core.errors import DataLossError, InvalidInputError, NotFoundError
from forklight_core.wire import check_envelope, unpack_payload
from forklight_trainer.batches.batch import TrainingBatch, TrainingGroup, TrainingSample, build_sample

NUM_READERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class LostSample:
    """A sample of the batch that cannot be read."""

    sample_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedBatch:
    """A complete batch, or the samples that stand in its way."""

    batch: TrainingBatch | None
    lost: tuple[LostSample, ...]


def fetch_batch(message: types_pb2.Batch, blobs: BlobStore, run_id: str) -> FetchedBatch:
    """Read all samples of a batch. Lost or corrupt ones are told, a store that does not answer raises."""
    messages = [sample for group in message.groups for sample in group.samples]
    with ThreadPoolExecutor(max_workers=NUM_READERS) as readers:
        results = list(readers.map(lambda sample: _fetch_sample(sample, blobs, run_id), messages))
    lost = tuple(result for result in results if isinstance(result, LostSample))
    if lost:
        return FetchedBatch(batch=None, lost=lost)
    found = {result.sample_id: result for result in results if isinstance(result, TrainingSample)}
    groups = tuple(_group(group, found) for group in message.groups)
    batch = TrainingBatch(batch_id=message.batch_id, step=message.step, groups=groups)
    return FetchedBatch(batch=batch, lost=())


def _fetch_sample(
    message: types_pb2.BatchSample, blobs: BlobStore, run_id: str
) -> TrainingSample | LostSample:
    envelope = message.trajectory.envelope
    check_envelope(envelope, run_id)
    try:
        return build_sample(message, unpack_payload(blobs.get(message.trajectory.payload.id)))
    except (NotFoundError, DataLossError, InvalidInputError) as error:
        return LostSample(sample_id=envelope.sample_id, reason=str(error))


def _group(message: types_pb2.BatchGroup, found: dict[str, TrainingSample]) -> TrainingGroup:
    samples: Sequence[types_pb2.BatchSample] = message.samples
    return TrainingGroup(
        group_id=message.group_id,
        samples=tuple(found[sample.trajectory.envelope.sample_id] for sample in samples),
    )
