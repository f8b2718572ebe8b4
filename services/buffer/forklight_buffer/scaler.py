"""How many rollout pods a run needs: `demand` (pure), and KEDA's external scaler that serves it.

    demand = groups that wait + groups in flight + groups the next batch still lacks
             |__ training: never above what may be unfinished under the staleness bound __|
    pods   = ceil(demand / groups per pod), which KEDA or an HPA computes

What is in flight always counts: nobody is scaled away because the queue looks empty. When the buffer cannot
know (Redis is away) it answers with an error, and KEDA leaves the pods as they are.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc.aio

from forklight.v1 import externalscaler_pb2 as keda
from forklight.v1 import externalscaler_pb2_grpc
from forklight_buffer import metrics
from forklight_buffer.context import Context
from forklight_buffer.phases import is_last_evaluation
from forklight_buffer.ports import Entries, QueueName
from forklight_buffer.staleness import count_admitted, limits_of, staleness_capacity
from forklight_buffer.states import Phase
from forklight_core.errors import InvalidInputError
from forklight_core.runfile import RunFile
from forklight_core.telemetry import gauge

SCALER_SERVICE = "externalscaler.ExternalScaler"
METRIC = "forklight-demand"
"""Name of the figure in an HPA."""
WATCH_S = 1.0
"""How late a change of activity may be told: nobody tells the buffer that a pod took something."""

Call = grpc.aio.ServicerContext[object, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What there is to generate, in groups."""

    waiting: int
    """Training groups nobody has taken."""
    in_flight: int
    """Training groups that pods hold."""
    evaluating: int = 0
    """Groups of evaluation rounds nobody has taken."""
    evaluating_in_flight: int = 0
    to_come: int = 0
    """Groups that the next batch lacks and credit lets open now."""
    ceiling: int
    """Training groups that may be unfinished under the staleness bound."""
    opens_training: bool = True
    opens_evaluation: bool = True


def demand(work: Work) -> int:
    """Groups that pods are needed for. What is in flight is never below it, what waits never alone at 0."""
    held = work.in_flight + work.evaluating_in_flight
    if not work.opens_training and not work.opens_evaluation:
        return held
    wanted = work.evaluating + work.evaluating_in_flight
    waiting = work.evaluating
    if work.opens_training:
        unfinished = work.waiting + work.in_flight + work.to_come
        wanted += max(work.in_flight, min(unfinished, work.ceiling))
        waiting += work.waiting
    return max(wanted, held, 1 if waiting else 0)


def pods_needed(groups: int, groups_per_pod: float) -> int:
    """What an autoscaler makes of the demand."""
    return math.ceil(groups / groups_per_pod)


class Scaler:
    """Reads how things stand."""

    def __init__(self, context: Context, entries: Entries) -> None:
        self._context = context
        self._entries = entries

    async def demand(self) -> int:
        """Groups that pods are needed for now; UnavailableError when nobody can tell."""
        control = await asyncio.to_thread(self._context.ledger.control)
        if control.phase is Phase.FINISHED:
            return 0
        is_running = control.phase is Phase.RUNNING
        ends = is_last_evaluation(control, self._context.run_file)
        return demand(await self._look(opens_training=is_running, opens_evaluation=is_running or ends))

    async def record(self) -> int:
        """Set the gauge that an HPA without KEDA reads; returns 0, there is never more to do at once."""
        gauge(metrics.DEMAND).set(await self.demand())
        return 0

    async def _look(self, *, opens_training: bool, opens_evaluation: bool) -> Work:
        standing = await self._context.live.standing()
        run_file = self._context.run_file
        limits = limits_of(run_file, standing.window)
        tasks = await self._entries.stats(QueueName.TASKS)
        evaluate = await self._entries.stats(QueueName.EVALUATE)
        lacking = limits.groups_per_step - standing.ready_groups - standing.open_groups
        return Work(
            waiting=tasks.num_waiting,
            in_flight=tasks.num_leased,
            evaluating=evaluate.num_waiting,
            evaluating_in_flight=evaluate.num_leased,
            to_come=count_admitted(standing, limits, most=max(0, lacking)),
            ceiling=max(0, staleness_capacity(standing, limits) + standing.open_groups),
            opens_training=opens_training,
            opens_evaluation=opens_evaluation,
        )


class ScalerServicer(externalscaler_pb2_grpc.ExternalScalerServicer):
    """One method a call of externalscaler.proto. `closing` ends the streams."""

    def __init__(self, context: Context, scaler: Scaler, closing: asyncio.Event) -> None:
        self._context = context
        self._scaler = scaler
        self._closing = closing

    async def IsActive(self, request: keda.ScaledObjectRef, context: Call) -> keda.IsActiveResponse:
        self._read(request)
        return keda.IsActiveResponse(result=await self._scaler.demand() > 0)

    async def StreamIsActive(
        self, request: keda.ScaledObjectRef, context: Call
    ) -> AsyncIterator[keda.IsActiveResponse]:
        self._read(request)
        told: bool | None = None
        while not self._closing.is_set():
            mark = self._context.credit.mark()
            is_active = await self._scaler.demand() > 0
            if is_active is not told:
                told = is_active
                yield keda.IsActiveResponse(result=is_active)
            await self._wait(mark)

    async def GetMetricSpec(self, request: keda.ScaledObjectRef, context: Call) -> keda.GetMetricSpecResponse:
        target = self._read(request)
        spec = keda.MetricSpec(metricName=METRIC, targetSize=math.ceil(target), targetSizeFloat=target)
        return keda.GetMetricSpecResponse(metricSpecs=[spec])

    async def GetMetrics(self, request: keda.GetMetricsRequest, context: Call) -> keda.GetMetricsResponse:
        self._read(request.scaledObjectRef)
        if request.metricName not in ("", METRIC):
            raise InvalidInputError(f"there is no metric {request.metricName!r}: ask for {METRIC!r}")
        groups = await self._scaler.demand()
        value = keda.MetricValue(metricName=METRIC, metricValue=groups, metricValueFloat=groups)
        return keda.GetMetricsResponse(metricValues=[value])

    def _read(self, request: keda.ScaledObjectRef) -> float:
        """Check the metadata of a trigger; returns the groups a pod should have."""
        where = f"ScaledObject {request.namespace}/{request.name}"
        given = {name.removesuffix("FromEnv"): value for name, value in request.scalerMetadata.items()}
        run_id = given.get("runId", "")
        if run_id not in ("", self._context.run_id):
            raise InvalidInputError(
                f"{where}: runId {run_id!r} is not served here, this buffer serves "
                f"{self._context.run_id!r}: mend the trigger's metadata or its scalerAddress"
            )
        text = given.get("groupsPerPod", "")
        if not text:
            return default_groups_per_pod(self._context.run_file)
        try:
            target = float(text)
        except ValueError:
            target = math.nan
        if not 0 < target < math.inf:
            raise InvalidInputError(f"{where}: groupsPerPod {text!r}: expected a number above 0, such as 8")
        return target

    async def _wait(self, mark: int) -> None:
        """Until credit moved, or for a while, or until the buffer closes."""
        waits = [
            asyncio.ensure_future(self._context.credit.wait_past(mark, WATCH_S)),
            asyncio.ensure_future(self._closing.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


def default_groups_per_pod(run_file: RunFile) -> float:
    """As many groups as a pod decodes together."""
    return max(1.0, run_file.rollout.max_batch / run_file.sampling.group_size)
