"""The numeric contract: what both sides of training and generation must compute alike, as data, and its hash.

The page in kernels/README.md says the same in words; a test holds the two together. Whatever is not named here
(tiles, warps, stages, batch, packing, page size) is free, because it changes no bit on the GPUs that pass the
self-test. Change a value or a rule, raise VERSION.
"""

import json
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from types import MappingProxyType

from forklight_kernels.lightning_attention.chunks import MAX_CHUNK
from forklight_kernels.softmax_attention.blocks import KEY_GRID
from forklight_kernels.token_stats.blocks import VOCABULARY_BLOCK

VERSION = 1
HASH_LENGTH = 16

TERMS: Mapping[str, str | int] = MappingProxyType(
    {
        "version": VERSION,
        "storage": "residual stream, projections, silu(q|k|v), attention out, gate out, expert hidden, expert out",
        "product": "one fp32 accumulator, K ascending, never split",
        "residual": "alpha * x + beta * f in fp32, rounded once",
        "router": "fp32 logits of the stored operands; weights = softmax of the chosen logits; ties to the lowest",
        "experts": "hidden = round(silu(gate) * up) from fp32; outputs rounded, added in slot order",
        "rows": "one program a row, block and warps from the width",
        "lightning_chunk": MAX_CHUNK,
        "lightning": "state fp32; q.S and P.v in the storage type; v decayed, rounded, added once a chunk",
        "softmax_block": KEY_GRID.block,
        "softmax_split": KEY_GRID.split,
        "softmax": "online by blocks inside a split, splits merged in order; row sums by a product with ones",
        "vocabulary_block": VOCABULARY_BLOCK,
        "head": "fp32 logits of the stored operands times 1/temperature; block sums by products with ones",
    }
)


@cache
def contract_hash() -> str:
    """Short hash of the terms: rides on checkpoints, manifests and trajectories."""
    canonical = json.dumps(dict(TERMS), sort_keys=True, separators=(",", ":"))
    return sha256(canonical.encode()).hexdigest()[:HASH_LENGTH]
