"""`forklight generate`: one response from a checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from forklight_cli.commands.output import print_json

if TYPE_CHECKING:
    from forklight_model.generate import Generation

COUNT = click.IntRange(min=1)
TEMPERATURE = click.FloatRange(min=0.0)
FRACTION = click.FloatRange(0.0, 1.0, min_open=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was typed."""

    model: Path
    prompt: str | None
    prompt_ids: str | None
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    as_json: bool


@click.command()
@click.option("--model", type=click.Path(path_type=Path), required=True, help="Model folder.")
@click.option("--prompt", help="Prompt as text; needs the folder's tokenizer.")
@click.option("--prompt-ids", help="Prompt as token ids: numbers with commas between.")
@click.option("--max-new-tokens", type=COUNT, default=256, show_default=True, help="Longest response.")
@click.option("--temperature", type=TEMPERATURE, default=1.0, show_default=True, help="0 is greedy.")
@click.option("--top-p", type=FRACTION, default=1.0, show_default=True, help="Nucleus.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Same seed, same text."
)
@click.option("--json", "as_json", is_flag=True, help="Print token ids and log-probabilities too, as JSON.")
def generate(**typed: object) -> None:
    """Sample one response from a model folder."""
    options = Options(**typed)  # type: ignore[arg-type]  # click has made the types
    if (options.prompt is None) == (options.prompt_ids is None):
        raise click.UsageError("give either --prompt or --prompt-ids")
    generation = run(options)
    if options.as_json:
        return print_json(asdict(generation))
    click.echo(generation.text or ",".join(map(str, generation.token_ids)))
    return None


def run(options: Options) -> Generation:
    """The response."""
    from forklight_model.generate import generate_from_ids, generate_text

    limits = (options.max_new_tokens, options.temperature, options.top_p, options.seed)
    if options.prompt is not None:
        return generate_text(options.model, options.prompt, *limits)
    return generate_from_ids(options.model, parse_ids(options.prompt_ids or ""), *limits)


def parse_ids(text: str) -> list[int]:
    """Token ids with commas or spaces between."""
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise click.UsageError(f"--prompt-ids {text!r} is not a list of numbers such as 1,2,3") from None
