"""Rows a CPU second and peak memory of every step, on rows that are made up: python curation.py --rows N.

Of the rows, 5 % are exact duplicates, 5 % differ in one word, and prompts have 15 to 120 words.
"""

from __future__ import annotations

import argparse
import random
import resource
import shutil
import tempfile
import time
from itertools import accumulate
from pathlib import Path

from forklight_cli.data_rules import RewardRules
from forklight_data.curating import Tools, curate
from forklight_data.importing import ImportRequest, import_rows
from forklight_data.parts import read_parts
from forklight_data.ports import NobodyWatches
from forklight_data.recipe import make_recipe
from forklight_data.record import write_json
from forklight_data.splitting import SplitRequest, split_records
from forklight_data.statistics import count_records


def main() -> None:
    """Make rows, do everything, print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--keep", type=Path, help="Folder to work in and keep.")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="forklight-data-"))
    try:
        measure(folder, options.rows)
    finally:
        if options.keep is None:
            shutil.rmtree(folder)


def measure(folder: Path, num_rows: int) -> None:
    """One line a step."""
    print(f"{'step':16} {'rows':>9} {'CPU s':>8} {'rows/s':>8} {'peak MiB':>9}")
    started = time.process_time()
    rows, tests, results = make_files(folder, num_rows)
    tell("(made)", num_rows, started)
    started = time.process_time()
    import_rows(ImportRequest(sources=(rows,), out=folder / "records.jsonl"))
    tell("import", num_rows, started)
    recipe = make_recipe({"contamination": {"tests": [tests]}, "pass_rate": {"results": [results]}}, "bench")
    clock = Clock()
    curate(folder / "records.jsonl", folder / "curated", recipe, Tools(rules=RewardRules(), watcher=clock))
    result = folder / "curated" / "curated.jsonl"
    num_left = sum(1 for _ in result.open("rb"))
    started = time.process_time()
    count_records(result)
    tell("stats", num_left, started)
    started = time.process_time()
    parts = read_parts(["train=0.98", "holdout=0.02"])
    split_records(SplitRequest(source=result, folder=folder / "parts", parts=parts))
    tell("split", num_left, started)


class Clock(NobodyWatches):
    """Times every step from its beginning to its word."""

    def begin(self, name: str, total: int | None) -> None:
        """Starts the watch."""
        self._name, self._total, self._started = name, total or 0, time.process_time()

    def say(self, text: str) -> None:
        """Stops it."""
        tell(self._name, self._total, self._started)


def tell(name: str, num_rows: int, started: float) -> None:
    """A line of the table."""
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"{name:16} {num_rows:>9} {seconds:>8.1f} {num_rows / max(seconds, 1e-9):>8.0f} {peak:>9}", flush=True
    )


def make_files(folder: Path, num_rows: int) -> tuple[Path, Path, Path]:
    """Rows, 1,000 test items of which 50 are rows, and a result for every row."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(7)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(chance.choices(letters, k=chance.randint(2, 9))) for _ in range(20_000)]
    weights = list(accumulate(1 / (place + 10) for place in range(len(words))))
    paths = [folder / name for name in ("rows.jsonl", "tests.jsonl", "results.jsonl")]
    earlier: list[tuple[str, str]] = []
    with paths[0].open("wb") as rows, paths[1].open("wb") as tests, paths[2].open("wb") as results:
        for number in range(num_rows):
            if len(earlier) > 100 and number % 10 == 0:
                text, answer = chance.choice(earlier)
                if number % 20 == 0:
                    text = text + " indeed"
            else:
                drawn = chance.choices(words, cum_weights=weights, k=chance.randint(10, 115))
                left, right = chance.randint(2, 999), chance.randint(2, 999)
                text = f"A {' '.join(drawn)} has {left} and {right}. How many?"
                answer = chance.choice(
                    [str(number), f"\\frac{{{number}}}{{7}}", f"{number}.5", f"({number}, 3)"]
                )
                if number % 50 == 1:
                    earlier.append((text, answer))
            rows.write(write_json({"id": f"r{number}", "question": text, "answer": answer}).encode() + b"\n")
            if number < 1000:
                item = text if number < 50 else " ".join(chance.choices(words, cum_weights=weights, k=40))
                test = {"id": f"t{number}", "question": item, "answer": answer}
                tests.write(write_json(test).encode() + b"\n")
            told = {"id": f"r{number}", "k": 10, "passes": number % 11, "policy_version": "v0"}
            results.write(write_json(told).encode() + b"\n")
    return paths[0], paths[1], paths[2]


if __name__ == "__main__":
    main()
