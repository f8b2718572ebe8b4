"""The console's columns are fields that the trainer writes: a renamed field must not empty a column."""

from __future__ import annotations

from dataclasses import fields

from forklight_console.page import STEP_COLUMNS
from forklight_trainer.steps.records import StepRecord


def test_every_column_of_the_console_is_a_field_of_a_step_record() -> None:
    assert set(STEP_COLUMNS) <= {field.name for field in fields(StepRecord)}
