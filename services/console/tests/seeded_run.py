"""A run of many steps, made from a seed: its step records, its status, its pods."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from forklight.v1 import buffer_pb2, rollout_pb2, types_pb2
from forklight_console.ports import PodAnswer

RUN_ID = "minimax-m1-tiny-arithmetic-20261122-a1b2"
START = 1_795_000_000.0
SPIKE_STEP = 7_777
SPIKE_RATIO = 41.5
STAGES = {"lease": 4.0, "fetch": 1.5, "train": 22.0, "checkpoint": 1.0, "commit": 0.2, "publish": 3.0}


def make_steps(num_steps: int, *, seed: int = 7, lift: float = 1.0) -> Iterator[dict[str, object]]:
    """Records as the trainer writes them; one step has a ratio far above all others."""
    noise = random.Random(seed)
    at = START
    for step in range(1, num_steps + 1):
        done = step / num_steps
        seconds = {
            name: round(mean * noise.uniform(0.8, 1.3) * (1 + 2 * done), 4) for name, mean in STAGES.items()
        }
        at += sum(seconds.values())
        length = 900 + 30_000 * done**1.5 + noise.gauss(0, 300 + 1500 * done)
        tokens = int(512 * length)
        yield {
            "step": step,
            "version": step // 2,
            "time": round(at, 3),
            "num_groups": 32,
            "num_samples": 512,
            "tokens": tokens,
            "reward_mean": round(lift * (0.15 + 0.6 * (1 - math.exp(-4 * done))) + noise.gauss(0, 0.03), 4),
            "reward_std": round(0.45 - 0.1 * done + noise.gauss(0, 0.01), 4),
            "length_mean": round(length, 1),
            "length_p50": round(length * 0.86, 1),
            "length_p99": round(min(80_000, length * 2.7), 1),
            "window": 40_960 if done < 0.6 else 49_152,
            "entropy": round(0.9 * math.exp(-1.2 * done) + 0.08 + noise.gauss(0, 0.01), 4),
            "loss": round(noise.gauss(-0.01, 0.02), 5),
            "router_auxiliary_loss": None,
            "grad_norm": round(abs(noise.gauss(0.4, 0.1)) + 0.1, 4),
            "grad_clip": 1.0,
            "ratio_mean": round(1 + noise.gauss(0, 0.002), 5),
            "ratio_max": SPIKE_RATIO if step == SPIKE_STEP else round(2 + abs(noise.gauss(0, 1.2)), 3),
            "clip_share_high": round(abs(noise.gauss(0.004, 0.002)), 5),
            "clip_share_low": 0.0,
            "masked_share": round(abs(noise.gauss(0.01, 0.004)), 5),
            "staleness_mean": round(1.4 + noise.gauss(0, 0.3), 3),
            "staleness_max": noise.choice((2, 3, 3, 4)),
            "correlation": round(0.9985 - abs(noise.gauss(0, 0.0006)), 5),
            "unequal_tokens": 0,
            "learning_rate": 1e-6,
            "seconds": seconds,
            "tokens_per_s": round(tokens / seconds["train"], 1),
        }


def make_events(step: int) -> list[types_pb2.RunEvent]:
    """Of every severity."""
    severities = (types_pb2.SEVERITY_INFO, types_pb2.SEVERITY_WARNING, types_pb2.SEVERITY_ALERT)
    return [
        types_pb2.RunEvent(
            id=f"e{number}",
            kind=("window_advanced", "evaluation_skipped", "entropy_low")[number % 3],
            severity=severities[number % 3],
            step=step - 900 + number * 100,
            at=START + number * 5000,
            title=("Window 40960 to 49152", "Version 4200 is not evaluated", "Entropy fell below 0.1")[
                number % 3
            ],
            evidence_json='{"p99": 39021.0, "tail_ratio": 1.18, "window": 49152}',
        )
        for number in range(9)
    ]


def make_rounds() -> list[buffer_pb2.EvaluationResult]:
    """Complete rounds that get better."""
    return [
        buffer_pb2.EvaluationResult(
            version=250 * number,
            num_samples=256,
            mean_reward=0.2 + 0.03 * number,
            reward_low=0.15 + 0.03 * number,
            reward_high=0.25 + 0.03 * number,
            confidence=0.95,
            num_prompts=64,
            samples_per_prompt=4,
            complete=True,
            pass_at=[
                buffer_pb2.PassAtK(k=k, value=min(0.95, start + 0.03 * number), low=0.1, high=0.9)
                for k, start in ((1, 0.2), (4, 0.35))
            ],
        )
        for number in range(1, 20)
    ]


def make_queues() -> list[buffer_pb2.QueueStatus]:
    """Work that waits and that pods hold."""
    return [
        buffer_pb2.QueueStatus(
            name="tasks",
            num_waiting=31,
            num_leased=64,
            oldest_age_s=12.2,
            holders=[
                buffer_pb2.LeaseHolder(name=f"rollout-7d9f6c5b8-{n:05d}", num_leased=14 - n) for n in range(5)
            ],
        ),
        buffer_pb2.QueueStatus(name="evaluate", num_waiting=0, num_leased=0),
        buffer_pb2.QueueStatus(
            name="scoring",
            num_waiting=5,
            num_leased=9,
            oldest_age_s=1.4,
            holders=[buffer_pb2.LeaseHolder(name="reward-front-0", num_leased=9)],
        ),
    ]


def make_status(step: int = 10_000) -> buffer_pb2.GetStatusReply:
    """A running run with events, rounds, queues and a stuck sample."""
    return buffer_pb2.GetStatusReply(
        run_id=RUN_ID,
        phase=buffer_pb2.RUN_PHASE_RUNNING,
        step=step,
        version=step // 2,
        window_tokens=49152,
        num_open_groups=96,
        num_ready_groups=12,
        credit_tokens=41_000_000,
        credit_bytes=9 << 30,
        num_dead_letters=2,
        lineage="3f9ab2c4d5e6",
        counts=[
            buffer_pb2.StateCount(state=types_pb2.SAMPLE_STATE_TRAINED, num_samples=5_120_000),
            buffer_pb2.StateCount(
                state=types_pb2.SAMPLE_STATE_FILTERED, reason="all_equal", num_samples=812_344
            ),
            buffer_pb2.StateCount(state=types_pb2.SAMPLE_STATE_STALE, reason="too_old", num_samples=1_204),
        ],
        queues=make_queues(),
        evaluations=make_rounds(),
        events=make_events(step),
        stuck=[
            buffer_pb2.StuckSample(
                sample_id=f"{RUN_ID}/g00019211/s003",
                state=types_pb2.SAMPLE_STATE_QUEUED,
                since=START,
                where="queue tasks, entry 1795-0: held by rollout-3 (delivery 2)",
            )
        ],
    )


def make_pods(num_pods: int = 6, *, version: int = 5_000) -> list[PodAnswer]:
    """Pods that serve; one drains, one is out of service, one does not answer."""
    answers = []
    for number in range(num_pods):
        name = f"rollout-7d9f6c5b8-{number:05d}"
        reply = rollout_pb2.GetRolloutStatusReply(
            pod=name,
            version=version - (number % 3 == 1),
            num_running=64 - number % 60,
            num_waiting=number,
            tokens_per_s=9_000 + 137 * number,
            num_samples=81_000 + number,
            last_swap_s=0.42,
            swap_policy="keep",
            swap_cache="recompute",
            numeric_mode=types_pb2.NumericMode(is_parity=True),
            probe=rollout_pb2.Probe(outcome=rollout_pb2.PROBE_OUTCOME_EQUAL, version=version),
            draining=number == 2,
            out_of_service="the probe of version 5000 disagrees: 3 of 64 log-probs differ"
            if number == 3
            else "",
        )
        answers.append(PodAnswer(name=name, address=f"10.0.0.{number}:7200", reply=reply))
    answers.append(
        PodAnswer(name="rollout-lost", address="10.0.0.99:7200", problem="does not answer: refused")
    )
    return answers
