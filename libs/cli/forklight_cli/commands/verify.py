"""`forklight verify`: one answer, or a file of them, against references."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from forklight_cli.commands.output import print_json_line


@click.command()
@click.option("--kind", type=click.Choice(["math", "logic"]), default="math", show_default=True)
@click.option("--gold", help="Reference answer (math).")
@click.option("--spec", type=click.Path(path_type=Path), help="JSON file of a specification (logic).")
@click.option("--answer", help="Answer, or a whole response with its answer in a box.")
@click.option("--cases", type=click.Path(path_type=Path), help="JSON lines of {id, gold, answer} (math).")
def verify(kind: str, gold: str | None, spec: Path | None, answer: str | None, cases: Path | None) -> None:
    """Compare an answer with a reference, as the reward service does. Prints one JSON object a case."""
    if kind == "logic":
        if spec is None or answer is None or gold is not None or cases is not None:
            raise click.UsageError("--kind logic wants --spec FILE.json and --answer, nothing else")
        return print_json_line(judge_logic(spec, answer))
    if spec is not None:
        raise click.UsageError("--spec is for --kind logic")
    if (cases is None) == (gold is None or answer is None):
        raise click.UsageError("give --gold and --answer, or --cases FILE.jsonl")
    if cases is None:
        return print_json_line(judge(gold or "", answer or ""))
    for case in read_cases(cases):
        print_json_line({"id": case["id"], **judge(str(case["gold"]), str(case["answer"]))})
    return None


def judge_logic(spec: Path, answer: str) -> Mapping[str, object]:
    """The verdict of a puzzle's own rules."""
    from forklight_core.errors import InvalidInputError
    from forklight_reward.logic.registry import check
    from forklight_reward.verifier.extract import extract_answer, looks_like_response

    try:
        written = spec.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"cannot read {spec}: {error}") from None
    found = extract_answer(answer).answer if looks_like_response(answer) else answer.strip()
    is_right = check(written, found or "") and found is not None
    return {"correct": is_right, "status": "ok" if is_right else "wrong", "answer": found}


def judge(gold: str, answer: str) -> Mapping[str, object]:
    """The verdict of the maths rules."""
    from dataclasses import asdict

    from forklight_reward.verifier.verify import verify_math

    return asdict(verify_math(gold, answer))


def read_cases(path: Path) -> Iterator[Mapping[str, object]]:
    """Rows of a file, each checked; a bad one is an error that names its line."""
    from forklight_core.errors import InvalidInputError

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"cannot read {path}: {error}") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InvalidInputError(f"{path}:{number} is not JSON: {error}") from None
        problem = find_problem(row)
        if problem:
            raise InvalidInputError(f"{path}:{number} {problem}: expected an object with id, gold and answer")
        yield row


def find_problem(row: object) -> str:
    """What is wrong with a row; empty when nothing is."""
    if not isinstance(row, dict):
        return f"is a {type(row).__name__}"
    missing = [key for key in ("id", "gold", "answer") if key not in row]
    if missing:
        return f"has no {' and no '.join(missing)}"
    wrong = [key for key in ("gold", "answer") if not isinstance(row[key], str | int | float)]
    return f"has a {wrong[0]} that is not text" if wrong else ""
