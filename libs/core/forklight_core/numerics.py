"""How a process says in which numeric mode it computes: once in its log, and in words for people."""

from __future__ import annotations

import logging

from forklight.v1 import types_pb2

CPU = "cpu"


def describe_numeric_mode(mode: types_pb2.NumericMode) -> str:
    """Parity or tolerance, and why."""
    name = "parity" if mode.is_parity else "tolerance"
    return f"{name} mode: {mode.reason}"


def log_numeric_mode(log: logging.Logger, mode: types_pb2.NumericMode) -> None:
    """One line. On a GPU, tolerance is a warning: there, equal bits could be had."""
    level = logging.INFO if mode.is_parity or mode.device == CPU else logging.WARNING
    log.log(
        level,
        "numeric mode",
        extra={
            "numeric_mode": describe_numeric_mode(mode),
            "contract": mode.contract,
            "device": mode.device,
            "torch": mode.torch,
            "triton": mode.triton,
        },
    )
