"""Which steps are done, and how: typed, bounded, unknown keys refused; a TOML file or nothing at all."""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from forklight_core.errors import ConfigError
from forklight_core.whole_files import named_errors


class StepName(StrEnum):
    """In the order in which they are done."""

    SCHEMA = "schema"
    FORMAT = "format"
    QUESTIONS = "questions"
    CHOICES = "choices"
    ANSWERS = "answers"
    DUPLICATES = "duplicates"
    EMBEDDINGS = "embeddings"
    CONTAMINATION = "contamination"
    PASS_RATE = "pass_rate"


ALWAYS = (
    StepName.SCHEMA,
    StepName.FORMAT,
    StepName.QUESTIONS,
    StepName.CHOICES,
    StepName.ANSWERS,
    StepName.DUPLICATES,
)


class Part(BaseModel):
    """Unknown keys are errors; values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class SchemaPart(Part):
    """Nothing to choose: a row is a record or it is not."""


class FormatPart(Part):
    """Spelling, and what no cleaning mends."""

    most_characters: Annotated[int, Field(ge=1, le=10_000_000)] = 50_000
    """Longest prompt."""
    drop_pictures: bool = True
    """Drop prompts that speak of a picture."""
    drop_links: bool = True
    """Drop maths prompts that hold a link."""


class QuestionsPart(Part):
    """Questions without a single value for an answer."""

    drop_multi_part: bool = True
    drop_proofs: bool = True
    drop_yes_no: bool = True


class ChoicesPart(Part):
    """Multiple choice."""

    closed: Literal["drop", "keep"] = "drop"
    """What becomes of a question that needs its options: a guess is right once in four or five."""


class AnswersPart(Part):
    """Nothing to choose: the rules are those of the reward service."""


class DuplicatesPart(Part):
    """Near duplicates by MinHash."""

    threshold: Annotated[float, Field(ge=0.5, le=1.0)] = 0.8
    """Jaccard of runs of three words from which on two prompts are near; 1: only exact duplicates."""


class EmbeddingsPart(Part):
    """Near duplicates by meaning. Embeddings only nominate."""

    threshold: Annotated[float, Field(ge=0.5, le=1.0)] = 0.9
    """Cosine from which on two prompts are looked at."""
    model: str = "all-MiniLM-L6-v2"
    """Name or folder of a sentence-transformers model."""


class ContaminationPart(Part):
    """What is kept to test with must not be trained on."""

    tests: tuple[Path, ...] = ()
    """Files of anything `forklight data import` reads."""
    run_words: Annotated[int, Field(ge=4, le=50)] = 13
    """A common run of so many words drops a prompt (of all its words, when it has fewer)."""
    short_run_words: Annotated[int, Field(ge=3, le=50)] = 8
    """A common run of so many words drops a short prompt when the answers agree, too."""
    short_words: Annotated[int, Field(ge=1, le=1000)] = 32
    """Prompts of up to so many words are short."""
    most_items: Annotated[int, Field(ge=1)] = 10
    """A run that more test items share than this, and more than one in fifty of them, is boilerplate."""


class PassRatePart(Part):
    """Neither never nor nearly always solved: low < passes / k < high."""

    results: tuple[Path, ...] = ()
    """JSON lines of {id, k, passes, policy_version}."""
    low: Annotated[float, Field(ge=0, lt=1)] = 0.0
    high: Annotated[float, Field(gt=0, le=1)] = 0.9
    unmeasured: Literal["drop", "keep"] = "drop"
    """What becomes of prompts without a result."""


class Recipe(Part):
    """A curation."""

    steps: tuple[StepName, ...] | None = None
    """None: all but embeddings; contamination and pass_rate when they have files."""
    format: FormatPart = FormatPart()
    questions: QuestionsPart = QuestionsPart()
    choices: ChoicesPart = ChoicesPart()
    duplicates: DuplicatesPart = DuplicatesPart()
    embeddings: EmbeddingsPart = EmbeddingsPart()
    contamination: ContaminationPart = ContaminationPart()
    pass_rate: PassRatePart = PassRatePart()

    @property
    def plan(self) -> tuple[StepName, ...]:
        """The steps to do, in their order."""
        chosen = set(self.steps) if self.steps is not None else set(ALWAYS)
        if self.steps is None and self.contamination.tests:
            chosen.add(StepName.CONTAMINATION)
        if self.steps is None and self.pass_rate.results:
            chosen.add(StepName.PASS_RATE)
        if StepName.CONTAMINATION in chosen and not self.contamination.tests:
            raise ConfigError(
                "step contamination needs files to compare with: --against FILE, or contamination.tests"
            )
        if StepName.PASS_RATE in chosen and not self.pass_rate.results:
            raise ConfigError("step pass_rate needs results: --pass-rates FILE, or pass_rate.results")
        return tuple(step for step in StepName if step in chosen or step is StepName.SCHEMA)


def read_recipe(path: Path) -> Recipe:
    """A recipe file; ConfigError names every wrong key. Paths in it count from the file."""
    try:
        with named_errors(path):
            found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    recipe = make_recipe(found, str(path))
    folder = path.parent
    contamination = recipe.contamination.model_copy(
        update={"tests": tuple(folder / file for file in recipe.contamination.tests)}
    )
    pass_rate = recipe.pass_rate.model_copy(
        update={"results": tuple(folder / file for file in recipe.pass_rate.results)}
    )
    return recipe.model_copy(update={"contamination": contamination, "pass_rate": pass_rate})


def make_recipe(found: object, where: str) -> Recipe:
    """Checked values."""
    try:
        return Recipe.model_validate(found)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()[:5]
        )
        raise ConfigError(f"{where}: {problems}") from error
