"""The numeric contract: what trainer and rollout must agree on before their probabilities can be compared.

Its hash travels in the weights manifest and comes back with every trajectory.
"""

from __future__ import annotations

import blake3

from forklight_model.policy import PolicyConfig
from forklight_trainer.durable import canonical_json

CONTRACT_VERSION = 2
HASH_LENGTH = 16


def contract_hash(config: PolicyConfig, dtype: str) -> str:
    """Short hash of architecture, dtype, and what computes it: the kernels' own contract (what they round, in
    which order), or transformers' release."""
    content = {
        "contract_version": CONTRACT_VERSION,
        "config": config.to_published(),
        "dtype": dtype,
        "kernels": config.numerics,
    }
    return blake3.blake3(canonical_json(content)).hexdigest()[:HASH_LENGTH]
