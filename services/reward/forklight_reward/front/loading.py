"""Reads what a scoring task refers to: the payload of the trajectory and the specification of the task."""

from __future__ import annotations

import asyncio

from forklight.v1 import types_pb2
from forklight_core.blobs import BlobStore
from forklight_core.errors import DataLossError, InvalidInputError
from forklight_core.wire import check_schema, parse, unpack_payload
from forklight_reward.front.route import Case


class CaseLoader:
    """Loads once, however often the sample is tried."""

    def __init__(self, blobs: BlobStore, task: types_pb2.ScoringTask) -> None:
        self._blobs = blobs
        self._task = task
        self._case: Case | None = None

    async def load(self) -> Case:
        """The case. NotFoundError or DataLossError when a blob is lost or corrupt, InvalidInputError when
        it is foreign.
        """
        if self._case is None:
            self._case = await asyncio.to_thread(self._read)
        return self._case

    def _read(self) -> Case:
        task = self._task
        spec = parse(types_pb2.TaskSpec, self._blobs.get(task.spec.id))
        check_schema(spec.schema_version, f"task of {task.envelope.sample_id}")
        if spec.kind != task.kind:
            raise InvalidInputError(
                f"scoring task {task.envelope.sample_id} is of kind {task.kind!r}, "
                f"its specification of kind {spec.kind!r}"
            )
        payload = unpack_payload(self._blobs.get(task.trajectory.payload.id))
        if payload.sample_id != task.envelope.sample_id:
            raise DataLossError(
                f"payload {task.trajectory.payload.id} belongs to {payload.sample_id!r}, "
                f"not to {task.envelope.sample_id!r}"
            )
        return Case(
            envelope=task.envelope,
            spec=spec,
            response=payload.text,
            opened_version=task.opened_version,
            session=payload.session,
        )
