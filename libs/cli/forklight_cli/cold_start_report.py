"""What a cold start says, as lines for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from forklight_cli.cold_start import SftEvent


def describe_event(event: SftEvent) -> str:
    """One or more lines; empty for what nobody waits for."""
    found = LINES.get(str(event["event"]))
    return found(event) if found else ""


def is_worth_telling(event: SftEvent) -> bool:
    """About ten steps of all, and everything else that has a line."""
    if event["event"] == "step":
        return int(_number(event, "step")) % max(1, int(_number(event, "num_steps")) // 10) == 0
    return bool(describe_event(event))


def describe_duration(seconds: float) -> str:
    """42 s, 3 min, 2.5 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _check(event: SftEvent) -> str:
    done, whole = _number(event, "num_bytes"), _number(event, "total_bytes")
    return f"checking {event['file']}: {100 * done / max(1.0, whole):.0f} %"


def _data(event: SftEvent) -> str:
    lines = [f"{event['demonstrations']}: {_figures(event['figures'])}"]
    if event["holdout"]:
        lines.append(f"held out: {_figures(event['holdout'])}")
    lines.append(
        f"{event['num_steps']} steps, {_number(event, 'num_epochs'):.2f} epochs; a step has about "
        f"{_number(event, 'mean_examples'):.0f} demonstrations, {_number(event, 'mean_tokens'):.0f} tokens, "
        f"{_number(event, 'mean_packs'):.1f} packs"
    )
    return "\n".join(lines)


def _figures(figures: object) -> str:
    assert isinstance(figures, Mapping)
    text = (
        f"{figures['num_examples']} demonstrations, {figures['num_tokens']} tokens, "
        f"{figures['num_counted']} of them learned; the longest has {figures['longest']}"
    )
    for name, words in (("num_cut", "cut"), ("num_dropped", "dropped")):
        text += f"; {figures[name]} {words}" if figures[name] else ""
    return text + (f"; ignored keys: {', '.join(figures['ignored_keys'])}" if figures["ignored_keys"] else "")


def _start(event: SftEvent) -> str:
    return f"goes on behind step {event['step']}" if event["step"] else ""


def _step(event: SftEvent) -> str:
    return (
        f"step {event['step']}/{event['num_steps']}  loss {_number(event, 'loss'):.4f}  "
        f"{_number(event, 'tokens_per_s'):.0f} tokens/s  {describe_duration(_number(event, 'eta_s'))} left"
    )


def _holdout(event: SftEvent) -> str:
    return (
        f"step {event['step']}: held-out loss {_number(event, 'loss'):.4f} (perplexity "
        f"{_number(event, 'perplexity'):.3f}), lowest {_number(event, 'best_loss'):.4f} at step "
        f"{event['best_step']}"
    )


def _end(event: SftEvent) -> str:
    if event["is_finished"]:
        return f"model: {event['folder']}"
    return f"stopped behind step {event['step']}/{event['num_steps']}; it can go on from there"


def _number(event: SftEvent, name: str) -> float:
    value = event[name]
    assert isinstance(value, int | float)
    return float(value)


LINES: Mapping[str, Callable[[SftEvent], str]] = {
    "check": _check,
    "data": _data,
    "start": _start,
    "step": _step,
    "holdout": _holdout,
    "end": _end,
}
