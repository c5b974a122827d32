"""Error rates against worked examples, against slow independent implementations, and against scipy."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from scipy.spatial import ConvexHull
from scipy.stats import mannwhitneyu, norm

from registry.intervals import (
    balanced_weights,
    bootstrap_cllr,
    bootstrap_mean,
    bootstrap_open_set,
    bootstrap_share,
    bootstrap_verification,
    by_group,
    macro_estimate,
)
from registry.llr_metrics import cllr
from registry.metrics import (
    Roc,
    auc,
    det_points,
    eer,
    eer_hull,
    fnir_at_fpir,
    fnmr_at_fmr,
    min_dcf,
    open_set_scores,
    roc,
)


def _random_trials(seed, n_targets=40, n_nontargets=300, decimals=None, shift=1.5):
    """Scores with or without ties, shuffled so that no order helps."""
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(shift, 1, n_targets), rng.normal(0, 1, n_nontargets)])
    if decimals is not None:
        scores = np.round(scores, decimals)
    is_target = np.arange(scores.size) < n_targets
    order = rng.permutation(scores.size)
    return scores[order], is_target[order]


def _operating_points(scores, is_target, weights=None):
    """(p_fa, p_miss) at every distinct score and at +inf, by counting one threshold after another."""
    weights = np.ones(scores.size) if weights is None else weights
    points = []
    for threshold in [np.inf, *np.unique(scores)[::-1]]:
        accepted = scores >= threshold
        points.append(
            (
                weights[accepted & ~is_target].sum() / weights[~is_target].sum(),
                weights[~accepted & is_target].sum() / weights[is_target].sum(),
            )
        )
    return np.array(points)


def _slow_eer(points):
    """First crossing of the diagonal, walking the points one by one."""
    for (fa_before, miss_before), (fa, miss) in itertools.pairwise(points):
        if miss <= fa:
            share = (miss_before - fa_before) / ((miss_before - fa_before) - (miss - fa))
            return fa_before + share * (fa - fa_before)
    raise AssertionError("the curve never crosses the diagonal")


def _slow_eer_hull(points):
    """The least e for which (e, e) lies inside scipy's hull of the points and the corner (1, 1)."""
    hull = ConvexHull(np.vstack([points, [[1.0, 1.0]]]), qhull_options="QJ Pp")
    # Inside, a x + b y + c <= 0 for every edge; those facing the origin (a + b < 0) bound e from below.
    return max(0.0, *(-c / (a + b) for a, b, c in hull.equations if a + b < -1e-9))


# --- worked examples --------------------------------------------------------------------------------------------------


def test_worked_example_of_four_trials():
    curve = roc([0.9, 0.8, 0.4, 0.1], [True, False, True, False])

    # Accepting 0.9 alone misses half and admits nobody; down to 0.4 all targets and one of two nontargets are in.
    assert curve.p_fa.tolist() == [0, 0, 0, 0.5, 0.5, 1]
    assert curve.p_miss.tolist() == [1, 1, 0.5, 0.5, 0, 0]
    assert curve.threshold[[0, 2, 4, 5]].tolist() == [np.inf, 0.9, 0.4, -np.inf]
    assert eer(curve) == 0.5
    # Of the four (target, nontarget) pairs only 0.4 against 0.8 is the wrong way round.
    assert auc(curve) == 0.75
    # The hull runs straight from (0, 0.5) to (0.5, 0) and crosses the diagonal at a quarter.
    assert eer_hull(curve) == 0.25


def test_perfect_scores():
    curve = roc([3.0, 2.0, 1.0, 0.0], [True, True, False, False])

    assert (eer(curve), eer_hull(curve), auc(curve), min_dcf(curve, 0.01)) == (0, 0, 1, 0)
    assert det_points(curve).threshold.size == 0


def test_reversed_scores_are_worse_than_chance_but_a_decision_never_is():
    curve = roc([0.0, 1.0, 2.0, 3.0], [True, True, False, False])

    assert (eer(curve), auc(curve)) == (1, 0)
    assert eer_hull(curve) == 0.5
    assert min_dcf(curve, 0.01) == 1


def test_scores_that_are_all_equal_are_chance_and_not_perfect():
    curve = roc(np.zeros(10), np.arange(10) < 3)

    assert (eer(curve), eer_hull(curve), auc(curve)) == (0.5, 0.5, 0.5)
    assert min_dcf(curve, 0.001) == 1


def test_ties_count_one_half_in_the_area():
    # Pairs: 2 > 1 right, 2 = 2 a half, 1 = 1 a half, 1 < 2 wrong: 2 of 4.
    assert auc(roc([2.0, 1.0, 2.0, 1.0], [True, True, False, False])) == 0.5


def test_one_target_beaten_by_three_of_ten_as_the_docstring_says():
    curve = roc([*np.arange(10.0), 6.5], [False] * 10 + [True])

    assert eer(curve) == pytest.approx(0.3)
    assert eer_hull(curve) == pytest.approx(0.3 / 1.3)


def test_min_dcf_by_hand():
    # 4 targets, 1,000 nontargets; one nontarget (score 5) lies between the best two targets and the other two.
    scores = np.concatenate([[9.0, 8.0, 4.0, 3.0], [5.0], np.zeros(999)])
    curve = roc(scores, np.arange(1004) < 4)

    # At 0.01: accept down to 3.0, 0 missed and 1/1000 false: 0.99 * 0.001 / 0.01 = 0.099.
    assert min_dcf(curve, 0.01) == pytest.approx(0.099)
    # At 0.001 the one false accept costs 0.999 * 0.001 / 0.001 = 0.999; stopping before it costs the half missed.
    assert min_dcf(curve, 0.001) == pytest.approx(0.5)
    # A miss four times as dear: accept it, 0.999 * 0.001 / 0.004.
    assert min_dcf(curve, 0.001, c_miss=4) == pytest.approx(0.999 / 4)
    # Above a prior of a half the costs are shares of accepting everything.
    assert min_dcf(curve, 0.9) == pytest.approx(0.001)


def test_fnmr_at_fmr_keeps_the_promise_without_interpolating():
    curve = roc([*np.arange(10.0), 8.5, 6.5], [False] * 10 + [True, True])

    assert fnmr_at_fmr(curve, 0.0) == 1
    assert fnmr_at_fmr(curve, 0.1) == 0.5
    assert fnmr_at_fmr(curve, 0.29) == 0.5
    assert fnmr_at_fmr(curve, 0.3) == 0
    assert fnmr_at_fmr(curve, 1.0) == 0


def test_fnmr_at_fmr_survives_rounding_of_summed_weights():
    # 0.1 added three times, over 0.1 added ten times, comes out a hair above 0.3.
    curve = roc([*np.arange(10.0), 6.5], [False] * 10 + [True], np.full(11, 0.1))

    assert curve.p_fa[curve.p_fa > 0.3 - 1e-9].min() > 0.3
    assert fnmr_at_fmr(curve, 0.3) == 0


# --- against other implementations ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_curve_agrees_with_counting_at_every_threshold(seed, decimals):
    scores, is_target = _random_trials(seed, decimals=decimals, shift=[1.5, 0.2][seed % 2])
    points = _operating_points(scores, is_target)

    curve = roc(scores, is_target)

    assert eer(curve) == pytest.approx(_slow_eer(points), abs=1e-12)
    assert eer_hull(curve) == pytest.approx(_slow_eer_hull(points), abs=1e-6)
    assert eer_hull(curve) <= eer(curve) + 1e-12
    statistic = mannwhitneyu(scores[is_target], scores[~is_target]).statistic
    assert auc(curve) == pytest.approx(statistic / (is_target.sum() * (~is_target).sum()), abs=1e-12)
    for p_target in (0.001, 0.01, 0.5, 0.9):
        costs = p_target * points[:, 1] + (1 - p_target) * points[:, 0]
        assert min_dcf(curve, p_target) == pytest.approx(costs.min() / min(p_target, 1 - p_target), abs=1e-12)
    for fmr in (0.0, 0.01, 0.1, 0.7):
        assert fnmr_at_fmr(curve, fmr) == pytest.approx(points[points[:, 0] <= fmr, 1].min(), abs=1e-12)


def test_operating_points_are_what_their_threshold_does():
    scores, is_target = _random_trials(3, decimals=1)
    curve = roc(scores, is_target)

    for threshold, p_fa, p_miss in zip(curve.threshold, curve.p_fa, curve.p_miss, strict=True):
        assert p_fa == pytest.approx((scores[~is_target] >= threshold).mean(), abs=1e-12)
        assert p_miss == pytest.approx((scores[is_target] < threshold).mean(), abs=1e-12)


def test_gaussian_scores_approach_their_known_rates():
    scores, is_target = _random_trials(0, n_targets=100_000, n_nontargets=100_000, shift=2.0)
    curve = roc(scores, is_target)

    assert eer(curve) == pytest.approx(norm.cdf(-1), abs=0.003)
    assert eer_hull(curve) == pytest.approx(norm.cdf(-1), abs=0.003)
    assert auc(curve) == pytest.approx(norm.cdf(2 / np.sqrt(2)), abs=0.002)


def test_whole_weights_are_repetitions():
    scores, is_target = _random_trials(5, decimals=1)
    times = np.random.default_rng(5).integers(0, 4, scores.size)

    weighted = roc(scores, is_target, times)
    repeated = roc(np.repeat(scores, times), np.repeat(is_target, times))

    for metric in (eer, eer_hull, auc, lambda curve: min_dcf(curve, 0.01)):
        assert metric(weighted) == pytest.approx(metric(repeated), abs=1e-12)


def test_scaling_weights_or_scores_changes_nothing():
    scores, is_target = _random_trials(6)
    weights = np.random.default_rng(6).random(scores.size)

    assert eer(roc(scores, is_target, weights)) == pytest.approx(eer(roc(scores, is_target, 7 * weights)))
    assert eer(roc(scores, is_target)) == eer(roc(np.exp(scores), is_target))
    assert auc(roc(-scores, is_target)) == pytest.approx(1 - auc(roc(scores, is_target)))


# --- abstentions and refusals -----------------------------------------------------------------------------------------


def test_abstained_target_is_missed_at_every_finite_threshold():
    curve = roc([5.0, -np.inf, 1.0, 0.0], [True, True, False, False])

    assert curve.p_miss[curve.threshold > -np.inf].min() == 0.5
    assert min_dcf(curve, 0.01) == 0.5
    assert fnmr_at_fmr(curve, 0.5) == 0.5


def test_abstained_nontarget_is_never_accepted():
    judged = roc([2.0, 1.0, 3.0, 0.0], [True, True, False, False])
    abstained = roc([2.0, 1.0, 3.0, -np.inf], [True, True, False, False])

    assert judged.p_fa.tolist() == abstained.p_fa.tolist()


def test_nan_is_refused_with_its_place():
    with pytest.raises(ValueError, match=r"scores\[1\] is NaN \(1 in all\); give -inf to a track that abstained"):
        roc([0.5, np.nan, 0.1], [True, False, False])


@pytest.mark.parametrize("is_target", [[True, True], [False, False]])
def test_one_sided_trials_are_refused(is_target):
    with pytest.raises(ValueError, match="at least one of each is needed"):
        roc([0.5, 0.1], is_target)


def test_labels_that_are_not_bool_are_refused():
    with pytest.raises(TypeError, match="is_target has dtype int64; bool is needed"):
        roc([0.5, 0.1], [1, 0])


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"is_target has shape \(3,\), scores \(2,\)"):
        roc([0.5, 0.1], [True, False, False])


@pytest.mark.parametrize(
    ("weights", "message"),
    [([1.0, -1.0], "negative"), ([1.0], r"shape \(1,\)"), ([1.0, np.inf], "not finite"), ([1.0, 0.0], "weight 0")],
)
def test_bad_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        roc([0.5, 0.1], [True, False], weights)


@pytest.mark.parametrize("p_target", [0.0, 1.0, -1.0])
def test_impossible_priors_are_refused(p_target):
    with pytest.raises(ValueError, match="p_target is"):
        min_dcf(roc([0.5, 0.1], [True, False]), p_target)


# --- DET --------------------------------------------------------------------------------------------------------------


def test_det_points_are_on_the_curve_and_on_probit_axes():
    curve = roc(*_random_trials(1, n_targets=500, n_nontargets=5000))

    det = det_points(curve, max_points=50)

    assert 25 <= det.threshold.size <= 50
    on_curve = set(zip(curve.threshold, curve.p_fa, curve.p_miss, strict=True))
    assert set(zip(det.threshold, det.p_fa, det.p_miss, strict=True)) <= on_curve
    np.testing.assert_allclose(det.probit_fa, norm.ppf(det.p_fa), atol=1e-9)
    np.testing.assert_allclose(det.probit_miss, norm.ppf(det.p_miss), atol=1e-9)
    assert (np.diff(det.p_fa) >= 0).all() and (np.diff(det.p_miss) <= 0).all()
    inside = (curve.p_fa > 0) & (curve.p_fa < 1) & (curve.p_miss > 0) & (curve.p_miss < 1)
    assert det.p_fa[[0, -1]].tolist() == curve.p_fa[inside][[0, -1]].tolist()
    assert det.p_miss[[0, -1]].tolist() == curve.p_miss[inside][[0, -1]].tolist()


def test_short_det_keeps_every_point():
    curve = roc(*_random_trials(1, n_targets=10, n_nontargets=50, shift=0))
    inside = (curve.p_fa > 0) & (curve.p_fa < 1) & (curve.p_miss > 0) & (curve.p_miss < 1)

    assert det_points(curve).p_fa.tolist() == curve.p_fa[inside].tolist()


# --- open set ---------------------------------------------------------------------------------------------------------


def test_open_set_takes_the_right_artist_of_mates_and_the_best_of_strangers():
    scores = [
        [0.9, 0.2, 0.1],  # mate of artist 0, found first
        [0.6, 0.5, 0.1],  # mate of artist 1, another scores higher
        [0.3, 0.4, 0.2],  # stranger
        [0.8, 0.8, 0.8],  # stranger, abstained
        [0.1, 0.1, 0.7],  # mate of artist 2, abstained
        [-np.inf, 0.2, 0.3],  # stranger who is artist 0 in other trials
    ]

    kept = open_set_scores(scores, [0, 1, -1, -1, 2, -1], [False, False, False, True, True, False])

    assert kept.mate_scores.tolist() == [0.9, 0.5, -np.inf]
    assert kept.mate_ranks.tolist() == [1, 2, 0]
    assert kept.stranger_scores.tolist() == [0.4, -np.inf, 0.3]
    assert (kept.mate_at.tolist(), kept.stranger_at.tolist()) == ([0, 1, 4], [2, 3, 5])


def test_open_set_refuses_nan_unless_the_track_abstained():
    with pytest.raises(ValueError, match="track 1 has a NaN score; mark it as abstained"):
        open_set_scores([[0.1, 0.2], [np.nan, 0.2]], [0, -1])

    kept = open_set_scores([[0.1, 0.2], [np.nan, np.nan]], [0, -1], [False, True])
    assert kept.stranger_scores.tolist() == [-np.inf]


def test_open_set_refuses_an_artist_without_column():
    with pytest.raises(ValueError, match="artist runs from 0 to 2; -1 to 1 is allowed"):
        open_set_scores([[0.1, 0.2], [0.3, 0.2]], [0, 2])


def test_fnir_at_fpir_by_hand():
    strangers = np.arange(10.0)  # the best is 9
    mates = [9.5, 9.0, 8.5, -np.inf]

    at_zero = fnir_at_fpir(mates, strangers, 0.0)
    at_tenth = fnir_at_fpir(mates, strangers, 0.1)

    # Nothing may be flagged: the threshold lies above 9, where a mate at exactly 9 is missed too.
    assert (at_zero.fnir, at_zero.fpir, at_zero.resolved) == (0.75, 0.0, False)
    assert 9 < at_zero.threshold < 9 + 1e-9
    # One stranger in ten may: the threshold lies above 8; the abstention stays a miss.
    assert (at_tenth.fnir, at_tenth.fpir, at_tenth.resolved) == (0.25, 0.1, True)
    assert dataclasses.astuple(at_tenth)[-2:] == (4, 10)


def test_budget_between_two_steps_is_rounded_down():
    point = fnir_at_fpir([8.5], np.arange(10.0), 0.19)

    assert (point.fpir, point.fnir) == (0.1, 0)


def test_tied_strangers_are_flagged_together_or_not_at_all():
    point = fnir_at_fpir([5.0, 5.1], [5.0, 5.0, 1.0, 1.0], 0.25)

    assert (point.fpir, point.fnir) == (0.0, 0.5)


def test_abstained_strangers_are_never_flagged_and_stay_in_the_denominator():
    point = fnir_at_fpir([0.5, -np.inf], [1.0, -np.inf, -np.inf, -np.inf], 0.25)
    everything = fnir_at_fpir([0.5, -np.inf], [1.0, -np.inf, -np.inf, -np.inf], 1.0)

    assert (point.fpir, point.fnir) == (0.25, 0.5)
    # Even a threshold of -inf flags no abstained track, stranger or mate.
    assert (everything.fpir, everything.fnir, everything.threshold) == (0.25, 0.5, -np.inf)


@pytest.mark.parametrize("seed", range(6))
def test_fnir_at_fpir_agrees_with_trying_every_threshold(seed):
    rng = np.random.default_rng(seed)
    mates, strangers = np.round(rng.normal(1, 1, 60), 1), np.round(rng.normal(0, 1, 90), 1)
    mates[:5], strangers[:8] = -np.inf, -np.inf
    weights_m, weights_s = rng.random(60), rng.random(90)

    for fpir in (0.0, 0.02, 0.1, 0.5, 1.0):
        point = fnir_at_fpir(mates, strangers, fpir, weights_m, weights_s)
        best = 1.0
        for threshold in [-1e9, *np.nextafter(strangers[8:], np.inf)]:
            flagged = (strangers >= threshold) & (strangers > -np.inf)
            if weights_s[flagged].sum() / weights_s.sum() <= fpir:
                found = (mates >= threshold) & (mates > -np.inf)
                best = min(best, 1 - weights_m[found].sum() / weights_m.sum())
        assert point.fnir == pytest.approx(best, abs=1e-12)
        assert point.fpir <= fpir + 1e-12
        flagged = (strangers >= point.threshold) & (strangers > -np.inf)
        assert point.fpir == pytest.approx(weights_s[flagged].sum() / weights_s.sum(), abs=1e-12)


def test_impossible_budget_is_refused():
    with pytest.raises(ValueError, match=r"fpir is 1.5; it must lie in \[0, 1\]"):
        fnir_at_fpir([1.0], [0.0], 1.5)


# --- bootstrap --------------------------------------------------------------------------------------------------------


def _person_trials(seed, n_persons=12, n_tracks=6, spread=1.0):
    """All pairs of tracks; each person has a strength of their own, so that trials of a person hang together."""
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(n_persons), n_tracks)
    ease = rng.normal(0, spread, n_persons)
    enroll, test = np.nonzero(~np.eye(person.size, dtype=bool))
    is_target = person[enroll] == person[test]
    scores = rng.normal(0, 1, enroll.size) + is_target * (2 + ease[person[enroll]])
    return scores, is_target, person[enroll], person[test]


def test_same_seed_gives_the_same_interval_and_another_seed_another():
    trials = _person_trials(0)

    first = bootstrap_verification(*trials, n_resamples=50, seed=1)["eer"]
    again = bootstrap_verification(*trials, n_resamples=50, seed=1)["eer"]
    other = bootstrap_verification(*trials, n_resamples=50, seed=2)["eer"]

    assert first == again and first.replicates.tolist() == again.replicates.tolist()
    assert first.value == other.value
    assert (first.low, first.high) != (other.low, other.high)


def test_value_is_that_of_the_plain_trials_and_lies_in_its_interval():
    scores, is_target, enroll, test = _person_trials(0)

    figures = bootstrap_verification(scores, is_target, enroll, test, n_resamples=200)

    curve = roc(scores, is_target)
    assert list(figures) == ["eer", "auc", "min_dcf_0.01", "min_dcf_0.001"]
    assert figures["eer"].value == eer(curve)
    assert figures["auc"].value == auc(curve)
    assert figures["min_dcf_0.01"].value == min_dcf(curve, 0.01)
    for figure in figures.values():
        assert figure.low <= figure.value <= figure.high
        assert (figure.n_resamples, figure.n_unusable) == (200, 0)


def test_a_resample_equals_trials_copied_person_by_person():
    """Target trials count as often as their person was drawn, impostor trials one person times the other."""
    scores, is_target, enroll, test = _person_trials(4, n_persons=5, n_tracks=3)
    drawn = np.random.default_rng(9).multinomial(5, np.full(5, 0.2), 3)

    figures = bootstrap_verification(scores, is_target, enroll, test, n_resamples=3, seed=9, metrics={"auc": auc})

    for counts, replicate in zip(drawn, figures["auc"].replicates, strict=True):
        times = np.where(is_target, counts[enroll], counts[enroll] * counts[test])
        expected = auc(roc(np.repeat(scores, times), np.repeat(is_target, times)))
        assert replicate == pytest.approx(expected, abs=1e-12)


def test_interval_over_persons_is_wider_than_over_trials_when_persons_differ():
    scores, is_target, enroll, test = _person_trials(1, spread=1.5)
    rng = np.random.default_rng(0)
    over_trials = []
    for _ in range(100):
        drawn = rng.integers(0, scores.size, scores.size)
        over_trials.append(eer(roc(scores[drawn], is_target[drawn])))

    figure = bootstrap_verification(scores, is_target, enroll, test, n_resamples=100)["eer"]

    assert figure.high - figure.low > 2 * np.subtract(*np.quantile(over_trials, [0.975, 0.025]))


def test_more_persons_narrow_the_interval_and_more_tracks_of_each_hardly():
    def width(n_persons, n_tracks):
        figure = bootstrap_verification(*_person_trials(2, n_persons, n_tracks), n_resamples=200)["auc"]
        return figure.high - figure.low

    few = width(8, 5)

    assert width(64, 5) < 0.6 * few
    assert width(8, 15) > 0.6 * few


def test_interval_covers_the_truth_about_as_often_as_it_says():
    truth = auc(roc(*_person_trials(99, n_persons=150, n_tracks=4)[:2]))
    hits = 0
    for seed in range(60):
        figure = bootstrap_verification(*_person_trials(seed, 25, 4), n_resamples=100, metrics={"auc": auc})["auc"]
        hits += figure.low <= truth <= figure.high

    assert 48 <= hits <= 60  # 95 % of 60 is 57; a percentile interval of 25 persons runs a little narrow


def test_strangers_who_are_only_impostors_are_drawn_among_themselves():
    """With one enrolled person that person is in every resample: none is unusable, and only strangers vary."""
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(1, 1, 20), rng.normal(0, 1, 200)])
    is_target = np.arange(220) < 20
    test = np.concatenate([np.zeros(20, dtype=int), 1 + np.arange(200) % 40])

    figure = bootstrap_verification(scores, is_target, np.zeros(220, dtype=int), test, n_resamples=100)["eer"]

    assert figure.n_unusable == 0
    assert figure.low < figure.high


def test_resamples_without_targets_are_left_out_and_counted():
    # Only person 0 of the four has a target trial, and (3/4)^4 = 32 % of the resamples do not draw that person.
    scores, is_target = np.array([1.0, 0.5, 0.2, 0.1, 0.7]), np.array([True, False, False, False, False])
    enroll, test = np.array([0, 1, 2, 3, 1]), np.array([0, 0, 0, 0, 3])

    figure = bootstrap_verification(scores, is_target, enroll, test, n_resamples=200)["eer"]

    assert 40 < figure.n_unusable < 90
    assert figure.n_resamples + figure.n_unusable == 200
    assert np.isnan(figure.replicates).sum() == figure.n_unusable


def test_too_few_persons_for_an_interval_give_nan_and_not_zero_width():
    figure = bootstrap_mean([0.3], n_resamples=1)

    assert figure.value == pytest.approx(0.3)
    assert np.isnan(figure.low) and np.isnan(figure.high)


def test_names_of_persons_may_be_strings():
    scores, is_target, enroll, test = _person_trials(0)
    names = np.array([f"singer-{i:02d}" for i in range(12)])

    assert (
        bootstrap_verification(scores, is_target, names[enroll], names[test], n_resamples=20)["eer"]
        == bootstrap_verification(scores, is_target, enroll, test, n_resamples=20)["eer"]
    )


def test_target_trial_of_two_persons_is_refused():
    with pytest.raises(ValueError, match="trial 1 is a target, but its model is of ada and its track of bo"):
        bootstrap_verification([0.1, 0.2], [False, True], ["ada", "ada"], ["bo", "bo"])


def test_weights_reach_the_resamples():
    """Trials of weight 0 might as well not be there."""
    scores, is_target, enroll, test = _person_trials(3)
    counted = np.random.default_rng(3).random(scores.size) < 0.5

    weighted = bootstrap_verification(scores, is_target, enroll, test, weights=counted.astype(float), n_resamples=20)
    alone = bootstrap_verification(scores[counted], is_target[counted], enroll[counted], test[counted], n_resamples=20)

    assert weighted["auc"].value == pytest.approx(alone["auc"].value)
    np.testing.assert_allclose(weighted["auc"].replicates, alone["auc"].replicates)


def test_open_set_interval_holds_its_value_and_repeats():
    rng = np.random.default_rng(0)
    mates, strangers = rng.normal(3, 1, 200), rng.normal(0, 1, 500)
    mate_person, stranger_person = np.arange(200) % 20, 100 + np.arange(500) % 50

    figures = bootstrap_open_set(mates, mate_person, strangers, stranger_person, (0.01, 0.1))
    again = bootstrap_open_set(mates, mate_person, strangers, stranger_person, (0.01, 0.1))

    assert figures == again
    for fpir, figure in figures.items():
        assert figure.value == fnir_at_fpir(mates, strangers, fpir).fnir
        assert figure.low <= figure.value <= figure.high
    assert figures[0.01].value > figures[0.1].value


def test_open_set_resample_equals_tracks_copied_person_by_person():
    rng = np.random.default_rng(1)
    mates, strangers = rng.normal(1, 1, 12), rng.normal(0, 1, 20)
    mate_person, stranger_person = np.arange(12) % 4, np.arange(20) % 5  # person 4 is only ever a stranger
    expected_rng = np.random.default_rng(7)
    enrolled, others = expected_rng.multinomial(4, np.full(4, 0.25), 5), expected_rng.multinomial(1, [1.0], 5)
    drawn = np.concatenate([enrolled, others], axis=1)

    figure = bootstrap_open_set(mates, mate_person, strangers, stranger_person, (0.2,), n_resamples=5, seed=7)[0.2]

    for counts, replicate in zip(drawn, figure.replicates, strict=True):
        copied = np.repeat(mates, counts[mate_person]), np.repeat(strangers, counts[stranger_person])
        assert replicate == pytest.approx(fnir_at_fpir(*copied, 0.2).fnir, abs=1e-12)


# --- groups -----------------------------------------------------------------------------------------------------------


def test_by_group_measures_each_group_alone_and_shows_what_is_missing():
    scores = np.array([0.9, 0.1, 0.2, 0.8, 0.5])
    is_target = np.array([True, False, True, False, True])

    figures = by_group(scores, is_target, ["nus", "nus", "ravdess", "ravdess", "alone"], auc)

    assert figures["nus"] == 1 and figures["ravdess"] == 0
    assert np.isnan(figures["alone"])
    assert list(figures) == ["alone", "nus", "ravdess"]


def test_balanced_weights_let_every_target_count_alike():
    is_target = np.array([True, True, True, True, False, False, False])
    groups = np.array(["many", "many", "many", "few", "many", "few", "few"])

    weights = balanced_weights(is_target, groups)

    np.testing.assert_allclose(weights, [2 / 3, 2 / 3, 2 / 3, 2, 1.5, 0.75, 0.75])


def test_balanced_weights_make_copies_of_a_clip_harmless():
    scores = np.array([0.1, 0.9, 0.5, 0.4])
    is_target = np.array([True, True, False, False])
    groups = np.array([0, 1, 0, 1])
    copied = np.array([0, 0, 0, 0, 1, 2, 3])

    assert auc(roc(scores[copied], is_target[copied], balanced_weights(is_target[copied], groups[copied]))) == auc(
        roc(scores, is_target)
    )
    assert auc(roc(scores[copied], is_target[copied])) == pytest.approx(0.2)


def test_macro_estimate_is_the_mean_of_figures_and_of_their_resamples():
    a = bootstrap_verification(*_person_trials(0), n_resamples=50, seed=1)["eer"]
    b = bootstrap_verification(*_person_trials(1), n_resamples=50, seed=2)["eer"]

    mean = macro_estimate([a, b])

    assert mean.value == pytest.approx((a.value + b.value) / 2)
    np.testing.assert_allclose(mean.replicates, (a.replicates + b.replicates) / 2)
    assert mean.high - mean.low < max(a.high - a.low, b.high - b.low)


def test_macro_estimate_refuses_figures_with_other_numbers_of_resamples():
    with pytest.raises(ValueError, match=r"differ in resamples \[10, 20\]"):
        macro_estimate([bootstrap_mean([1.0, 2.0], n_resamples=10), bootstrap_mean([1.0, 2.0], n_resamples=20)])


def test_bootstrap_mean_interval_is_about_two_standard_errors():
    values = np.random.default_rng(0).normal(5, 1, 100)

    figure = bootstrap_mean(values, n_resamples=2000)

    assert figure.value == pytest.approx(values.mean())
    assert figure.high - figure.low == pytest.approx(2 * 1.96 * values.std() / 10, rel=0.1)


def test_curve_cannot_be_changed_by_accident():
    curve = roc([0.5, 0.1], [True, False])

    assert isinstance(curve, Roc)
    with pytest.raises(dataclasses.FrozenInstanceError, match="p_fa"):
        curve.p_fa = np.zeros(1)


def test_cllr_has_an_interval_over_persons():
    rng = np.random.default_rng(3)
    n = 30
    models, tracks = np.divmod(np.arange(n * n), n)
    llrs = rng.normal(-1, 1, n * n) + np.where(models == tracks, 2 + rng.normal(0, 1, n)[models], 0)
    llrs[::7] = -np.inf

    found = bootstrap_cllr(llrs, models == tracks, models, tracks)

    assert found.value == pytest.approx(cllr(llrs[models == tracks], llrs[models != tracks]))
    assert found.low < found.value < found.high
    # Against trials one by one: the same persons are drawn for other figures by the same seed.
    once = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), 300)[4]
    own = models == tracks
    expected = cllr(llrs[own], llrs[~own], once[models[own]], once[models[~own]] * once[tracks[~own]])
    assert found.replicates[4] == pytest.approx(expected)


def test_trials_of_cllr_count_as_much_as_they_weigh_before_persons_are_drawn():
    rng = np.random.default_rng(4)
    models, tracks = np.divmod(np.arange(100), 10)
    llrs, own, weights = rng.normal(0, 1, 100), models == tracks, rng.random(100)

    found = bootstrap_cllr(llrs, own, models, tracks, weights=weights)

    assert found.value == pytest.approx(cllr(llrs[own], llrs[~own], weights[own], weights[~own]))
    once = np.random.default_rng(0).multinomial(10, np.full(10, 0.1), 300)[4]
    drawn = once[models[own]] * weights[own], once[models[~own]] * once[tracks[~own]] * weights[~own]
    assert found.replicates[4] == pytest.approx(cllr(llrs[own], llrs[~own], *drawn))


def test_a_share_has_an_interval_over_persons():
    person = np.repeat(np.arange(20), 5)
    found = bootstrap_share(person < 5, person)

    assert (found.value, found.low < 0.25 < found.high) == (0.25, True)
    assert found.high - found.low > 0.2  # all of a person's tracks stand or fall together


def test_a_share_of_nobody_or_everybody_has_no_point_for_an_interval():
    person = np.arange(60)

    none, every = bootstrap_share(np.zeros(60), person), bootstrap_share(np.ones(60), person)

    assert (none.value, none.low) == (0, 0)
    assert none.high == pytest.approx(3 / 60, rel=0.05)  # rule of three
    assert (every.value, every.low, every.high) == pytest.approx((1, 1 - none.high, 1))
    with pytest.raises(ValueError, match="a share needs at least one track"):
        bootstrap_share([], [])
