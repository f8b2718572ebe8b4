"""The likelihood objective is the formula, with its gradients, however a step is packed and weighed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from forklight_model.model import HybridModel
from forklight_trainer.adapters.torch_plain import OptimizerSettings, TorchEngine
from forklight_trainer.loss.objective import LikelihoodObjective
from forklight_trainer.sft.examples import Example
from forklight_trainer.sft.packs import pack_examples

TOLERANCE = 1e-9
ADAM = OptimizerSettings(betas=(0.9, 0.95), eps=1e-15, weight_decay=0.0)
MakeModel = Callable[[int], HybridModel]


@pytest.fixture
def examples() -> list[Example]:
    """Conversations of several turns, of which some tokens count, each with a weight of its own."""
    chance = np.random.default_rng(0)
    made = []
    for length in (5, 23, 9, 14, 31, 7):
        counted_T = chance.random(length) < 0.4
        counted_T[0], counted_T[-1] = False, True
        made.append(
            Example(
                ids_T=chance.integers(0, 103, size=length).astype(np.int32),
                counted_T=counted_T,
                weight=float(chance.uniform(0.1, 3.0)),
                num_tokens_whole=length,
            )
        )
    return made


def by_definition(model: HybridModel, examples: Sequence[Example]) -> Tensor:
    """-sum w log p / sum w over counted tokens, one conversation at a time, from whole logits."""
    total, whole = torch.zeros((), dtype=torch.float64), 0.0
    for example in examples:
        ids_T = torch.from_numpy(example.ids_T.astype(np.int64))
        hidden_TD = model.forward_hidden(ids_T, torch.tensor([0, len(ids_T)], dtype=torch.int32))
        logprobs_TV = torch.log_softmax(hidden_TD @ model.lm_head.weight.T, dim=-1)
        for place in np.flatnonzero(example.counted_T).tolist():
            total = total - example.weight * logprobs_TV[place - 1, ids_T[place]]
            whole += example.weight
    return total / whole


def through_the_engine(
    model: HybridModel, examples: Sequence[Example], pack_tokens: int
) -> tuple[float, dict[str, Tensor], int]:
    engine = TorchEngine(model, ADAM)
    names = [f"d:{number}" for number in range(len(examples))]
    packs = pack_examples(engine, examples, names, pack_tokens=pack_tokens)
    outcomes = engine.accumulate(packs, LikelihoodObjective())
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return sum(outcome.loss for outcome in outcomes), gradients, len(packs)


def test_likelihood_when_computed_is_the_formula_with_its_gradients(
    make_model: MakeModel, examples: list[Example]
) -> None:
    oracle, model = make_model(1).double(), make_model(1).double()
    expected = by_definition(oracle, examples)
    expected.backward()  # type: ignore[no-untyped-call]
    loss, gradients, _ = through_the_engine(model, examples, 40)
    assert loss == pytest.approx(float(expected.detach()), rel=TOLERANCE)
    for name, parameter in oracle.named_parameters():
        assert parameter.grad is not None
        atol = TOLERANCE * float(parameter.grad.abs().max())
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("pack_tokens", [45, 55, 4096])
def test_likelihood_when_packed_differently_stays_the_same(
    make_model: MakeModel, examples: list[Example], pack_tokens: int
) -> None:
    alone_loss, alone, num_alone = through_the_engine(make_model(2).double(), examples, 31)
    loss, packed, num_packs = through_the_engine(make_model(2).double(), examples, pack_tokens)
    assert num_packs < num_alone
    assert loss == pytest.approx(alone_loss, rel=TOLERANCE)
    for name, gradient in alone.items():
        atol = TOLERANCE * float(gradient.abs().max())
        torch.testing.assert_close(packed[name], gradient, rtol=0, atol=atol, msg=name)


def test_likelihood_when_a_weight_grows_follows_its_example(
    make_model: MakeModel, examples: list[Example]
) -> None:
    """An example of weight 2 is the same as the example twice."""
    model, first = make_model(3).double(), examples[1]
    even = [Example(ids_T=e.ids_T, counted_T=e.counted_T, weight=1.0, num_tokens_whole=0) for e in examples]
    heavy = Example(ids_T=first.ids_T, counted_T=first.counted_T, weight=2.0, num_tokens_whole=0)
    twice, _, _ = through_the_engine(model, [even[1], *even], 4096)
    weighted, _, _ = through_the_engine(model, [even[0], heavy, *even[2:]], 4096)
    assert weighted == pytest.approx(twice, rel=TOLERANCE)
    assert through_the_engine(model, even, 4096)[0] != pytest.approx(twice, rel=1e-5)
