"""Scores become log10 likelihood ratios: of known distributions the right ones, whatever the trials' numbers."""

from __future__ import annotations

import numpy as np
import pytest

from registry.llr import (
    CROWDING_WEIGHT,
    MEASURES,
    PRIOR,
    LlrModel,
    fit_line,
    fit_llr,
    fit_weights,
    line_between,
    llr_of,
    measures,
)

LN10 = np.log(10)
MODEL = LlrModel((1.5, -4.0, -1.0, -0.5), -2.0)


def normals(mean: tuple[float, float], n: int, seed: int, spread: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """(n, 4) independent normal columns of score and music, with nobody else near."""
    return uncrowded(np.random.default_rng(seed).normal(mean, spread, (n, 2)))


def uncrowded(columns: np.ndarray) -> np.ndarray:
    """(n, 4) measures of (n, 2) scores and music, with nobody else near."""
    return measures(columns[:, 0], columns[:, 1])


def fit(target: np.ndarray, nontarget: np.ndarray) -> LlrModel:
    return fit_llr(target, nontarget, np.ones(len(target)), np.ones(len(nontarget)))


# --- applying ---


def test_measures_stand_side_by_side_as_they_are_named():
    assert MEASURES == ("norm_score", "accompaniment", "artist_crowding", "track_crowding")
    assert measures(np.array([1.0, 2.0]), 0.5).tolist() == [[1.0, 0.5, 0.0, 0.0], [2.0, 0.5, 0.0, 0.0]]
    assert measures(np.array([1.0, 2.0]), 0.5, np.array([0.1, 0.3]), 0.7).tolist() == [
        [1.0, 0.5, 0.1, 0.7],
        [2.0, 0.5, 0.3, 0.7],
    ]
    table = measures(np.zeros((2, 3), np.float32), np.array([[0.1], [0.2]]), np.array([0.0, 0.5, 1.0]))
    assert (table.shape, table.dtype) == ((2, 3, 4), np.float64)
    assert table[1].tolist() == [[0.0, 0.2, of_artist, 0.0] for of_artist in (0.0, 0.5, 1.0)]


def test_an_llr_is_a_weighted_sum():
    llrs = llr_of(measures(np.array([[0.0, 2.0], [4.0, 2.0]]), np.array([[0.0], [0.25]])), MODEL)

    assert llrs.tolist() == [[-2.0, 1.0], [3.0, 0.0]]
    assert llr_of(measures(np.array([2.0, 2.0]), 0.0, np.array([0.5, 0.0]), 1.0), MODEL).tolist() == [0.0, 0.5]


# --- fitting ---


def test_the_fit_finds_the_likelihood_ratio_of_known_distributions():
    """N([2, 1], 1) against N([0, 0], 1), independent columns: ln LR = 2 x + y - (4 + 1) / 2."""
    model = fit(normals((2, 1), 200_000, 1), normals((0, 0), 200_000, 2))

    assert model.weights == pytest.approx((2 / LN10, 1 / LN10, CROWDING_WEIGHT, CROWDING_WEIGHT), rel=0.03)
    assert model.intercept == pytest.approx(-2.5 / LN10, rel=0.03)


@pytest.mark.parametrize("which", ["artist_crowding", "track_crowding"])
def test_crowding_is_taken_off_as_it_is_and_the_rest_is_fitted_to_what_is_left(which):
    """Nine in ten targets but half of nontargets are uncrowded: of the others an llr is lower by the crowding, 1."""
    rng = np.random.default_rng(11)
    n = 200_000

    def trials(mean: float, share: float) -> np.ndarray:
        return measures(rng.normal(mean, 1, n), rng.normal(0, 1, n), **{which: (rng.random(n) < share).astype(float)})

    model = fit(trials(2, 1 / 11), trials(0, 1 / 2))

    assert model.weights[0] == pytest.approx(2 / LN10, rel=0.03)
    assert model.weights[1] == pytest.approx(0.0, abs=0.01)
    assert model.weights[2:] == (CROWDING_WEIGHT, CROWDING_WEIGHT) == (-1.0, -1.0)
    assert model.intercept == pytest.approx(-2 / LN10 + np.log10(20 / 11), abs=0.02)


def test_quality_is_weighed_where_it_moves_the_scores_of_both():
    """Music lowers all scores alike and is as common in both classes: a score counts from where strangers' then lie."""
    rng = np.random.default_rng(3)
    music = rng.normal(0, 1, 400_000)
    scores = rng.normal(0, 1, 400_000) - 0.8 * music + np.where(np.arange(400_000) % 2 == 0, 2.0, 0.0)
    trials = measures(scores, music)

    model = fit(trials[::2], trials[1::2])

    assert model.weights[:2] == pytest.approx((2 / LN10, 1.6 / LN10), rel=0.03)
    assert model.intercept == pytest.approx(-2 / LN10, rel=0.03)


def test_how_many_trials_there_are_of_each_class_moves_nothing():
    """A likelihood ratio has no prior in it: quantiles instead of draws, so that a few targets are as good as many."""

    def target(n: int) -> np.ndarray:
        scores = 3 + np.sort(np.random.default_rng(0).normal(0, 1, 1_000_000))[500_000 // n :: 1_000_000 // n]
        return measures(scores, 0.0)

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

    (a, b, *crowding), c = model.weights, model.intercept

    def moved(*by: float) -> LlrModel:
        return LlrModel((a + by[0], b + by[1], *crowding), c + by[2])

    for step in (0.03, -0.03):
        for other in (moved(step, 0, 0), moved(0, step, 0), moved(0, 0, step)):
            assert cost(other, PRIOR) > cost(model, PRIOR)
    assert cost(moved(-0.1, 0, 0), 0.02) < cost(model, 0.02) - 1e-3


def test_what_is_the_same_everywhere_weighs_nothing():
    alone, constant = np.array([1.0, 0.0, 0.0, 0.0]), np.array([0.0, 0.017, 0.0, 0.0])

    models = [
        fit(normals((3, 0), 5000, 1) * alone + shift, normals((0, 0), 5000, 2) * alone + shift)
        for shift in (0.0, constant)
    ]

    assert [model.weights[1] for model in models] == pytest.approx([0.0, 0.0], abs=1e-15)
    assert models[0].weights[0] == pytest.approx(models[1].weights[0], rel=1e-9)
    assert models[0].intercept == pytest.approx(models[1].intercept, rel=1e-9)
    assert models[0].weights[0] == pytest.approx(3 / LN10, rel=0.1)


@pytest.mark.parametrize("scale", [1.0, 100.0, 0.01])
def test_scores_that_are_told_apart_without_a_mistake_still_fit(scale):
    """No weight is best there; a finite one in the right direction is what is needed, without a warning."""
    target, nontarget = scale * np.linspace(5, 9, 50), scale * np.linspace(-3, 1, 80)

    model = fit(measures(target, 0.0), measures(nontarget, 0.0))

    assert np.isfinite([*model.weights, model.intercept]).all()
    llrs = llr_of(measures(scale * np.array([1.0, 5.0]), 0.0), model)
    assert llrs[0] < -1 < 1 < llrs[1]


def test_reversed_scores_and_an_empty_class_are_refused():
    low, high = normals((0, 0), 100, 1), normals((3, 0), 100, 2)

    with pytest.raises(ValueError, match="targets do not score above nontargets: there is nothing to calibrate"):
        fit(low, high)
    with pytest.raises(ValueError, match="targets do not score above nontargets: there is nothing to calibrate"):
        fit_line(LlrModel((1.0, 0.0, -1.0, -1.0), 0.0), low, high, np.ones(100), np.ones(100))
    with pytest.raises(ValueError, match="0 target and 100 nontarget trials; both are needed"):
        fit(high[:0], low)
    with pytest.raises(ValueError, match="100 target and 0 nontarget trials; both are needed"):
        fit(high, low[:0])


# --- slope and intercept, and what is known already ---


def test_the_line_makes_of_llrs_that_are_off_what_they_should_be():
    """The right llr is (2 x + y - 2.5) / ln 10: of one with half of each weight, and with another intercept."""
    target, nontarget = normals((2, 1), 200_000, 1), normals((0, 0), 200_000, 2)
    off = LlrModel((1 / LN10, 0.5 / LN10, -1.0, -0.5), 3.0)

    model = fit_line(off, target, nontarget, np.ones(200_000), np.ones(200_000))

    slope, intercept = line_between(off, model)
    assert slope == pytest.approx(2.0, rel=0.03)
    assert intercept == pytest.approx(-2.5 / LN10 - 2.0 * 3.0, rel=0.03)
    assert model.weights == pytest.approx([slope * weight for weight in off.weights], rel=1e-12)
    assert model.intercept == pytest.approx(slope * off.intercept + intercept, abs=1e-12)
    some = measures(np.array([-1.0, 4.0]), 0.5, np.array([0.3, 0.0]), np.array([0.0, 1.5]))
    assert llr_of(some, model) == pytest.approx(slope * llr_of(some, off) + intercept, abs=1e-12)


def test_the_line_is_fitted_to_llrs_with_crowding_taken_off_in_which_each_trial_has_its_weight():
    rng = np.random.default_rng(12)
    off = LlrModel((0.7, 2.0, -1.0, -0.25), -0.5)
    target, nontarget = (
        measures(rng.normal(mean, 1, 3000), rng.normal(0, 0.1, 3000), *rng.exponential(0.5, (2, 3000)))
        for mean in (3, 0)
    )
    weights = rng.random(3000), rng.random(3000)

    model = fit_line(off, target, nontarget, *weights)

    (slope,), intercept = fit_weights(llr_of(target, off)[:, None], llr_of(nontarget, off)[:, None], *weights)
    assert line_between(off, model) == pytest.approx((slope, intercept), abs=1e-12)


def test_what_is_known_of_all_alike_moves_the_intercept_only():
    target, nontarget = normals((2, 1), 4000, 13)[:, :2], normals((0, 0), 6000, 14)[:, :2]
    rng = np.random.default_rng(15)
    alike, known = (np.ones(4000), np.ones(6000)), (rng.normal(0, 0.5, 4000), rng.normal(0, 0.5, 6000))

    weights, intercept = fit_weights(target, nontarget, *alike, known=known)
    moved, lower = fit_weights(target, nontarget, *alike, known=(known[0] + 0.75, known[1] + 0.75))

    assert moved == pytest.approx(weights, abs=1e-6)
    assert lower == pytest.approx(intercept - 0.75, abs=1e-5)
    of_all, by_one_number = (
        fit_weights(target, nontarget, *alike, known=each)
        for each in ((np.full(4000, -0.25), np.full(6000, -0.25)), (-0.25, -0.25))
    )
    assert (of_all[0].tolist(), of_all[1]) == (by_one_number[0].tolist(), by_one_number[1])


def test_what_is_known_of_each_is_not_fitted_again():
    """Half of the evidence is in the first column, half is known: of the first nothing more or less is made."""
    target, nontarget = normals((2, 2), 200_000, 16), normals((0, 0), 200_000, 17)
    known = tuple((2 * rows[:, 1] - 2) / LN10 for rows in (target, nontarget))

    (weight,), intercept = fit_weights(target[:, :1], nontarget[:, :1], np.ones(200_000), np.ones(200_000), known=known)

    assert weight == pytest.approx(2 / LN10, rel=0.03)
    assert intercept == pytest.approx(-2 / LN10, rel=0.03)


# --- as JSON ---


def test_a_model_comes_back_from_its_dict():
    values = MODEL.as_dict()

    assert values == {
        "weights": {"norm_score": 1.5, "accompaniment": -4.0, "artist_crowding": -1.0, "track_crowding": -0.5},
        "intercept": -2.0,
    }
    assert LlrModel.from_dict(values) == MODEL


def test_a_model_of_before_there_was_crowding_takes_nothing_off_for_it():
    assert LlrModel.from_dict({"weights": {"accompaniment": 0, "norm_score": 1}, "intercept": 0, "prior": 0.02}) == (
        LlrModel((1.0, 0.0, 0.0, 0.0), 0.0)
    )


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({}, "an intercept and weights of norm_score, accompaniment, artist_crowding, track_crowding$"),
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
        (
            {"weights": {"norm_score": 1.0, "accompaniment": 0.0, "artist_crowding": 0.1}, "intercept": 0.0},
            "llr would rise with the number of other voices that come near",
        ),
        (
            {"weights": {"norm_score": 1.0, "accompaniment": 0.0, "track_crowding": 0.1}, "intercept": 0.0},
            "llr would rise with the number of other voices that come near",
        ),
        (
            {"weights": {"norm_score": 1.0, "accompaniment": 0.0, "track_crowding": float("nan")}, "intercept": 0.0},
            "is not a number",
        ),
    ],
)
def test_what_is_no_model_is_refused(values, match):
    with pytest.raises(ValueError, match=match):
        LlrModel.from_dict(values)
