"""Everything a stage reads: checked demonstrations, held-out ones, and the order they are learned in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from forklight_core.errors import ConfigError
from forklight_core.runfile.schema import RunFile
from forklight_model.chat import ChatFormat, TurnFormat, load_chat_format
from forklight_model.tokenizer import Tokenizer
from forklight_trainer.batches.balance import assign_packs
from forklight_trainer.initial import initial_config, initial_folder, initial_tokenizer
from forklight_trainer.sft.check import CheckProgress
from forklight_trainer.sft.corpus import Corpus, open_corpus
from forklight_trainer.sft.events import DataReport
from forklight_trainer.sft.examples import ExampleReader
from forklight_trainer.sft.order import Order, count_steps, order_of

STEPS_LOOKED_AT = 200
"""For the means of a report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageData:
    """What a stage learns from, in which order, and what it is measured on."""

    tokenizer: Tokenizer
    train: Corpus
    holdout: Corpus | None
    order: Order
    num_steps: int


@contextmanager
def open_data(run_file: RunFile, folder: Path, tell: Callable[[CheckProgress], None]) -> Iterator[StageData]:
    """The checked files of a run file; what an earlier check left in `folder` is taken over."""
    sft, tokenizer = run_file.sft, initial_tokenizer(run_file)
    if not sft.demonstrations:
        raise ConfigError(
            "sft.demonstrations is empty: give a file of JSON lines {prompt, response} or {messages}"
        )
    check_vocabulary(run_file, tokenizer)
    reader = ExampleReader(
        tokenizer,
        initial_chat(run_file, tokenizer),
        max_tokens=longest_allowed(run_file),
        on_too_long=sft.on_too_long,
    )
    with ExitStack() as stack:
        corpora = []
        for path in filter(None, (sft.demonstrations, sft.holdout)):
            corpora.append(open_corpus(Path(path), reader, folder, tell))
            stack.callback(corpora[-1].close)
        order = order_of(sft, corpora[0].lines["num_tokens"], run_file.run.seed)
        yield StageData(
            tokenizer=tokenizer,
            train=corpora[0],
            holdout=corpora[1] if sft.holdout else None,
            order=order,
            num_steps=count_steps(sft, order),
        )


def longest_allowed(run_file: RunFile) -> int:
    """Tokens of the longest demonstration: by the run file, and by what the model can read."""
    sft, config = run_file.sft, initial_config(run_file)
    return min(sft.max_tokens or sft.pack_tokens, sft.pack_tokens, config.max_position_embeddings)


def initial_chat(run_file: RunFile, tokenizer: Tokenizer) -> ChatFormat:
    """How the model that the stage starts from is served a conversation."""
    folder = initial_folder(run_file)
    return load_chat_format(folder, tokenizer, chat=run_file.model.chat) if folder else TurnFormat(tokenizer)


def check_vocabulary(run_file: RunFile, tokenizer: Tokenizer) -> None:
    """ConfigError when the tokenizer knows more tokens than the model."""
    vocab_size = initial_config(run_file).vocab_size
    if tokenizer.vocab_size > vocab_size:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the model an embedding of {vocab_size}: "
            "they do not belong together; look at the folder the run starts from"
        )


def report_data(run_file: RunFile, data: StageData) -> DataReport:
    """What was found, and what a step will look like."""
    sft, lengths = run_file.sft, data.train.lines["num_tokens"]
    num_lanes = max(1, run_file.trainer.processes // run_file.trainer.sequence_parallel)
    place = num_looked = num_tokens = num_packs = 0
    while num_looked < min(data.num_steps, STEPS_LOOKED_AT) and len(numbers := data.order.take(place)):
        chosen = lengths[numbers].tolist()
        num_packs += len(assign_packs(chosen, capacity=sft.pack_tokens, num_lanes=num_lanes))
        num_tokens += sum(chosen)
        place, num_looked = place + len(numbers), num_looked + 1
    mean_examples = place / num_looked
    num_all = data.order.num_all if math.isfinite(data.order.num_all) else data.num_steps * mean_examples
    return DataReport(
        demonstrations=str(data.train.path),
        figures=data.train.figures,
        holdout=data.holdout.figures if data.holdout else None,
        num_steps=data.num_steps,
        num_epochs=num_all / len(data.train),
        mean_examples=mean_examples,
        mean_tokens=num_tokens / num_looked,
        mean_packs=num_packs / num_looked,
    )
