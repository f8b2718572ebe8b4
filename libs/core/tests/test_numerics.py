"""How the numeric mode is told: one line, loud where equal bits could be had and are not."""

from __future__ import annotations

import logging

import pytest

from forklight.v1 import types_pb2
from forklight_core.numerics import log_numeric_mode


@pytest.mark.parametrize(
    ("is_parity", "device", "level", "told"),
    [
        (True, "NVIDIA H200", logging.INFO, "parity mode: why"),
        (False, "NVIDIA H200", logging.WARNING, "tolerance mode: why"),
        (False, "cpu", logging.INFO, "tolerance mode: why"),
    ],
)
def test_numeric_mode_is_a_warning_only_on_a_gpu_without_parity(
    caplog: pytest.LogCaptureFixture, is_parity: bool, device: str, level: int, told: str
) -> None:
    mode = types_pb2.NumericMode(is_parity=is_parity, reason="why", contract="c1", device=device)
    with caplog.at_level(logging.INFO):
        log_numeric_mode(logging.getLogger("test"), mode)
    (record,) = caplog.records
    fields = vars(record)
    assert (record.levelno, fields["numeric_mode"], fields["contract"]) == (level, told, "c1")
