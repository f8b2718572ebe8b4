"""`forklight data`: prompts with their answers from somebody's files to the prompt files of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from forklight_cli.commands.output import print_json, print_json_line
from forklight_cli.data_progress import Bars
from forklight_cli.exits import ExitCode

if TYPE_CHECKING:
    from forklight_core.blobs import BlobStore
    from forklight_data.importing import ImportReport
    from forklight_data.recipe import Recipe

PATH = click.Path(path_type=Path)
SHAPES = ("record", "prompts", "verl", "verifiers", "columns")
DOMAINS = ("math", "logic", "code", "swe", "stem", "general")
STEPS = (
    "schema",
    "format",
    "questions",
    "choices",
    "answers",
    "duplicates",
    "embeddings",
    "contamination",
    "pass_rate",
)
IMPORT_EPILOG = """\b
Examples:
  forklight data import train.jsonl --out records.jsonl --domain math
  forklight data import hub/gsm8k --split train --out records.jsonl --source gsm8k
  forklight data import verl.parquet --out records.jsonl --dry-run
  forklight data import rows.jsonl.gz --prompt-column task --answer-column key --out records.jsonl

Rows that are no records go to OUT's name with .rejects.jsonl, each with its line and the reason."""
CURATE_EPILOG = """\b
Examples:
  forklight data curate records.jsonl --out curated --against test.jsonl
  forklight data curate records.jsonl --out curated --pass-rates results.jsonl
  forklight data curate records.jsonl --out curated --recipe recipe.toml --from-step duplicates

Steps, in their order: schema, format, questions (several parts, proofs, yes or no),
choices (multiple choice to open), answers (our own rules can judge them), duplicates,
embeddings, contamination, pass_rate. What was done with the same bytes, parameters and
code is kept as it is."""
SPLIT_EPILOG = """\b
Examples:
  forklight data split curated/curated.jsonl --out runs/data --part train=0.98 --part holdout=0.02
  forklight data split curated.jsonl --out new --part train=rest --part holdout=64 --previous old

Each part is a prompt file of a run: name it under [prompts] train and holdout."""


@click.group()
def data() -> None:
    """Import, curate, count and split prompts with their answers.

    A record is one JSON line: {id, source, domain, prompt, verifier, answer, difficulty, meta, hashes}.
    """


class ImportOptions(TypedDict):
    """As they were typed."""

    sources: tuple[Path, ...]
    out: Path
    rejects: Path | None
    shape: str | None
    prompt_column: str
    answer_column: str
    id_column: str
    source: str
    domain: str | None
    kind: str
    split: str | None
    limit: int | None
    leave_out: tuple[str, ...]
    blobs: Path | None
    dry_run: bool


@data.command(name="import", epilog=IMPORT_EPILOG, short_help="Read files and folders as records.")
@click.argument("sources", nargs=-1, required=True, type=PATH)
@click.option("--out", required=True, type=PATH, help="File of records to write.")
@click.option("--rejects", type=PATH, help="Where rows go that are no records.")
@click.option("--shape", type=click.Choice(SHAPES), help="What the rows are; otherwise found out, and said.")
@click.option("--prompt-column", default="", help="Column of the prompt: text, or messages.")
@click.option("--answer-column", default="", help="Column of the reference answer.")
@click.option("--id-column", default="", help="Column of the id; without ids, they are made of the contents.")
@click.option("--source", default="", help="Name of the source, for all rows.")
@click.option("--domain", type=click.Choice(DOMAINS), help="Domain of all rows.")
@click.option("--kind", default="", help="Kind of verifier of all rows: math, logic, code, judge.")
@click.option("--split", help="Which split of a folder that holds several; `all`: every one.")
@click.option("--limit", type=click.IntRange(min=1), help="Read no more rows than this.")
@click.option("--leave-out", multiple=True, metavar="COLUMN", help="A column not to read.")
@click.option("--blobs", type=PATH, help="Folder for answers and tests larger than 64 KiB.")
@click.option("--dry-run", is_flag=True, help="Read everything, write nothing.")
def import_command(**given: Unpack[ImportOptions]) -> ExitCode:
    """Read SOURCES as records: JSON lines (.gz, .zst), parquet, arrow, and folders of them.

    Known shapes: our records and prompt files, verl's, verifiers', or columns by name. Prints a report as
    JSON; exit code 1 when no row was a record.
    """
    from forklight_data.importing import ImportRequest, import_rows
    from forklight_data.record import Domain
    from forklight_data.shapes import ColumnMapping, Shape

    mapping = ColumnMapping(
        shape=Shape(given["shape"]) if given["shape"] else None,
        prompt_column=given["prompt_column"],
        answer_column=given["answer_column"],
        id_column=given["id_column"],
        source=given["source"],
        domain=Domain(given["domain"]) if given["domain"] else None,
        kind=given["kind"],
    )
    request = ImportRequest(
        sources=given["sources"],
        out=None if given["dry_run"] else given["out"],
        rejects=given["rejects"],
        mapping=mapping,
        split=given["split"],
        limit=given["limit"],
        leave_out=frozenset(given["leave_out"]),
        blobs=None if given["dry_run"] else open_blobs(given["blobs"]),
    )
    with Bars() as bars:
        report = import_rows(request, bars)
    print_json(import_summary(report, dry_run=given["dry_run"]))
    return ExitCode.OK if report.num_written else ExitCode.FAILED


def import_summary(report: ImportReport, *, dry_run: bool) -> Mapping[str, object]:
    """What a person and a script want to know."""
    return {
        "dry_run": dry_run,
        "num_read": report.num_read,
        "num_records": report.num_written,
        "num_rejected": report.num_rejected,
        "reasons": dict(report.reasons.most_common(10)),
        "first_rejects": report.examples,
        "shapes": report.shapes,
        "digest": report.digest,
    }


class CurateOptions(TypedDict):
    """As they were typed."""

    records: Path
    out: Path
    recipe: Path | None
    steps: str | None
    from_step: str | None
    against: tuple[Path, ...]
    pass_rates: tuple[Path, ...]
    blobs: Path | None


@data.command(epilog=CURATE_EPILOG, short_help="Drop what teaches nothing; write down why.")
@click.argument("records", type=PATH)
@click.option("--out", required=True, type=PATH, help="Folder of the curation; curated.jsonl is its result.")
@click.option("--recipe", type=PATH, help="TOML file of steps and their parameters.")
@click.option("--steps", help="Names of steps with commas between them, instead of the recipe's.")
@click.option("--from-step", type=click.Choice(STEPS), help="Do this step and all after it again.")
@click.option("--against", multiple=True, type=PATH, help="Data that is kept to test with (contamination).")
@click.option(
    "--pass-rates",
    multiple=True,
    type=PATH,
    help="JSON lines of {id, k, passes, policy_version}, or a run folder.",
)
@click.option("--blobs", type=PATH, help="Folder of the blobs that records refer to.")
def curate(**given: Unpack[CurateOptions]) -> None:
    """Drop what teaches nothing or cannot be judged; write down what went, and why.

    Every step leaves its records, its dropped rows and a manifest in the folder. Prints one JSON line a step.
    """
    from forklight_cli.data_rules import RewardRules
    from forklight_data.curating import Tools
    from forklight_data.curating import curate as curate_records
    from forklight_data.embedding import SentenceEmbedder
    from forklight_data.recipe import StepName

    recipe = recipe_of(given)
    with Bars() as bars:
        tools = Tools(
            rules=RewardRules(open_blobs(given["blobs"])), make_embedder=SentenceEmbedder, watcher=bars
        )
        from_step = StepName(given["from_step"]) if given["from_step"] else None
        reports = curate_records(given["records"], given["out"], recipe, tools, from_step=from_step)
    for report in reports:
        manifest = report.manifest
        told = {"step": report.step, "kept": manifest.num_kept, "dropped": manifest.num_dropped}
        print_json_line({**told, "reasons": manifest.dropped_by_reason, "as_before": report.reused})


def recipe_of(given: CurateOptions) -> Recipe:
    """The file, and what the command line adds to it."""
    from forklight_core.errors import ConfigError
    from forklight_data.recipe import Recipe, StepName, read_recipe

    recipe = read_recipe(given["recipe"]) if given["recipe"] else Recipe()
    changes: dict[str, object] = {}
    if given["steps"] is not None:
        names = [name.strip() for name in given["steps"].split(",") if name.strip()]
        if unknown := [name for name in names if name not in STEPS]:
            raise ConfigError(f"--steps: unknown step {unknown[0]!r}; known are {', '.join(STEPS)}")
        changes["steps"] = tuple(StepName(name) for name in names)
    if given["against"]:
        changes["contamination"] = recipe.contamination.model_copy(update={"tests": given["against"]})
    if given["pass_rates"]:
        files = tuple(results_file(path, given["out"]) for path in given["pass_rates"])
        changes["pass_rate"] = recipe.pass_rate.model_copy(update={"results": files})
    return recipe.model_copy(update=changes)


def results_file(path: Path, out: Path) -> Path:
    """A file of results; of a run folder, one is made beside the curation."""
    from forklight_cli.data_rules import ledger_pass_rates
    from forklight_core.whole_files import WholeFile

    if not path.is_dir():
        return path
    made = out / f"pass_rates.{path.resolve().name}.jsonl"
    with WholeFile(made) as file:
        for line in ledger_pass_rates(path.resolve()):
            file.write(line.encode() + b"\n")
    return made


@data.command(short_help="Count what is in a file of records.")
@click.argument("records", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def stats(records: Path, as_json: bool) -> None:
    """Count what is in a file of records: sources, domains, lengths, duplicates, answers, pass rates."""
    from forklight_data.statistics import count_records
    from forklight_data.statistics_table import lines_of

    with Bars() as bars:
        found = count_records(records, bars)
    if as_json:
        print_json(found.as_json())
    else:
        click.echo("\n".join(lines_of(found)))


class SplitOptions(TypedDict):
    """As they were typed."""

    records: Path
    out: Path
    part: tuple[str, ...]
    by: str
    seed: int
    previous: Path | None
    blobs: Path | None


@data.command(epilog=SPLIT_EPILOG, short_help="Cut records into prompt files of a run.")
@click.argument("records", type=PATH)
@click.option("--out", required=True, type=PATH, help="Folder for the parts and the manifest.")
@click.option(
    "--part", multiple=True, metavar="NAME=SHARE", help="NAME=0.9, NAME=500 or NAME=rest; repeat it."
)
@click.option(
    "--by", type=click.Choice(("domain", "source", "none")), default="domain", show_default=True,
    help="Numbers count within each of these.",
)  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed is another split.")
@click.option("--previous", type=PATH, help="Folder of an earlier split, whose records keep their part.")
@click.option("--blobs", type=PATH, help="Folder of the blobs that records refer to.")
def split(**given: Unpack[SplitOptions]) -> None:
    """Cut RECORDS into prompt files of a run; near duplicates never fall into different parts.

    A record's part depends on its id alone, so rows that are added later do not move the others.
    """
    from forklight_data.parts import read_parts
    from forklight_data.splitting import SplitRequest, split_records

    request = SplitRequest(
        source=given["records"],
        folder=given["out"],
        parts=read_parts(given["part"]),
        by="domain" if given["by"] == "domain" else "source" if given["by"] == "source" else "none",
        seed=given["seed"],
        previous=given["previous"],
        blobs=open_blobs(given["blobs"]),
    )
    with Bars() as bars:
        report = split_records(request, bars)
    print_json(asdict(report))


def open_blobs(folder: Path | None) -> BlobStore | None:
    """The store of a folder."""
    if folder is None:
        return None
    from forklight_core.blobs import FolderBlobStore

    return FolderBlobStore(folder)
