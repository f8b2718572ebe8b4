"""The plan of a run: layouts that were given or chosen, memory, rates, traffic, time and cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from forklight_core.errors import ConfigError
from forklight_model.planning.counts import BF16_BYTES, count_parameters
from forklight_model.planning.layout import RolloutLayout, TrainLayout, default_groups
from forklight_model.planning.lengths import Lengths, fixed_length, spread_lengths
from forklight_model.planning.request import Request
from forklight_model.planning.rollout import (
    POD_SIZES,
    DecodeStep,
    PodMemory,
    Sequences,
    plan_decode_step,
    plan_pod_memory,
)
from forklight_model.planning.training_memory import OPTIMIZER_BYTES, TrainMemory, plan_train_memory
from forklight_model.planning.training_time import Pack, TrainTime, plan_train_time

SHARE_STEPS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds of one generation batch, and what the run comes to."""

    train_s: float
    generate_s: float
    sync_s: float
    """One pod takes in a version; it happens behind decode, and in turn where GPUs are shared."""
    batch_s: float
    run_s: float
    gpu_hours: float
    dollars: float
    tokens_per_batch: float
    trained_tokens: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All of it."""

    request: Request
    lengths: Lengths
    train: TrainLayout
    rollout: RolloutLayout
    train_memory: TrainMemory
    pod_memory: PodMemory
    train_time: TrainTime
    whole_pack: TrainTime
    """The same when a pack is one sequence as long as the window: what benchmarks call 1 x 32K."""
    decode: DecodeStep | None
    """None where not one sequence fits."""
    decode_tokens_per_s: float
    """All pods together."""
    times: Times | None
    """None where it does not fit."""
    weight_bytes: float
    pod_gpu_bytes: float
    checkpoint_bytes: float

    @property
    def limit_bytes(self) -> float:
        return self.request.gpu.memory_bytes * self.request.rates.memory_share

    @property
    def train_gpu_bytes(self) -> float:
        """What a trainer GPU holds; where GPUs are shared, rollout's part as well."""
        return self.train_memory.total + (self.pod_memory.total if self.rollout.is_shared else 0)

    @property
    def trainer_fits(self) -> bool:
        return self.train_memory.total <= self.limit_bytes

    @property
    def rollout_fits(self) -> bool:
        return self.pod_memory.num_sequences > 0

    @property
    def fits(self) -> bool:
        return self.trainer_fits and self.rollout_fits


def make_plan(request: Request) -> Plan:
    """The fastest of the layouts that the request leaves open; among those that do not fit, the leanest."""
    plans = [plan_layout(request, train, rollout) for train, rollout in _layouts(request)]
    return min(plans, key=_rank)


def _rank(plan: Plan) -> tuple[int, float]:
    """Plans that fit come first, by their time; then by what they hold."""
    if plan.times is not None and plan.fits:
        return 0, plan.times.batch_s
    misfits = 2 - int(plan.trainer_fits) - int(plan.rollout_fits)
    return misfits, max(plan.train_gpu_bytes, plan.pod_memory.total)


def _layouts(request: Request) -> Iterator[tuple[TrainLayout, RolloutLayout]]:
    """Every division of the GPUs that the request allows; ConfigError where there is none."""
    found = False
    for rollout in _rollout_layouts(request):
        trainers = request.gpus if rollout.is_shared else request.gpus - rollout.gpus
        expert, sequence = default_groups(request.config, trainers)
        layout = TrainLayout(
            gpus=trainers,
            zero=request.zero,
            expert_parallel=request.expert_parallel or expert,
            sequence_parallel=request.sequence_parallel or sequence,
        )
        if request.rollout_pod:
            rollout.check(request.config)
        layout.check(request.config)
        if layout.divides and rollout.divides(request.config):
            found = True
            yield _least_recomputed(request, layout, rollout), rollout
    if not found:
        raise ConfigError(_no_division(request))


def _no_division(request: Request) -> str:
    given = {
        "--expert-parallel": request.expert_parallel,
        "--sequence-parallel": request.sequence_parallel,
        "--rollout-share": request.rollout_share,
        "--rollout-pod": request.rollout_pod,
    }
    asked = " ".join(f"{option} {value}" for option, value in given.items() if value is not None)
    return (
        f"--gpus {request.gpus} cannot be divided into whole groups of trainer GPUs and whole rollout pods "
        f"with {asked}: change one of them or leave it out"
    )


def _rollout_layouts(request: Request) -> Iterator[RolloutLayout]:
    for size in (request.rollout_pod,) if request.rollout_pod else POD_SIZES:
        if size > request.gpus or size < 1:
            continue
        if request.gpus % size == 0 and not request.rollout_share:
            yield RolloutLayout(pods=request.gpus // size, gpus_per_pod=size, is_shared=True)
        if request.gpus > 1 and request.rollout_share != 0:
            for pods in _pod_counts(request, size):
                yield RolloutLayout(pods=pods, gpus_per_pod=size)


def _pod_counts(request: Request, size: int) -> Sequence[int]:
    """Numbers of pods that leave somebody to train."""
    if request.rollout_share is not None:
        pods = round(request.rollout_share * request.gpus / size)
        return [pods] if 0 < pods * size < request.gpus else []
    steps = (request.gpus * step // SHARE_STEPS // size for step in range(1, SHARE_STEPS))
    return sorted({pods for pods in steps if 0 < pods * size < request.gpus})


def _least_recomputed(request: Request, layout: TrainLayout, rollout: RolloutLayout) -> TrainLayout:
    limit = request.gpu.memory_bytes * request.rates.memory_share
    if rollout.is_shared:
        limit -= _least_pod_bytes(request, rollout)
    for how in request.recomputations:
        tried = replace(layout, recompute=how)
        memory = plan_train_memory(request.config, tried, request.pack_tokens, request.rates)
        if memory.total <= limit:
            return tried
    return layout


def _least_pod_bytes(request: Request, rollout: RolloutLayout) -> float:
    """A pod that decodes one of the longest sequences."""
    sequences = _sequences(request, rollout, spread_lengths(request.workload))
    pod = plan_pod_memory(
        request.config, gpus=rollout.gpus_per_pod, budget=0, sequences=sequences, rates=request.rates
    )
    return pod.total


def _sequences(request: Request, rollout: RolloutLayout, lengths: Lengths) -> Sequences:
    workload = request.workload
    wanted = -(-int(workload.groups * workload.group_size) // rollout.pods)
    return Sequences(
        average=lengths.decode_context,
        longest=workload.window + workload.prompt_tokens,
        most=min(int(workload.max_batch), wanted),
    )


def plan_layout(request: Request, train: TrainLayout, rollout: RolloutLayout) -> Plan:
    """The plan of one division of the GPUs."""
    config, gpu, rates = request.config, request.gpu, request.rates
    lengths = spread_lengths(request.workload)
    memory = plan_train_memory(config, train, request.pack_tokens, rates)
    budget = gpu.memory_bytes * rates.memory_share - (memory.total if rollout.is_shared else 0)
    sequences = _sequences(request, rollout, lengths)
    pod = plan_pod_memory(config, gpus=rollout.gpus_per_pod, budget=budget, sequences=sequences, rates=rates)
    pack = Pack(tokens=request.pack_tokens, context=lengths.train_context)
    longest = Pack(tokens=request.pack_tokens, context=fixed_length(request.workload.window).train_context)
    train_time = plan_train_time(config, gpu, train, pack, rates)
    decode, speed = _plan_decode(request, rollout, pod, lengths)
    total = count_parameters(config).total
    fits = decode is not None and memory.total <= gpu.memory_bytes * rates.memory_share
    return Plan(
        request=request,
        lengths=lengths,
        train=train,
        rollout=rollout,
        train_memory=memory,
        pod_memory=pod,
        train_time=train_time,
        whole_pack=plan_train_time(config, gpu, train, longest, rates),
        decode=decode,
        decode_tokens_per_s=speed,
        times=_plan_times(request, rollout, lengths, train_time.tokens_per_s, speed) if fits else None,
        weight_bytes=BF16_BYTES * total,
        pod_gpu_bytes=BF16_BYTES * total / rollout.gpus_per_pod,
        checkpoint_bytes=OPTIMIZER_BYTES * total,
    )


def _plan_decode(
    request: Request, rollout: RolloutLayout, pod: PodMemory, lengths: Lengths
) -> tuple[DecodeStep | None, float]:
    """The step of a full pod at average lengths, and tokens a second of all pods."""
    batch = pod.num_sequences
    if not batch:
        return None, 0.0
    step = plan_decode_step(
        request.config,
        request.gpu,
        batch=batch,
        context=lengths.decode_context,
        gpus=rollout.gpus_per_pod,
        rates=request.rates,
    )
    return step, rollout.pods * batch / step.total_s * request.rates.decode_busy


def _plan_times(
    request: Request, rollout: RolloutLayout, lengths: Lengths, train_speed: float, decode_speed: float
) -> Times:
    workload, gpu = request.workload, request.gpu
    samples = workload.groups * workload.group_size
    generated, trained = samples * lengths.mean, samples * (lengths.mean + workload.prompt_tokens)
    train_s, generate_s = trained / train_speed, generated / decode_speed
    pod_bytes = BF16_BYTES * count_parameters(request.config).total / rollout.gpus_per_pod
    link = gpu.memory_bandwidth if request.gpus == 1 else gpu.network_bandwidth * request.rates.network_share
    sync_s = pod_bytes / link
    batch_s = train_s + generate_s + sync_s if rollout.is_shared else max(train_s, generate_s + sync_s)
    run_s = batch_s * workload.batches
    hours = request.gpus * run_s / 3600
    return Times(
        train_s=train_s,
        generate_s=generate_s,
        sync_s=sync_s,
        batch_s=batch_s,
        run_s=run_s,
        gpu_hours=hours,
        dollars=hours * gpu.price_per_hour,
        tokens_per_batch=trained,
        trained_tokens=trained * workload.batches,
    )
