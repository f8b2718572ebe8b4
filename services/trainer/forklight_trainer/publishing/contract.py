"""The numeric contract: what trainer and rollout must agree on before their probabilities can be compared.

Its hash travels in the weights manifest and comes back with every trajectory.
"""

from __future__ import annotations

import blake3

from forklight_kernels.contract import contract_hash as kernels_contract
from forklight_model.config import ModelConfig
from forklight_trainer.durable import canonical_json

CONTRACT_VERSION = 2
HASH_LENGTH = 16


def contract_hash(config: ModelConfig, dtype: str) -> str:
    """Short hash of architecture, dtype, and the kernels' own contract: what they round, in which order."""
    content = {
        "contract_version": CONTRACT_VERSION,
        "config": config.to_published(),
        "dtype": dtype,
        "kernels": kernels_contract(),
    }
    return blake3.blake3(canonical_json(content)).hexdigest()[:HASH_LENGTH]
