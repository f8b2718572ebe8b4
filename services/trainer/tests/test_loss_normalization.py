"""What tokens weigh, and that nothing else about a step does: order, packing, splitting, put-in tokens, units
of the reward.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forklight_core.runfile.schema import RecipeSection
from forklight_trainer.batches.batch import TrainingGroup, TrainingSample
from forklight_trainer.loss.normalization import token_share, token_weights
from forklight_trainer.loss.policy_loss import loss_settings
from services.trainer.tests.packed_steps import MadeStep, gradients_of, made_step

CISPO = loss_settings(RecipeSection(eps_high=0.5))
DAPO = loss_settings(RecipeSection(algorithm="dapo", mask_eps_low=0.2, mask_eps_high=0.28))
SHARES = st.sampled_from([1.0, 0.6, 0.0])
SEEDS = st.integers(0, 2**32 - 1)


def regrouped(made: MadeStep, groups: list[TrainingGroup]) -> MadeStep:
    return dataclasses.replace(made, batch=dataclasses.replace(made.batch, groups=tuple(groups)))


def test_weights_when_token_sample_or_combined_are_the_formulas() -> None:
    lengths = [6, 0, 3, 1]
    assert token_weights(lengths) == [0.1] * 1 + [0.0] + [0.1] * 2
    assert token_weights(lengths, 0.0) == pytest.approx([1 / 18, 0.0, 1 / 9, 1 / 3], rel=1e-15)
    halves = [0.05 + 1 / 36, 0.0, 0.05 + 1 / 18, 0.05 + 1 / 6]
    assert token_weights(lengths, 0.5) == pytest.approx(halves, rel=1e-15)
    assert token_weights([0, 0]) == [0.0, 0.0]
    assert token_weights([]) == []


def test_share_when_named_is_that_of_the_setting() -> None:
    assert [token_share(name, 0.3) for name in ("token", "sample", "combined")] == [1.0, 0.0, 0.3]


@given(st.lists(st.integers(0, 80_000), min_size=1, max_size=64), st.floats(0.0, 1.0))
@settings(max_examples=100, deadline=None)
def test_weights_of_a_step_when_summed_are_1(lengths: list[int], share: float) -> None:
    weights = token_weights(lengths, share)
    total = sum(weight * length for weight, length in zip(weights, lengths, strict=True))
    assert total == pytest.approx(1.0 if any(lengths) else 0.0, rel=1e-12)


@given(SEEDS, SHARES, st.sampled_from([38, 51, 200, 4096]))
@settings(max_examples=40, deadline=None)
def test_gradient_when_packed_differently_is_the_same_in_every_bit(
    seed: int, share: float, pack_tokens: int
) -> None:
    made = made_step(seed)
    alone = gradients_of(made, CISPO, share, pack_tokens=38)
    found = gradients_of(made, CISPO, share, pack_tokens=pack_tokens)
    assert sum(float(pack.weights_R.sum()) for pack in found.packs) == pytest.approx(1.0, rel=1e-12)
    assert found.loss == pytest.approx(alone.loss, rel=1e-12, abs=1e-15)
    for sample_id, gradient in alone.gradients.items():
        assert np.array_equal(found.gradients[sample_id], gradient)


def test_gradient_when_a_group_is_split_over_packs_is_the_same() -> None:
    made = made_step(3, num_groups=1, group_size=8, put_in=False)
    whole = gradients_of(made, CISPO, 0.5, pack_tokens=4096)
    split = gradients_of(made, CISPO, 0.5, pack_tokens=40)
    assert (len(whole.packs), len(split.packs) > 2) == (1, True)
    for sample_id, gradient in whole.gradients.items():
        assert np.array_equal(split.gradients[sample_id], gradient)


@given(SEEDS, SHARES)
@settings(max_examples=40, deadline=None)
def test_gradient_when_samples_and_groups_are_shuffled_is_the_same(seed: int, share: float) -> None:
    made = made_step(seed)
    order = np.random.default_rng(seed)
    groups = [
        dataclasses.replace(group, samples=tuple(group.samples[i] for i in order.permutation(4)))
        for group in (made.batch.groups[i] for i in order.permutation(3))
    ]
    before = gradients_of(made, DAPO, share)
    after = gradients_of(regrouped(made, groups), DAPO, share)
    assert after.loss == pytest.approx(before.loss, rel=1e-12, abs=1e-15)
    for sample_id, gradient in before.gradients.items():
        assert np.array_equal(after.gradients[sample_id], gradient)


@given(SEEDS, st.floats(0.01, 100.0), st.floats(-50.0, 50.0))
@settings(max_examples=40, deadline=None)
def test_gradient_when_rewards_have_another_unit_is_the_same(seed: int, scale: float, shift: float) -> None:
    made = made_step(seed)
    groups = [
        dataclasses.replace(
            group,
            samples=tuple(dataclasses.replace(s, reward=scale * s.reward + shift) for s in group.samples),
        )
        for group in made.batch.groups
    ]
    before, after = gradients_of(made, CISPO), gradients_of(regrouped(made, groups), CISPO)
    for sample_id, gradient in before.gradients.items():
        # Adding 50 to a reward of 0.01 x 0.1 leaves it 12 digits.
        assert after.gradients[sample_id] == pytest.approx(gradient, rel=1e-6, abs=1e-9)


def without_put_in(sample: TrainingSample) -> TrainingSample:
    places = sample.places_D
    return dataclasses.replace(
        sample,
        response_ids=sample.response_ids[places],
        behaviour_logprobs=sample.behaviour_logprobs[places],
        versions=sample.versions[places],
        drawn=None,
    )


@given(SEEDS, SHARES)
@settings(max_examples=40, deadline=None)
def test_gradient_when_put_in_tokens_are_gone_is_the_same(seed: int, share: float) -> None:
    made = made_step(seed)
    bare = MadeStep(
        batch=regrouped(
            made,
            [
                dataclasses.replace(group, samples=tuple(without_put_in(s) for s in group.samples))
                for group in made.batch.groups
            ],
        ).batch,
        logprobs={s.sample_id: made.logprobs[s.sample_id][s.places_D] for s in made.batch.samples},
    )
    before, after = gradients_of(made, CISPO, share), gradients_of(bare, CISPO, share)
    assert after.loss == pytest.approx(before.loss, rel=1e-12, abs=1e-15)
    for sample in made.batch.samples:
        put_in = np.setdiff1d(np.arange(len(sample.response_ids)), sample.places_D)
        assert np.array_equal(before.drawn(sample), after.gradients[sample.sample_id])
        assert not before.gradients[sample.sample_id][put_in].any()
