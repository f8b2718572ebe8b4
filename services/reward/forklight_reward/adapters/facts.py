"""What a sandbox's reply tells beside the score: where the program ran, what it used, evidence."""

from __future__ import annotations

import json
from contextlib import suppress

from forklight_reward.ports import Tier, Usage


def tier_of(worker_version: str) -> Tier:
    """The second word of a runner's version names its tier, unless that is the jail."""
    name = worker_version.partition(" ")[2].partition(" ")[0].removeprefix("UNSAFE-")
    return Tier(name) if name in set(Tier) else Tier.JAIL


def usage_of(result_json: str, wall_s: float) -> Usage:
    """The usage in a result; of one that cannot be read, the wall time alone."""
    found: object = None
    with suppress(ValueError, TypeError, KeyError, RecursionError):
        found = json.loads(result_json)["usage"]
    used = found if isinstance(found, dict) else {}

    def number(name: str) -> int:
        value = used.get(name)
        return value if type(value) is int and 0 <= value < 1 << 62 else 0

    return Usage(
        cpu_ms=number("cpu_ms"),
        wall_ms=number("wall_ms") or round(wall_s * 1000),
        mem_peak_bytes=number("mem_peak"),
        out_bytes=number("out_bytes"),
    )


def sandbox_detail(result_json: str, source: str, commands: tuple[str, ...] = ()) -> str:
    """What was run and what came of it, for people who look for tricks."""
    done = "".join(f"$ {command}\n" for command in commands)
    return f"{result_json}\n--- program\n{source}\n" + (f"--- session\n{done}" if done else "")
