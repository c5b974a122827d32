"""Scores become log10 likelihood ratios: of known distributions the right ones, whatever the trials' numbers."""

from __future__ import annotations

import numpy as np
import pytest

from registry.llr import MEASURES, PRIOR, LlrModel, fit_llr, llr_of, measures

LN10 = np.log(10)
MODEL = LlrModel((1.5, -4.0), -2.0)


def normals(mean: tuple[float, float], n: int, seed: int, spread: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """(n, 2) independent normal columns."""
    return np.random.default_rng(seed).normal(mean, spread, (n, 2))


def fit(target: np.ndarray, nontarget: np.ndarray) -> LlrModel:
    return fit_llr(target, nontarget, np.ones(len(target)), np.ones(len(nontarget)))


# --- applying ---


def test_measures_stand_side_by_side_as_they_are_named():
    assert MEASURES == ("norm_score", "accompaniment")
    assert measures(np.array([1.0, 2.0]), 0.5).tolist() == [[1.0, 0.5], [2.0, 0.5]]
    table = measures(np.zeros((2, 3), np.float32), np.array([[0.1], [0.2]]))
    assert (table.shape, table.dtype) == ((2, 3, 2), np.float64)
    assert table[1].tolist() == [[0.0, 0.2]] * 3


def test_an_llr_is_a_weighted_sum():
    llrs = llr_of(measures(np.array([[0.0, 2.0], [4.0, 2.0]]), np.array([[0.0], [0.25]])), MODEL)

    assert llrs.tolist() == [[-2.0, 1.0], [3.0, 0.0]]


# --- fitting ---


def test_the_fit_finds_the_likelihood_ratio_of_known_distributions():
    """N([2, 1], 1) against N([0, 0], 1), independent columns: ln LR = 2 x + y - (4 + 1) / 2."""
    model = fit(normals((2, 1), 200_000, 1), normals((0, 0), 200_000, 2))

    assert model.weights == pytest.approx((2 / LN10, 1 / LN10), rel=0.03)
    assert model.intercept == pytest.approx(-2.5 / LN10, rel=0.03)


def test_quality_is_weighed_where_it_moves_the_scores_of_both():
    """Music lowers all scores alike and is as common in both classes: a score counts from where strangers' then lie."""
    rng = np.random.default_rng(3)
    music = rng.normal(0, 1, 400_000)
    scores = rng.normal(0, 1, 400_000) - 0.8 * music + np.where(np.arange(400_000) % 2 == 0, 2.0, 0.0)
    trials = np.stack([scores, music], axis=1)

    model = fit(trials[::2], trials[1::2])

    assert model.weights == pytest.approx((2 / LN10, 1.6 / LN10), rel=0.03)
    assert model.intercept == pytest.approx(-2 / LN10, rel=0.03)


def test_how_many_trials_there_are_of_each_class_moves_nothing():
    """A likelihood ratio has no prior in it: quantiles instead of draws, so that a few targets are as good as many."""

    def target(n: int) -> np.ndarray:
        scores = 3 + np.sort(np.random.default_rng(0).normal(0, 1, 1_000_000))[500_000 // n :: 1_000_000 // n]
        return np.stack([scores, np.zeros(n)], axis=1)

    nontarget = normals((0, 0), 20_000, 4, spread=(1.0, 0.0))

    few, many = fit(target(400), nontarget), fit(target(20_000), nontarget)

    assert few.weights == pytest.approx(many.weights, rel=0.02)
    assert few.intercept == pytest.approx(many.intercept, rel=0.02)
    assert many.weights[0] == pytest.approx(3 / LN10, rel=0.05)
    assert many.intercept == pytest.approx(-4.5 / LN10, rel=0.05)


def test_a_weight_counts_as_so_many_trials_within_its_class():
    easy, hard, nontarget = normals((4, 0), 3000, 5), normals((1, 0), 1000, 6), normals((0, 0), 5000, 7)
    target = np.concatenate([easy, hard])
    repeated = np.concatenate([easy, np.repeat(hard, 5, axis=0)])
    weights = np.repeat([1.0, 5.0], [3000, 1000])

    weighted = fit_llr(target, nontarget, weights, np.full(5000, 0.25))
    plain, alike = fit(repeated, nontarget), fit(target, nontarget)

    assert weighted.weights == pytest.approx(plain.weights, abs=5e-3)
    assert weighted.intercept == pytest.approx(plain.intercept, abs=5e-3)
    assert abs(alike.intercept - weighted.intercept) > 0.1
    of_easy = fit_llr(target, nontarget, np.repeat([1.0, 0.0], [3000, 1000]), np.ones(5000))
    assert of_easy.intercept == pytest.approx(fit(easy, nontarget).intercept, rel=0.01)


def test_the_fit_is_the_optimum_at_its_prior_but_for_a_little_ridge():
    """Where no straight line is right the prior says where it must be: any step away from it costs more there."""
    target = normals((2, 1), 400, 8)
    nontarget = np.concatenate([normals((-1, 0), 4000, 9), normals((3, 0), 400, 10)])  # a few score above targets

    def cost(model: LlrModel, prior: float) -> float:
        odds = np.log(prior / (1 - prior))
        miss = np.log1p(np.exp(-LN10 * llr_of(target, model) - odds)).mean()
        false_alarm = np.log1p(np.exp(LN10 * llr_of(nontarget, model) + odds)).mean()
        return float(prior * miss + (1 - prior) * false_alarm)

    model = fit(target, nontarget)

    (a, b), c = model.weights, model.intercept
    for step in (0.03, -0.03):
        for other in (LlrModel((a + step, b), c), LlrModel((a, b + step), c), LlrModel((a, b), c + step)):
            assert cost(other, PRIOR) > cost(model, PRIOR)
    assert cost(LlrModel((a + 0.03, b), c - 0.03), 0.5) < cost(model, 0.5) - 1e-3


def test_what_is_the_same_everywhere_weighs_nothing():
    constant = np.array([1.0, 0.0]), np.array([0.0, 0.017])

    models = [
        fit(normals((3, 0), 5000, 1) * constant[0] + shift, normals((0, 0), 5000, 2) * constant[0] + shift)
        for shift in (0.0, constant[1])
    ]

    assert [model.weights[1] for model in models] == pytest.approx([0.0, 0.0], abs=1e-15)
    assert models[0].weights[0] == pytest.approx(models[1].weights[0], rel=1e-9)
    assert models[0].intercept == pytest.approx(models[1].intercept, rel=1e-9)
    assert models[0].weights[0] == pytest.approx(3 / LN10, rel=0.1)


@pytest.mark.parametrize("scale", [1.0, 100.0, 0.01])
def test_scores_that_are_told_apart_without_a_mistake_still_fit(scale):
    """No weight is best there; a finite one in the right direction is what is needed, without a warning."""
    target, nontarget = np.zeros((50, 2)), np.zeros((80, 2))
    target[:, 0], nontarget[:, 0] = scale * np.linspace(5, 9, 50), scale * np.linspace(-3, 1, 80)

    model = fit(target, nontarget)

    assert np.isfinite([*model.weights, model.intercept]).all()
    llrs = llr_of(measures(scale * np.array([1.0, 5.0]), 0.0), model)
    assert llrs[0] < -1 < 1 < llrs[1]


def test_reversed_scores_and_an_empty_class_are_refused():
    low, high = normals((0, 0), 100, 1), normals((3, 0), 100, 2)

    with pytest.raises(ValueError, match="targets do not score above nontargets: there is nothing to calibrate"):
        fit(low, high)
    with pytest.raises(ValueError, match="0 target and 100 nontarget trials; both are needed"):
        fit(high[:0], low)
    with pytest.raises(ValueError, match="100 target and 0 nontarget trials; both are needed"):
        fit(high, low[:0])


# --- as JSON ---


def test_a_model_comes_back_from_its_dict():
    values = MODEL.as_dict()

    assert values == {"weights": {"norm_score": 1.5, "accompaniment": -4.0}, "intercept": -2.0}
    assert LlrModel.from_dict(values) == MODEL
    assert LlrModel.from_dict({"weights": {"accompaniment": 0, "norm_score": 1}, "intercept": 0, "prior": 0.02}) == (
        LlrModel((1.0, 0.0), 0.0)
    )


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({}, "an intercept and weights of norm_score, accompaniment"),
        ({"weights": {"norm_score": 1.0}, "intercept": 0.0}, "an intercept and weights of"),
        ({"weights": {"norm_score": 1.0, "accompaniment": 0.0, "loudness": 1.0}, "intercept": 0.0}, "weights of"),
        ({"weights": {"norm_score": 1.0, "accompaniment": 0.0}}, "an intercept and weights of"),
        ({"weights": [1.0, 0.0], "intercept": 0.0}, "an intercept and weights of"),
        ({"weights": {"norm_score": 1.0, "accompaniment": 0.0}, "intercept": "0"}, "an intercept and weights of"),
        ({"slope": 1.0, "intercept": -1.5}, "an intercept and weights of"),  # of the release before
        ({"weights": {"norm_score": float("nan"), "accompaniment": 0.0}, "intercept": 0.0}, "is not a number"),
        ({"weights": {"norm_score": 1.0, "accompaniment": None}, "intercept": 0.0}, "is not a number"),
        ({"weights": {"norm_score": 1.0, "accompaniment": 0.0}, "intercept": float("inf")}, "is not a number"),
        ({"weights": {"norm_score": 0.0, "accompaniment": 1.0}, "intercept": 0.0}, "llr would fall with the score"),
        ({"weights": {"norm_score": -1.0, "accompaniment": 1.0}, "intercept": 0.0}, "llr would fall with the score"),
    ],
)
def test_what_is_no_model_is_refused(values, match):
    with pytest.raises(ValueError, match=match):
        LlrModel.from_dict(values)
