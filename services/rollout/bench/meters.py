"""Time of steps on the host and on the device, and memory.

On a GPU a step's own time is taken while the device is kept from starting it until all of it is queued: what
lies between two events is then work of the device and nothing else. The wall knows of the rest.
"""

# ruff: noqa: INP001
from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paths  # noqa: F401
import torch

from forklight_rollout.adapters.native import NativeEngine
from forklight_rollout.adapters.native.runner import DrawnTokens, Launched
from forklight_rollout.generation.generator import Generator

BLOCK_CYCLES = 40_000_000
"""About 20 ms: longer than the host needs to queue a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Some decode steps in a row."""

    seconds: list[float]  # of each
    num_tokens: int
    waited_s: float  # of all, that the host waited for the device

    @property
    def total_s(self) -> float:
        return sum(self.seconds)

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.total_s

    @property
    def mean_ms(self) -> float:
        return 1e3 * self.total_s / len(self.seconds)

    @property
    def median_ms(self) -> float:
        return 1e3 * statistics.median(self.seconds)

    @property
    def host_ms(self) -> float:
        """What the host does for a step beside waiting."""
        return self.mean_ms - 1e3 * self.waited_s / len(self.seconds)


class WaitMeter:
    """Seconds that reading a step's numbers waited for the device, while it is entered."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> WaitMeter:
        original = self._original = Launched.read

        def read(launched: Launched) -> DrawnTokens:
            if launched._arrived is not None:
                started = time.perf_counter()
                launched._arrived.synchronize()
                self.seconds += time.perf_counter() - started
            return original(launched)

        Launched.read = read  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        Launched.read = self._original  # type: ignore[method-assign]


def time_steps(generator: Generator, num_steps: int) -> Window:
    """The wall time of steps as a pod takes them."""
    seconds, before = [], generator.num_tokens
    with WaitMeter() as waits:
        for _ in range(num_steps):
            started = time.perf_counter()
            generator.step()
            seconds.append(time.perf_counter() - started)
    return Window(seconds=seconds, num_tokens=generator.num_tokens - before, waited_s=waits.seconds)


def device_ms(generator: Generator, num_steps: int = 16) -> float | None:
    """The median step on the device: graph, draw, end rules, copies. None on a CPU."""
    engine = generator.engine
    assert isinstance(engine, NativeEngine)
    if engine._runner.model.lm_head.weight.device.type != "cuda":
        return None
    return _median_ms(_Bracket(engine, "_launch", is_blocked=True), generator, num_steps)


class _Bracket:
    """Wraps a method so that each call lies between two points of the device's time."""

    def __init__(self, owner: Any, name: str, *, is_blocked: bool = False) -> None:  # noqa: ANN401
        self._owner, self._name, self._is_blocked = owner, name, is_blocked
        self._call: Callable[..., object] = getattr(owner, name)
        self._is_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
        self._open: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self._done: list[float] = []
        setattr(owner, name, self._bracketed)

    def restore(self) -> None:
        delattr(self._owner, self._name)

    def durations(self) -> list[float]:
        """Seconds of every call so far; waits for the device."""
        if self._open:
            self._open[-1][1].synchronize()
            self._drain()
        return self._done

    def _bracketed(self, *arguments: object, **named: object) -> object:
        if not self._is_cuda:
            started = time.perf_counter()
            result = self._call(*arguments, **named)
            self._done.append(time.perf_counter() - started)
            return result
        if self._is_blocked:
            torch.cuda._sleep(BLOCK_CYCLES)
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        result = self._call(*arguments, **named)
        end.record()
        self._open.append((begin, end))
        self._drain()
        return result

    def _drain(self) -> None:
        while self._open and self._open[0][1].query():
            begin, end = self._open.popleft()
            self._done.append(begin.elapsed_time(end) / 1e3)


@dataclass
class BusyMeter:
    """How much of the wall time the device works: at least (graphs, prefill), at most (whole launches).

    Between the two lie the small kernels that draw tokens, and the gaps before them where the host is late.
    """

    engine: NativeEngine
    _inner: list[_Bracket] = field(default_factory=list)
    _outer: list[_Bracket] = field(default_factory=list)

    def __enter__(self) -> BusyMeter:
        runner = self.engine._runner
        decoder = (runner, "decode") if runner._graphs is None else (runner._graphs, "decode")
        self._inner = [_Bracket(*decoder), _Bracket(runner, "feed")]
        self._outer = [_Bracket(self.engine, "_launch")]
        return self

    def __exit__(self, *_: object) -> None:
        for bracket in (*self._inner, *self._outer):
            bracket.restore()

    def read(self) -> tuple[float, float]:
        """Seconds of the device since it was entered, at least and at most."""
        inner, outer = (
            sum(sum(bracket.durations()) for bracket in brackets) for brackets in (self._inner, self._outer)
        )
        return inner, outer


def graph_ms(generator: Generator, num_steps: int = 16) -> float | None:
    """The median recorded graph on the device. None where nothing is recorded."""
    engine = generator.engine
    assert isinstance(engine, NativeEngine)
    if engine._runner._graphs is None:
        return None
    return _median_ms(_Bracket(engine._runner._graphs, "decode", is_blocked=True), generator, num_steps)


def _median_ms(bracket: _Bracket, generator: Generator, num_steps: int) -> float:
    try:
        for _ in range(num_steps):
            generator.step()
    finally:
        bracket.restore()
    return 1e3 * statistics.median(bracket.durations())


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_gib(device: str) -> float:
    """Most device memory since `reset_peak`; on a CPU what the process holds now."""
    return torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else host_gib()


def host_gib() -> float:
    """Memory that the process holds on the host."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**30
