"""Costs of likelihood ratios against worked examples, and against slow independent implementations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import isotonic_regression

from registry.llr_metrics import cllr, cllr_min, cllr_min_of, pool_adjacent_violators, reliability, tippett
from registry.metrics import roc


def _random_trials(seed, n_targets=40, n_nontargets=300, decimals=None, shift=1.5):
    """Scores with or without ties, shuffled so that no order helps."""
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(shift, 1, n_targets), rng.normal(0, 1, n_nontargets)])
    if decimals is not None:
        scores = np.round(scores, decimals)
    is_target = np.arange(scores.size) < n_targets
    order = rng.permutation(scores.size)
    return scores[order], is_target[order]


def _calibrated(n=20_000, variance=6.0, seed=0):
    """log10 likelihood ratios of two Gaussians that are exactly what they say (van Leeuwen and Brümmer 2013)."""
    rng = np.random.default_rng(seed)
    targets, nontargets = rng.normal(variance / 2, variance**0.5, (2, n)) * [[1], [-1]]
    return targets / np.log(10), nontargets / np.log(10)


def _slow_cllr(targets, nontargets, target_weights=None, nontarget_weights=None):
    """Brümmer and du Preez 2006, as it is written, with likelihood ratios."""
    cost_target = np.average(np.log2(1 + 1 / 10.0**targets), weights=target_weights)
    return (cost_target + np.average(np.log2(1 + 10.0**nontargets), weights=nontarget_weights)) / 2


def _slow_cllr_min(targets, nontargets):
    """Isotonic regression by scipy of the labels, classes alike, ties pooled first."""
    scores = np.concatenate([targets, nontargets])
    labels = np.arange(scores.size) < targets.size
    weights = np.where(labels, 1 / targets.size, 1 / nontargets.size)
    _, at = np.unique(scores, return_inverse=True)
    heft = np.bincount(at, weights)
    share = isotonic_regression(np.bincount(at, weights * labels) / heft, weights=heft).x[at]
    with np.errstate(divide="ignore"):
        return -(weights[labels] @ np.log2(share[labels]) + weights[~labels] @ np.log2(1 - share[~labels])) / 2


def test_saying_nothing_costs_one_bit():
    assert cllr(np.zeros(3), np.zeros(7)) == pytest.approx(1)
    assert cllr_min(np.zeros(3), np.zeros(7)) == pytest.approx(1)


def test_worked_example_of_cllr():
    targets, nontargets = np.array([1.0, 0.0]), np.array([-1.0, 0.5])

    assert cllr(targets, nontargets) == pytest.approx(_slow_cllr(targets, nontargets))
    assert cllr([np.inf, np.inf], [-3.0]) == pytest.approx(np.log2(1.001) / 2)
    assert cllr([1.0], [np.inf]) == np.inf
    assert cllr([1000.0], [-1000.0]) == 0  # far beyond what a power of ten holds


def test_calibrated_llrs_cost_hardly_more_than_the_least_and_others_do():
    targets, nontargets = _calibrated()

    least = cllr_min(targets, nontargets)

    assert least <= cllr(targets, nontargets) < least + 0.003
    assert cllr(3 * targets, 3 * nontargets) > least + 0.05
    assert cllr(targets + 1, nontargets + 1) > least + 0.05
    assert cllr_min(3 * targets + 1, 3 * nontargets + 1) == pytest.approx(least)  # only the order counts


@pytest.mark.parametrize("decimals", [None, 1])
@pytest.mark.parametrize("seed", range(4))
def test_cllr_min_is_that_of_isotonic_regression(seed, decimals):
    scores, is_target = _random_trials(seed, decimals=decimals)

    expected = _slow_cllr_min(scores[is_target], scores[~is_target])

    assert cllr_min(scores[is_target], scores[~is_target]) == pytest.approx(expected, abs=1e-9)
    assert cllr_min_of(roc(scores, is_target)) == pytest.approx(expected, abs=1e-9)


def test_a_weight_counts_as_many_trials():
    targets, nontargets = np.array([1.0, -0.5, 2.0]), np.array([-1.0, 0.5])
    repeated = np.repeat(targets, [1, 3, 0]), np.repeat(nontargets, [2, 1])

    for cost in (cllr, cllr_min):
        assert cost(targets, nontargets, [1, 3, 0], [2, 1]) == pytest.approx(cost(*repeated))
    assert cllr(targets, nontargets, [1, 3, 0], [2, 1]) == pytest.approx(
        _slow_cllr(targets, nontargets, [1, 3, 0], [2, 1])
    )


@pytest.mark.parametrize("cost", [cllr, cllr_min])
def test_abstentions_are_left_out_of_the_cost_of_llrs(cost):
    targets, nontargets = _calibrated(200)
    some = np.concatenate([[-np.inf, -np.inf], targets]), np.concatenate([nontargets, [-np.inf]])

    assert cost(*some) == pytest.approx(cost(targets, nontargets))
    with pytest.raises(ValueError, match="target_llrs: 0 of 1 are judged; at least one that counts is needed"):
        cost([-np.inf], [1.0])
    with pytest.raises(ValueError, match="nontarget_llrs: 1 of 1 are judged"):
        cost([1.0], [1.0], None, [0.0])
    with pytest.raises(ValueError, match=r"target_llrs\[0\] is NaN"):
        cost([np.nan], [1.0])


@pytest.mark.parametrize("seed", range(6))
def test_pooled_violators_are_isotonic_regression(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 400))
    values = rng.integers(0, 3, n).astype(float) if seed % 2 else rng.normal(0, 1, n) + np.linspace(0, 2, n)
    weights = rng.integers(0, 3, n).astype(float)
    weights[n // 2] = 1.0

    block = pool_adjacent_violators(values, weights)

    counts = weights > 0
    means = np.bincount(block, values * weights) / np.bincount(block, weights)
    assert means[block][counts] == pytest.approx(isotonic_regression(values[counts], weights=weights[counts]).x)
    assert set(np.diff(block)) <= {0, 1}
    assert (np.diff(means) > 0).all()


@pytest.mark.parametrize("kind", ["noise", "one late violator", "falling", "rising"])
def test_a_million_scores_are_pooled_at_once(kind):
    values = {
        "noise": np.random.default_rng(0).random(10**6),
        "one late violator": np.append(np.arange(10**6 - 1.0), -(10.0**12)),  # takes back one block after the other
        "falling": -np.arange(10.0**6),
        "rising": np.arange(10.0**6),
    }[kind]

    block = pool_adjacent_violators(values, np.ones(10**6))

    assert (block[-1] == 0) == (kind in ("one late violator", "falling"))
    assert kind != "rising" or block[-1] == 10**6 - 1


def test_nothing_that_weighs_is_one_block():
    assert pool_adjacent_violators(np.array([2.0, 1.0]), np.zeros(2)).tolist() == [0, 0]


def test_tippett_points_are_shares_at_or_above():
    points = tippett([2.0, 1.0, -np.inf, -np.inf], [0.0, -1.0], max_points=4)

    assert points.llr.tolist() == [-1.0, 0.0, 1.0, 2.0]
    assert points.targets.tolist() == [0.5, 0.5, 0.5, 0.25]  # half of them abstained
    assert points.nontargets.tolist() == [1.0, 0.5, 0.0, 0.0]
    assert tippett([-np.inf], [-np.inf]).llr.size == 0


def test_tippett_refuses_what_it_cannot_plot():
    with pytest.raises(ValueError, match="0 target and 1 nontarget llrs"):
        tippett([], [1.0])
    with pytest.raises(ValueError, match="max_points is 1; at least 2"):
        tippett([1.0], [1.0], 1)


def test_calibrated_llrs_are_reliable_and_others_lie_off_the_line():
    targets, nontargets = _calibrated()

    bins = reliability(targets, nontargets)
    doubled = reliability(2 * targets, 2 * nontargets)

    enough = np.minimum(bins.n_targets, bins.n_nontargets) >= 200
    assert enough.sum() >= 4
    assert bins.stated[enough] == pytest.approx(bins.observed[enough], abs=0.1)
    assert bins.n_targets.sum() == bins.n_nontargets.sum() == 20_000
    enough = np.minimum(doubled.n_targets, doubled.n_nontargets) >= 200
    assert doubled.observed[enough] == pytest.approx(doubled.stated[enough] / 2, abs=0.1)


def test_reliability_of_a_few_trials_by_hand():
    bins = reliability([0.5, 1.5, -np.inf], [0.5, -0.5, 0.6, 0.7], [1, 3, 9], edges=[-1, 0, 1, 2, 3])

    assert bins.n_targets.tolist() == [0, 1, 1, 0]
    assert bins.n_nontargets.tolist() == [1, 3, 0, 0]
    assert bins.observed == pytest.approx([-np.inf, np.log10(0.25 / 0.75), np.inf, np.nan], nan_ok=True)
    assert bins.stated == pytest.approx([-0.5, (0.25 * 0.5 + 0.25 * 1.8) / 1.0, 1.5, np.nan], nan_ok=True)


@pytest.mark.parametrize("edges", [[0.0], [1.0, 1.0], [2.0, 1.0], [[0.0, 1.0]]])
def test_reliability_needs_rising_edges(edges):
    with pytest.raises(ValueError, match="at least two rising ones are needed"):
        reliability([1.0], [0.0], edges=edges)
