"""From published weights to an engine over several processes."""

from __future__ import annotations

from functools import partial

import torch

from forklight_core.errors import ConfigError
from forklight_model.parallel import DistributedGather
from forklight_model.shard import Shard, check_cut
from forklight_rollout.adapters.native.engine import NativeEngine, NativeOptions
from forklight_rollout.adapters.native.factory import plan_engine
from forklight_rollout.adapters.native.ranks.followers import Followers, GroupWish
from forklight_rollout.adapters.native.ranks.leader import LeadingRunner, load_parts
from forklight_rollout.adapters.published import load_weights, read_config
from forklight_rollout.memory_plan import MemoryWish
from forklight_rollout.weights.manifest import PublishedWeights


def lead_engine(
    wish: MemoryWish, options: NativeOptions, weights: PublishedWeights, device: str
) -> NativeEngine:
    """This process is its first; the others are started here, and end with `close` or with this one."""
    shard = Shard(rank=0, size=options.num_gpus)
    check_cut(read_config(weights), shard)
    if device == "cuda" and torch.cuda.device_count() < shard.size:
        raise ConfigError(
            f"a pod is to compute with {shard.size} GPUs and sees {torch.cuda.device_count()}: lower "
            "FORKLIGHT_GPUS_PER_POD, or give the pod as many (CUDA_VISIBLE_DEVICES may hide some)"
        )
    group = GroupWish(
        size=shard.size, device=device, threads=options.threads, deadline_s=options.gpus_deadline_s
    )
    followers = Followers(group)
    try:
        dtype, gather = options.number_type, DistributedGather(shard)
        load = partial(load_weights, weights, dtype=dtype, device=device, shard=shard, gather=gather)
        model, answers = load_parts(followers, weights, dtype, load)
        free_bytes = min(answer.free_bytes for answer in answers)
        plan = plan_engine(wish, options, model, device, least_free_bytes=free_bytes)
        runner = partial(LeadingRunner, followers)
        return NativeEngine(model, plan, options, version=weights.version, make_runner=runner)
    except BaseException:
        followers.close()
        raise
