"""Writes the example's sums: prompts to learn from, and worked examples that show the form of an answer."""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

LARGEST = 19
NUM_DEMONSTRATIONS = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write prompts.jsonl and demonstrations.jsonl to")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    chance = random.Random(0)
    sums = [(left, right) for left in range(LARGEST + 1) for right in range(LARGEST + 1)]
    chance.shuffle(sums)
    prompts = [
        {"id": f"add-{a}-{b}", "prompt": f"{a}+{b}=", "kind": "math", "gold": str(a + b)} for a, b in sums
    ]
    worked = [
        {"prompt": f"{a}+{b}=", "response": f"\\boxed{{{a + b}}}"}
        for a, b in (chance.choice(sums) for _ in range(NUM_DEMONSTRATIONS))
    ]
    for name, lines in (("prompts", prompts), ("demonstrations", worked)):
        (out / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
