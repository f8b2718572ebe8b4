"""A pod's engine over two processes, for a test that kills it: python ranks_leader.py MANIFEST ID
DEVICE.

Says the follower's pid on standard output, then generates for as long as it lives.
"""

import sys
from pathlib import Path

from forklight_rollout.adapters.native import NativeEngine, NativeOptions, native_engine_factory
from forklight_rollout.memory_plan import MemoryWish
from forklight_rollout.ports import DrawRules, EndRules, PromptStart, SequenceStart
from forklight_rollout.weights.manifest import verify_weights

WISH = MemoryWish(max_batch=2, max_prompt_tokens=8, max_new_tokens=200, budget_bytes=2**26)


def main(manifest: str, manifest_id: str, device: str) -> None:
    weights = verify_weights(Path(manifest), manifest_id, version=0, run_id="test-run")
    loaded = [name for name in sys.modules if ".native.ranks" in name]
    assert not loaded, f"the engine loads {loaded} before it knows that it needs them"
    dtype = "bfloat16" if device == "cuda" else "float32"
    options = NativeOptions(dtype=dtype, device=device, threads=1, num_gpus=2)
    engine = native_engine_factory(WISH, options)(weights)
    assert isinstance(engine, NativeEngine)
    sys.stdout.write(f"{engine._runner._followers.members[0].process.pid}\n")  # type: ignore[attr-defined]
    sys.stdout.flush()
    for key in range(10**6):
        start = SequenceStart(key=key, seed=key)
        rules = {"draw": DrawRules(temperature=1.0), "end": EndRules(max_new_tokens=100)}
        engine.admit(PromptStart(group=key, prompt_ids=(1, 2, 3), sequences=(start,), **rules))  # type: ignore[arg-type]
        while not any(engine.step().reasons):
            pass


if __name__ == "__main__":
    main(*sys.argv[1:])
