"""`forklight score`: log-probabilities of given tokens."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--model", type=click.Path(path_type=Path), required=True, help="Model folder.")
@click.option(
    "--tokens", type=click.Path(path_type=Path), required=True, help="safetensors with input_ids [B, T]."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="safetensors to write.")
def score(model: Path, tokens: Path, out: Path) -> None:
    """Write next_token_logprobs [B, T-1] of TOKENS under MODEL."""
    from forklight_model.score import score_file

    score_file(model, tokens, out)
    click.echo(f"wrote {out}")
