"""Does the steps of a recipe one after the other, file to file; what was done with the same bytes is kept."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from forklight_core.errors import DataLossError, InvalidInputError
from forklight_core.whole_files import WholeFile, digest_of, named_errors
from forklight_data.manifest import (
    Manifest,
    StepFiles,
    Task,
    code_version,
    count_reasons,
    files_of,
    read_manifest,
    write_manifest,
)
from forklight_data.ports import AnswerRules, Embedder, NobodyWatches, Watcher
from forklight_data.reading.folders import files_under
from forklight_data.reading.lines import raw_lines
from forklight_data.recipe import AnswersPart, Part, Recipe, SchemaPart, StepName
from forklight_data.record import Json, Record, write_json, write_record
from forklight_data.steps.answers import check_answers
from forklight_data.steps.choices import open_choices
from forklight_data.steps.contamination import drop_contaminated
from forklight_data.steps.duplicates import drop_duplicates
from forklight_data.steps.embeddings import drop_by_meaning
from forklight_data.steps.format import clean_format
from forklight_data.steps.pass_rate import filter_pass_rate
from forklight_data.steps.questions import drop_questions
from forklight_data.steps.schema import check_schema
from forklight_data.steps.step import Dropped, Outcomes, Work

RESULT = "curated.jsonl"
Doer = Callable[[Work, Part], Outcomes]
DOERS = cast(
    "dict[StepName, Doer]",
    {
        StepName.SCHEMA: check_schema,
        StepName.FORMAT: clean_format,
        StepName.QUESTIONS: drop_questions,
        StepName.CHOICES: open_choices,
        StepName.ANSWERS: check_answers,
        StepName.DUPLICATES: drop_duplicates,
        StepName.EMBEDDINGS: drop_by_meaning,
        StepName.CONTAMINATION: drop_contaminated,
        StepName.PASS_RATE: filter_pass_rate,
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What the steps ask of others."""

    rules: AnswerRules
    make_embedder: Callable[[str], Embedder] | None = None
    watcher: Watcher = field(default_factory=NobodyWatches)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """A step that is done."""

    step: StepName
    manifest: Manifest
    reused: bool


def curate(
    source: Path, folder: Path, recipe: Recipe, tools: Tools, *, from_step: StepName | None = None
) -> list[StepReport]:
    """Do the recipe; the result is `curated.jsonl` in the folder, beside the files of every step."""
    plan = recipe.plan
    if from_step is not None and from_step not in plan:
        raise InvalidInputError(f"step {from_step} is not among those to do: {', '.join(plan)}")
    if not source.is_file():
        raise InvalidInputError(
            f"{source}: there is no such file of records; `forklight data import` makes one"
        )
    with named_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    reports: list[StepReport] = []
    current, digest = source, digest_of(source)
    is_forced = False
    for step in plan:
        files = files_of(folder, list(StepName).index(step) + 1, step)
        task = make_task(step, recipe, digest, tools)
        is_forced = is_forced or step is from_step
        done = None if is_forced else find_done(files, task)
        manifest = done or run_step(step, recipe, (current, reports), files, (task, tools))
        reports.append(StepReport(step=step, manifest=manifest, reused=done is not None))
        tools.watcher.say(tell(reports[-1]))
        current, digest = files.records, manifest.output_digest
    publish(current, folder / RESULT)
    return reports


def make_task(step: StepName, recipe: Recipe, input_digest: str, tools: Tools) -> Task:
    """Parameters with files told by their bytes."""
    part = part_of(step, recipe)
    parameters = cast("dict[str, Json]", part.model_dump(mode="json"))
    for name in ("tests", "results"):
        if name in parameters:
            paths = cast("tuple[Path, ...]", getattr(part, name))
            parameters[name] = [digest_of(file) for path in paths for file in files_under(path, "all")]
    return Task(
        step=step.value,
        code_version=code_version(),
        rules=tools.rules.fingerprint,
        parameters=parameters,
        input_digest=input_digest,
    )


def part_of(step: StepName, recipe: Recipe) -> Part:
    """The parameters of a step."""
    parts: dict[StepName, Part] = {StepName.SCHEMA: SchemaPart(), StepName.ANSWERS: AnswersPart()}
    return parts.get(step) or cast("Part", getattr(recipe, step.value))


def find_done(files: StepFiles, task: Task) -> Manifest | None:
    """The manifest of the same task, when its files are still what it says."""
    manifest = read_manifest(files.manifest)
    if manifest is None or manifest.task != task:
        return None
    if not files.records.is_file() or not files.dropped.is_file():
        return None
    is_sound = (digest_of(files.records), digest_of(files.dropped)) == (
        manifest.output_digest,
        manifest.dropped_digest,
    )
    return manifest if is_sound else None


def run_step(
    step: StepName,
    recipe: Recipe,
    given: tuple[Path, list[StepReport]],
    files: StepFiles,
    asked: tuple[Task, Tools],
) -> Manifest:
    """One step: the manifest comes last, so that a step that was cut off is done again."""
    source, before = given
    task, tools = asked
    num_input = before[-1].manifest.num_kept if before else sum(1 for _ in raw_lines(source))
    work = make_work(step, recipe, source, files, tools)
    with named_errors(files.manifest):
        files.manifest.unlink(missing_ok=True)
    tools.watcher.begin(step.value, num_input)
    reasons: Counter[str] = Counter()
    with WholeFile(files.records) as kept, WholeFile(files.dropped) as gone:
        for outcome in DOERS[step](work, part_of(step, recipe)):
            if isinstance(outcome, Record):
                kept.write(write_record(outcome))
            else:
                gone.write(dropped_line(outcome))
                reasons[outcome.reason] += 1
            tools.watcher.advance(1)
        if kept.num_lines + gone.num_lines != num_input:
            raise DataLossError(
                f"step {step}: {num_input} records went in, {kept.num_lines} and {gone.num_lines} came out; "
                f"was {source} written to at the same time? Run it again"
            )
    manifest = Manifest(
        task=task,
        num_input=num_input,
        num_kept=kept.num_lines,
        output_digest=kept.digest,
        num_dropped=gone.num_lines,
        dropped_digest=gone.digest,
        dropped_by_reason=count_reasons(reasons),
        notes=work.notes,
    )
    write_manifest(manifest, files.manifest)
    return manifest


def make_work(step: StepName, recipe: Recipe, source: Path, files: StepFiles, tools: Tools) -> Work:
    """A model is loaded only for the step that needs it."""
    embedder = None
    if step is StepName.EMBEDDINGS and tools.make_embedder is not None:
        embedder = tools.make_embedder(recipe.embeddings.model)
    return Work(
        source=source,
        scratch=files.records.parent,
        rules=tools.rules,
        watcher=tools.watcher,
        embedder=embedder,
    )


def dropped_line(dropped: Dropped) -> bytes:
    """Without what is empty."""
    told = {"id": dropped.id, "reason": dropped.reason, "of": dropped.of, "detail": dropped.detail}
    line = write_json({key: value for key, value in told.items() if value})
    return line.encode("utf-8", "backslashreplace") + b"\n"


def publish(last: Path, result: Path) -> None:
    """The last step's records under the name of the result; a link where the disk has links."""
    beside = result.with_name(result.name + ".partial")
    with named_errors(result):
        beside.unlink(missing_ok=True)
        try:
            os.link(last, beside)
        except OSError:
            shutil.copyfile(last, beside)
        beside.replace(result)
        beside.unlink(missing_ok=True)  # a rename onto another name of the same file does nothing


def tell(report: StepReport) -> str:
    """One line for a person."""
    manifest = report.manifest
    reasons = ", ".join(f"{name} {number}" for name, number in manifest.dropped_by_reason.items())
    again = " (as before)" if report.reused else ""
    counts = f"{report.step}: {manifest.num_kept} of {manifest.num_input} stay{again}"
    return f"{counts}; {reasons}" if reasons else counts
