"""The length windows of a run: the one place that says which there are. The trainer moves between them."""

from __future__ import annotations

from forklight_core.runfile.schema import RunFile


def first_window(run_file: RunFile) -> int:
    """Tokens a response may have before anybody has moved the window."""
    windows = run_file.length.windows
    return windows[0] if windows else run_file.sampling.max_new_tokens


def largest_window(run_file: RunFile) -> int:
    """Tokens a response may ever have in this run: what pods, packs and checks plan for."""
    return max(run_file.length.windows, default=run_file.sampling.max_new_tokens)
