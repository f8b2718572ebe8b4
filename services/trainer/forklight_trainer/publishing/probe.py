"""The probe of a version: what these weights say of a fixed token sequence, for pods to compare theirs with.

Legend: T tokens of the sequence.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time

import torch

from forklight.v1 import types_pb2
from forklight_core.errors import PreconditionError
from forklight_core.weights.manifest import Probe
from forklight_trainer.batches.packing import Pack
from forklight_trainer.ports import TrainEngine

log = logging.getLogger(__name__)

PROBE_TOKENS = 320
"""Five chunks of 64, and past a border of 256 tokens, where caches begin a new page."""
PROBE_SEED = 20250613


def probe_ids(vocabulary_size: int, num_tokens: int = PROBE_TOKENS, *, seed: int = PROBE_SEED) -> list[int]:
    """The same tokens everywhere and for ever, spread over the vocabulary."""
    return [
        int.from_bytes(hashlib.blake2b(f"{seed}/{place}".encode(), digest_size=8).digest(), "big")
        % vocabulary_size
        for place in range(num_tokens)
    ]


def compute_probe(engine: TrainEngine, mode: types_pb2.NumericMode) -> Probe:
    """The manifest's field: ids, the log-probs of all after the first, and where they were computed.

    The engine scores with the weights as they are published, by the forward pass it trains with. Log-probs
    are fp32 numbers written as decimals of full length: whoever reads them has the same bits.
    """
    started = time.perf_counter()
    num_tokens = min(PROBE_TOKENS, engine.config.max_position_embeddings)
    ids = probe_ids(engine.config.vocab_size, num_tokens)
    logprobs = engine.score(_probe_pack(ids), 1.0).logprobs_T.tolist()[1:]
    if not all(map(math.isfinite, logprobs)):
        odd = sum(not math.isfinite(logprob) for logprob in logprobs)
        raise PreconditionError(
            f"{odd} of {len(logprobs)} log-probs of the probe are not finite under the weights that were to "
            "be published: they are not given to rollout; go back to an older checkpoint"
        )
    log.info("probe computed", extra={"probe_s": round(time.perf_counter() - started, 4), "tokens": len(ids)})
    return Probe(
        ids=tuple(ids),
        logprobs=tuple(logprobs),
        is_parity=mode.is_parity,
        contract=mode.contract,
        device=mode.device,
        torch=mode.torch,
        triton=mode.triton,
    )


def _probe_pack(ids: list[int]) -> Pack:
    """One sequence that nobody learns from."""
    none = torch.zeros(0)
    return Pack(
        input_ids_T=torch.tensor(ids, dtype=torch.int64),
        cu_seqlens=torch.tensor([0, len(ids)], dtype=torch.int32),
        response_index_R=none.long(),
        behaviour_R=none,
        advantages_R=none,
        weights_R=none.double(),
        versions_R=none.long(),
        sample_R=none.long(),
        sample_indices=(),
    )
