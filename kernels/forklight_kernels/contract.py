"""The numeric contract: what training and generation must compute alike, as data, and its hash.

The page in kernels/README.md says the same in words; a test holds the two together. Whatever is not named
here (tiles, warps, stages, batch, packing, page size) is free: it changes no bit on GPUs that pass the
self-test. Change a value or a rule, raise VERSION.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from types import MappingProxyType

from forklight_kernels.lightning_attention.chunks import MAX_CHUNK
from forklight_kernels.softmax_attention.blocks import KEY_BLOCK, KEY_SPLIT
from forklight_kernels.token_stats.blocks import VOCABULARY_BLOCK

VERSION = 1
HASH_LENGTH = 16

TERMS: Mapping[str, str | int] = MappingProxyType(
    {
        "version": VERSION,
        "storage": "residual stream, projections, silu(q|k|v), outputs of attention, gate, experts; hidden",
        "product": "one fp32 accumulator, K ascending, never split",
        "residual": "alpha * x + beta * f in fp32, rounded once",
        "router": "fp32 logits; weights are the softmax of the chosen logits; ties to the lowest expert",
        "experts": "hidden = round(silu(gate) * up) from fp32; outputs rounded, added in slot order",
        "rows": "one program a row, block and warps from the width; rms_norm rounds twice, others once",
        "lightning_chunk": MAX_CHUNK,
        "lightning": "state fp32; q.S and P.v in the storage type; v decayed, rounded, added once a chunk",
        "softmax_block": KEY_BLOCK,
        "softmax_split": KEY_SPLIT,
        "softmax": "online by blocks inside a split, splits merged in order; row sums by a product with ones",
        "vocabulary_block": VOCABULARY_BLOCK,
        "head": "fp32 logits times 1/temperature; sums by one tree of pairs, in blocks and over blocks",
    }
)


def contract_hash(terms: Mapping[str, str | int] = TERMS) -> str:
    """Short hash of the terms: rides on checkpoints, manifests and trajectories."""
    canonical = json.dumps(dict(terms), sort_keys=True, separators=(",", ":"))
    return sha256(canonical.encode()).hexdigest()[:HASH_LENGTH]
