"""What became of a program: a class, a score, the tests and what it used."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum


class Class(StrEnum):
    """The classes of programming contests, and one for a breach of the jail's rules."""

    ACCEPTED = "AC"
    WRONG_ANSWER = "WA"
    COMPILE_ERROR = "CE"
    RUNTIME_ERROR = "RE"
    TIME_LIMIT = "TLE"
    MEMORY_LIMIT = "MLE"
    OUTPUT_LIMIT = "OLE"
    VIOLATION = "SV"


LIMIT_CLASSES = frozenset({Class.TIME_LIMIT, Class.MEMORY_LIMIT, Class.OUTPUT_LIMIT, Class.VIOLATION})


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What all runs of a program used."""

    cpu_s: float = 0.0
    wall_s: float = 0.0
    memory_peak_bytes: int = 0
    output_bytes: int = 0

    def plus(self, other: Usage) -> Usage:
        """Times and bytes add up, peaks do not."""
        return Usage(
            cpu_s=self.cpu_s + other.cpu_s,
            wall_s=self.wall_s + other.wall_s,
            memory_peak_bytes=max(self.memory_peak_bytes, other.memory_peak_bytes),
            output_bytes=self.output_bytes + other.output_bytes,
        )


def masked_json(reason: str) -> str:
    """One line about a program that got no verdict because the sandbox failed: no score, never 0."""
    tests = {"passed": 0, "total": 0, "first_fail": None}
    return json.dumps(
        {"class": None, "score": None, "mask": True, "tests": tests, "usage": {}, "evidence": reason}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxResult:
    """A final verdict on a program. A failure of the sandbox itself is an exception, never a result."""

    verdict: Class
    num_passed: int
    num_tests: int
    first_fail: int | None
    usage: Usage
    evidence: str = ""

    @property
    def score(self) -> float:
        """1 for an accepted program, else 0."""
        return 1.0 if self.verdict is Class.ACCEPTED else 0.0

    def to_json(self) -> str:
        """One line for people and the wire."""
        return json.dumps(
            {
                "class": self.verdict.value,
                "score": int(self.score),
                "mask": False,
                "tests": {"passed": self.num_passed, "total": self.num_tests, "first_fail": self.first_fail},
                "usage": {
                    "cpu_ms": round(self.usage.cpu_s * 1000),
                    "wall_ms": round(self.usage.wall_s * 1000),
                    "mem_peak": self.usage.memory_peak_bytes,
                    "out_bytes": self.usage.output_bytes,
                },
                "evidence": self.evidence,
            }
        )
