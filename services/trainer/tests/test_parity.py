"""The figures of agreement, against their definitions, and who may gate."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from forklight_core.errors import ParityError
from forklight_core.runfile.schema import ParitySection
from forklight_trainer.steps.parity import check_equal, check_parity, measure_parity, whole_version_mask


def test_measure_parity_when_compared_with_numpy_is_equal() -> None:
    generator = torch.Generator().manual_seed(0)
    ours = -3 * torch.rand(500, generator=generator)
    theirs = (ours + 0.1 * torch.randn(500, generator=generator)).clamp(max=0)
    parity = measure_parity(ours, theirs, version=3)
    p, q = np.exp(ours.double().numpy()), np.exp(theirs.double().numpy())
    assert parity.correlation == pytest.approx(np.corrcoef(p, q)[0, 1], abs=1e-12)
    assert parity.max_dp == pytest.approx(np.abs(p - q).max(), abs=1e-12)
    assert parity.mean_kl == pytest.approx(np.mean(p / q - 1 - np.log(p / q)), abs=1e-12)
    assert parity.num_tokens == 500


def test_measure_parity_when_equal_is_1_even_without_spread() -> None:
    same = torch.full((40,), -0.5)
    assert measure_parity(same, same.clone(), version=None).correlation == 1.0


def test_measure_parity_when_no_tokens_is_nan() -> None:
    parity = measure_parity(torch.zeros(0), torch.zeros(0), version=None)
    assert parity.num_tokens == 0
    assert math.isnan(parity.correlation) and math.isnan(parity.mean_kl)


def test_check_parity_when_kl_is_high_raises_with_the_figures() -> None:
    ours = torch.full((64,), -1.0) - torch.arange(64) * 0.1
    with pytest.raises(ParityError, match=r"64 tokens that version 7 sampled.*mean KL 0\.42554"):
        check_parity(measure_parity(ours, ours - 0.8, version=7), ParitySection(min_correlation=0.0))


def test_check_parity_when_one_side_is_constant_raises() -> None:
    spread = -torch.arange(64) * 0.01
    with pytest.raises(ParityError, match="correlation nan"):
        check_parity(measure_parity(spread, torch.zeros(64), version=0), ParitySection(max_mean_kl=1e9))


def test_check_parity_when_few_tokens_says_nothing() -> None:
    check_parity(measure_parity(torch.zeros(3), -torch.arange(3.0), version=0), ParitySection())


def test_whole_version_mask_when_a_sample_mixes_versions_leaves_it_out() -> None:
    versions = torch.tensor([2, 2, 1, 2, 2, 2])
    sample = torch.tensor([0, 0, 1, 1, 2, 2])
    assert whole_version_mask(versions, sample, 2).tolist() == [True, True, False, False, True, True]
    assert whole_version_mask(versions, sample, 1).tolist() == [False] * 6
    assert whole_version_mask(versions[:0], sample[:0], 1).tolist() == []


def test_unequal_tokens_when_the_last_bit_differs_are_counted() -> None:
    ours = -torch.rand(50, generator=torch.Generator().manual_seed(0))
    theirs = ours.clone()
    theirs[7] = torch.nextafter(theirs[7], torch.tensor(-9.0))
    theirs[9], ours[9] = 0.0, -0.0
    assert measure_parity(ours, ours.clone(), version=2).num_unequal == 0
    assert measure_parity(ours, theirs, version=2).num_unequal == 2
    assert measure_parity(ours, theirs, version=None).num_unequal is None
    assert measure_parity(ours[:0], theirs[:0], version=2).num_unequal == 0


def test_check_equal_when_one_token_differs_names_count_and_version() -> None:
    ours = -torch.arange(3.0)
    theirs = ours * (1 + 1e-6)
    check_equal(measure_parity(ours, ours.clone(), version=4))
    check_equal(measure_parity(ours, theirs, version=None))
    with pytest.raises(ParityError, match=r"2 of 3 tokens that version 4 sampled.*require_equal"):
        check_equal(measure_parity(ours, theirs, version=4))
