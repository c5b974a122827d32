"""The tail of strangers' best scores is found again where it is known, and its thresholds keep their budgets."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from registry.tail import (
    FITTED_SIZE,
    GALLERY_SIZES,
    N_GALLERIES,
    SAID_BEYOND,
    SHAPES,
    TAIL_SHARE,
    Tail,
    decades_beyond,
    fit_pareto,
    fit_tail,
    gallery_maxima,
    random_galleries,
    share_above,
    stranger_weights,
    threshold_for,
)

#: The upper end is a generalised Pareto distribution; a hundred voices count as one gallery, one voice as a fortieth.
TAIL = Tail(
    n_voices=100,
    levels=(-1.0, 0.0, 1.0, 2.0),
    shares=(0.98, 0.6, 0.3, 0.15),
    start=2.0,
    scale=0.5,
    shape=-0.2,
    shape_low=-0.3,
    shape_high=-0.1,
    sizes=(1, 10, 100, 300),
    galleries=(0.025, 0.3, 1.0, 2.5),
    n_strangers=200,
    n_exceedances=90,
)
INF = math.inf


def pareto(n: int, scale: float, shape: float, seed: int = 0) -> np.ndarray:
    """Excesses drawn by the inverse of the distribution."""
    share = np.random.default_rng(seed).random(n)
    return -scale * np.log(share) if shape == 0 else scale * (share**-shape - 1) / shape


def alone(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Strangers with one track each, in one condition."""
    return np.arange(n), np.zeros(n, int)


# --- the generalised Pareto distribution ---


@pytest.mark.parametrize("shape", [-0.4, -0.15, 0.0, 0.15, 0.4])
@pytest.mark.parametrize("scale", [0.3, 40.0])
def test_known_parameters_are_found_again(scale, shape):
    found_scale, found_shape = fit_pareto(pareto(10_000, scale, shape), np.ones(10_000))

    assert found_scale == pytest.approx(scale, rel=0.04)
    assert found_shape == pytest.approx(shape, abs=0.03)


@pytest.mark.parametrize(("shape", "edge"), [(1.2, SHAPES[1]), (-0.9, SHAPES[0])])
def test_a_shape_beyond_what_is_allowed_is_kept_at_the_edge(shape, edge):
    scale, found = fit_pareto(pareto(2000, 1.0, shape), np.ones(2000))

    assert found == pytest.approx(edge, abs=0.03) and SHAPES[0] <= found <= SHAPES[1]
    assert 0 < scale < INF


def test_the_fit_has_the_highest_likelihood_of_those_near_it():
    excesses = pareto(300, 1.0, -0.2, seed=3)

    def likelihood(scale: float, shape: float) -> float:
        return float(-len(excesses) * np.log(scale) - (1 + 1 / shape) * np.log1p(shape * excesses / scale).sum())

    scale, shape = fit_pareto(excesses, np.ones(300))

    for step in ((0.05, 0), (-0.05, 0), (0, 0.05), (0, -0.05)):
        assert likelihood(scale + step[0], shape + step[1]) < likelihood(scale, shape)


def test_a_weight_counts_as_so_many_exceedances():
    excesses = pareto(200, 1.0, 0.1, seed=1)
    n_times = np.random.default_rng(2).integers(0, 4, 200)

    weighted = fit_pareto(excesses, 0.01 * n_times)

    assert weighted == pytest.approx(fit_pareto(np.repeat(excesses, n_times), np.ones(n_times.sum())), rel=1e-9)
    assert weighted != pytest.approx(fit_pareto(excesses, np.ones(200)), rel=1e-2)


@pytest.mark.parametrize(("excesses", "weights"), [([], []), ([1.0], [1.0]), ([1.0, 2.0], [0.0, 0.0])])
def test_too_few_exceedances_are_refused(excesses, weights):
    with pytest.raises(ValueError, match=f"{len(excesses)} exceedances are too few to fit a tail to"):
        fit_pareto(np.array(excesses), np.array(weights))


# --- thresholds ---


@pytest.mark.parametrize("n_voices", [1, 4, 10, 55, 100, 220, 300, 1000, 1_000_000])
@pytest.mark.parametrize("shape", [-0.2, 0.0, 0.3])
def test_the_share_that_reaches_the_threshold_of_a_budget_is_the_budget(shape, n_voices):
    """In the counted part and in the fitted one; for fewer, as many, and more voices than were measured."""
    tail = replace(TAIL, shape=shape)
    budgets = [1 - (1 - share) ** galleries(n_voices) for share in (0.9, 0.5, 0.2, 0.16, 0.15, 0.14, 0.01, 1e-4, 1e-6)]
    budgets = [budget for budget in budgets if budget < 1]  # of a million voices the counted part is above everything

    thresholds = [threshold_for(tail, budget, n_voices) for budget in budgets]

    shares = [share_above(tail, threshold, n_voices) for threshold in thresholds]
    assert shares == pytest.approx(budgets, rel=1e-6)
    assert sum(threshold > tail.start + 1e-9 for threshold in thresholds) >= 2
    assert sum(threshold < tail.start - 1e-9 for threshold in thresholds) == (4 if n_voices <= 1000 else 0)


def galleries(n_voices: int) -> float:
    """How many galleries of a hundred voices `n_voices` count as in `TAIL`."""
    at = {1: 0.025, 10: 0.3, 100: 1.0, 300: 2.5, 1000: 2.5 / 0.3, 1_000_000: 2.5e6 / 300}
    straight = np.interp(math.log(n_voices), np.log(TAIL.sizes), np.log(TAIL.galleries))
    return at.get(n_voices, math.exp(straight))


def test_voices_count_as_they_were_measured_and_whole_beyond():
    """At the start of the fitted part a share of 0.15 of one gallery is above."""
    for n_voices in (1, 4, 10, 55, 100, 220, 300, 1000, 1_000_000):
        expected = 1 - 0.85 ** galleries(n_voices)
        assert share_above(TAIL, 2.0, n_voices) == pytest.approx(expected, rel=1e-9)


def test_levels_in_the_counted_part_have_the_share_that_was_counted():
    assert [share_above(TAIL, level, 100) for level in TAIL.levels] == pytest.approx(TAIL.shares, rel=1e-9)
    between = math.exp((math.log(0.6) + math.log(0.3)) / 2)
    assert share_above(TAIL, 0.5, 100) == pytest.approx(between, rel=1e-9)
    assert threshold_for(TAIL, between, 100) == pytest.approx(0.5, abs=1e-9)


def test_beyond_the_counted_part_the_fitted_distribution_counts():
    excess = 0.8
    assert share_above(TAIL, 2.8, 100) == pytest.approx(0.15 * (1 - 0.2 * excess / 0.5) ** 5, rel=1e-9)
    assert TAIL.end_point == 4.5
    assert share_above(TAIL, 4.5, 1_000_000) == share_above(TAIL, 9.0, 100) == 0.0
    assert threshold_for(TAIL, 1e-12, 1_000_000) < 4.5
    exponential = replace(TAIL, shape=0.0)
    assert share_above(exponential, 2.8, 100) == pytest.approx(0.15 * math.exp(-1.6), rel=1e-9)
    assert exponential.end_point == replace(TAIL, shape=0.1).end_point == INF


def test_where_more_may_be_flagged_than_was_counted_the_lowest_level_is_the_threshold():
    """It flags no more than the budget; how many less, nobody counted."""
    assert threshold_for(TAIL, 0.99, 100) == threshold_for(TAIL, 0.5, 1) == -1.0
    assert share_above(TAIL, -1.0, 1) < 0.5
    assert share_above(TAIL, -50.0, 100) == 0.98


def test_more_artists_or_a_smaller_budget_never_lower_the_threshold():
    n_voices, budgets = [1, 2, 5, 10, 50, 100, 200, 300, 301, 1000, 10**6], [0.5, 0.1, 0.03, 0.01, 1e-3, 1e-5]

    thresholds = np.array([[threshold_for(TAIL, budget, n) for budget in budgets] for n in n_voices])

    assert (np.diff(thresholds, axis=0) >= 0).all() and (np.diff(thresholds, axis=1) >= 0).all()
    assert (np.diff(thresholds[:, 2:], axis=0) > 0).all() and (np.diff(thresholds[:, 2:], axis=1) > 0).all()


def test_the_margin_takes_its_part_of_the_budget():
    careful = replace(TAIL, margin=1.6)

    for budget, n_voices in ((0.3, 10), (0.03, 100), (1e-4, 5000)):
        assert threshold_for(careful, budget, n_voices) == threshold_for(TAIL, budget / 1.6, n_voices)
        assert decades_beyond(careful, budget, n_voices) == decades_beyond(TAIL, budget / 1.6, n_voices)
        reached = share_above(careful, threshold_for(careful, budget, n_voices), n_voices)
        assert reached == pytest.approx(budget / 1.6, rel=1e-6)


def test_how_far_beyond_the_strangers_a_share_lies_is_counted_in_powers_of_ten():
    """One of 200 strangers is a share of 0.005 of galleries of a hundred."""
    assert decades_beyond(TAIL, 0.005, 100) == pytest.approx(0.0, abs=1e-9)
    assert decades_beyond(TAIL, 0.05, 100) == decades_beyond(TAIL, 0.4, 1) == 0.0
    assert decades_beyond(TAIL, 5e-4, 100) == pytest.approx(1.0, abs=1e-9)
    assert decades_beyond(TAIL, 5e-6, 100) == pytest.approx(3.0, abs=1e-9)
    # Ten times the voices are ten times the galleries, each with a tenth of the budget; of one voice it is the reverse.
    assert decades_beyond(TAIL, 5e-6, 3000) == pytest.approx(3.0 + math.log10(25), abs=1e-4)
    assert decades_beyond(TAIL, 5e-6, 1) == pytest.approx(3.0 + math.log10(0.025), abs=1e-4)


@pytest.mark.parametrize("function", [threshold_for, decades_beyond])
def test_a_budget_or_number_of_artists_that_is_none_is_refused(function):
    for budget in (0.0, 1.0, -0.1, 2.0, math.nan):
        with pytest.raises(ValueError, match="a false-flag budget is a share above 0 and below 1, not"):
            function(TAIL, budget, 10)
    for n_voices in (0, -1):
        with pytest.raises(ValueError, match=f"{n_voices} voices; at least 1 is needed"):
            function(TAIL, 0.1, n_voices)


# --- galleries ---


def test_the_best_score_of_each_track_is_over_the_voices_of_a_gallery():
    scores = np.random.default_rng(0).normal(0, 1, (7, 12))

    maxima = gallery_maxima(scores, 4, 5)

    assert maxima.shape == (5, 7)
    for found in maxima:
        voices = [set(np.flatnonzero(row == best)) for row, best in zip(scores, found, strict=True)]
        assert len(set.union(*voices)) <= 4  # one gallery for all tracks
    assert len({tuple(found) for found in maxima}) > 1
    np.testing.assert_array_equal(gallery_maxima(scores, 4, 5), maxima)
    assert not np.array_equal(gallery_maxima(scores, 4, 5, seed=1), maxima)


def test_of_all_voices_there_is_one_gallery_and_of_one_voice_the_score():
    scores = np.random.default_rng(0).normal(0, 1, (7, 12))

    np.testing.assert_array_equal(gallery_maxima(scores, 12, 30), scores.max(axis=1)[None])
    for found in gallery_maxima(scores, 1, 30):
        assert any(np.array_equal(found, column) for column in scores.T)


def test_what_is_not_compared_is_never_the_best():
    scores = np.zeros((3, 10))
    scores[0, :9], scores[1] = -INF, -INF

    one, none, all_of_them = gallery_maxima(scores, 5, 40).T

    assert set(one) == {-INF, 0.0} and set(none) == {-INF} and set(all_of_them) == {0.0}


@pytest.mark.parametrize(("size", "n_first", "n_later"), [(3, 3, 0), (4, 4, 0), (6, 4, 2), (9, 4, 5)])
def test_a_gallery_has_some_voices_before_it_has_any_other(size, n_first, n_later):
    """Each voice is best for a track of its own, so that a track's score says whether its voice is in the gallery."""
    first = np.arange(10) % 3 == 0  # 0, 3, 6, 9
    scores = np.where(np.eye(10, dtype=bool), 1.0, 0.0)

    chosen = gallery_maxima(scores, size, 200, first=first) == 1.0

    assert set(chosen[:, first].sum(axis=1)) == {n_first}
    assert set(chosen[:, ~first].sum(axis=1)) == {n_later}
    assert chosen.any(axis=0)[first].all()  # whoever is left out by chance is not always the same
    assert chosen.any(axis=0)[~first].all() == (n_later > 0)


@pytest.mark.parametrize("size", [0, 13])
def test_a_gallery_of_nobody_or_of_more_than_there_are_is_refused(size):
    with pytest.raises(ValueError, match=f"galleries of {size} out of 12 voices"):
        gallery_maxima(np.zeros((7, 12)), size, 5)


@pytest.mark.parametrize("size", [1, 4, 12])
def test_what_becomes_of_scores_together_is_asked_with_a_gallerys_columns_its_places_and_the_tracks_own(size):
    """Seven tracks, of which some are of voices that may be in the gallery: `own` says where in it."""
    scores = np.random.default_rng(0).normal(0, 1, (7, 12))
    own = np.array([-1, 0, 3, 11, 3, -1, 7])
    asked = []

    def record(columns: np.ndarray, voices: np.ndarray, place: np.ndarray) -> np.ndarray:
        asked.append((columns.copy(), voices.copy(), place.copy()))
        return columns - 10.0 * (np.arange(7) == len(asked))[:, None]

    maxima = gallery_maxima(scores, size, 5, together=record, own=own)

    galleries = random_galleries(12, size, 5)
    assert [voices.tolist() for _, voices, _ in asked] == galleries.tolist()
    for number, (columns, voices, place) in enumerate(asked, start=1):
        assert len(set(voices.tolist())) == size
        np.testing.assert_array_equal(columns, scores[:, voices])
        for track in range(7):
            assert place[track] == (voices.tolist().index(own[track]) if own[track] in voices else -1)
        np.testing.assert_array_equal(
            maxima[number - 1], scores[:, voices].max(axis=1) - 10.0 * (np.arange(7) == number)
        )
    assert len(asked) == len(maxima) == (1 if size == 12 else 5)


def test_together_nobody_is_anybodys_own_unless_it_is_said():
    asked = []

    gallery_maxima(np.zeros((3, 4)), 2, 6, together=lambda columns, _, own: (asked.append(own.tolist()), columns)[1])

    assert asked == [[-1, -1, -1]] * 6


def test_together_the_voices_of_a_gallery_are_those_that_it_has_alone():
    scores = np.random.default_rng(1).normal(0, 1, (5, 9))
    first = np.arange(9) < 2

    together = gallery_maxima(scores, 4, 8, first=first, together=lambda columns, *_: columns, seed=3)

    np.testing.assert_array_equal(together, gallery_maxima(scores, 4, 8, first=first, seed=3))


# --- what counts how much ---


def test_conditions_weigh_the_same_in_each_strangers_and_of_each_the_tracks():
    stranger = np.array([7, 7, 7, 3, 3, 5])
    condition = np.array([1, 1, 2, 1, 2, 2])

    weights = stranger_weights(stranger, condition)

    assert weights == pytest.approx([1 / 8, 1 / 8, 1 / 6, 1 / 4, 1 / 6, 1 / 6])


# --- fitting ---


@lru_cache(maxsize=4)
def independent(seed: int) -> Tail:
    """Fitted on 800 strangers and 300 voices who have nothing in common: all scores are standard normal."""
    scores = np.random.default_rng(seed).normal(0, 1, (800, 300))
    return fit_tail(scores, *alone(800))


def share_of_independent(threshold: float, n_voices: int) -> float:
    """Share of standard normal tracks whose best of so many voices reaches a threshold, exactly."""
    below = 0.5 * (1 + math.erf(threshold / math.sqrt(2)))
    return 1 - below**n_voices


@pytest.mark.parametrize("n_voices", [3, 30, 100, 300])
@pytest.mark.parametrize("budget", [0.1, 0.03, 0.01])
def test_with_other_voices_and_other_strangers_the_threshold_keeps_the_budget(budget, n_voices):
    """Which 800 strangers it was fitted on is what the margin is for."""
    tails = [independent(seed) for seed in range(4)]

    shares = [share_of_independent(threshold_for(tail, budget, n_voices), n_voices) for tail in tails]
    without_margin = [
        share_of_independent(threshold_for(replace(tail, margin=1.0), budget, n_voices), n_voices) for tail in tails
    ]

    assert max(shares) <= 1.05 * budget
    assert budget / 2.5 < min(shares)
    assert 0.75 * budget < np.mean(without_margin) < 1.25 * budget


@pytest.mark.parametrize("budget", [0.1, 0.03, 0.01])
def test_of_ten_times_the_voices_that_were_measured_it_is_within_a_factor_of_two(budget):
    """Up to half a power of ten beyond one of the 800 strangers, where nothing is said of it yet."""
    tails = [independent(seed) for seed in range(4)]

    shares = [share_of_independent(threshold_for(tail, budget, 3000), 3000) for tail in tails]

    assert max(decades_beyond(tail, budget, 3000) for tail in tails) < SAID_BEYOND
    assert budget / 3 < min(shares) and max(shares) < 2 * budget
    assert np.mean(shares) < 1.25 * budget


def test_voices_and_strangers_that_have_nothing_in_common_count_whole():
    tail = independent(0)

    assert (tail.sizes, tail.n_voices) == (GALLERY_SIZES, FITTED_SIZE) == ((1, 3, 10, 30, 100, 300), 100)
    assert tail.galleries == pytest.approx([size / 100 for size in tail.sizes], rel=0.25)
    assert tail.galleries[4] == 1.0


def test_voices_that_are_alike_count_as_fewer():
    """Three hundred voices that are thirty, each ten times over: the best of 300 is the best of 30."""
    scores = np.repeat(np.random.default_rng(1).normal(0, 1, (600, 30)), 10, axis=1)

    tail = fit_tail(scores, *alone(600))

    few, fitted, all_of_them = tail.galleries[3], tail.galleries[4], tail.galleries[5]
    assert (few < 0.8, fitted) == (True, 1.0)  # thirty of them are about twenty, a hundred nearly all thirty
    assert all_of_them == pytest.approx(1.03, abs=0.05)


def test_strangers_who_are_like_everybody_make_the_tail_grow_more_slowly():
    """Where a stranger scores high with all or with none, more voices find few strangers more."""
    rng = np.random.default_rng(2)
    scores = rng.normal(0, 0.5, (600, 300)) + rng.normal(0, 1, (600, 1))

    tail = fit_tail(scores, *alone(600))

    assert tail.galleries[5] < 2.0 < independent(0).galleries[5]
    assert tail.galleries[0] > 0.04 > independent(0).galleries[0]


def test_levels_and_shares_are_counted_over_the_galleries():
    """Also where scores are in hundredths, as llrs are, and many are equal."""
    for n_decimals in (8, 2, 1):
        scores = np.round(np.random.default_rng(3).normal(0, 1, (300, 150)), n_decimals)

        tail = fit_tail(scores, *alone(300))

        maxima = gallery_maxima(scores, 100, N_GALLERIES)
        levels = np.array(tail.levels)
        assert tail.shares == pytest.approx([(maxima >= level - 1e-5).mean() for level in levels], abs=2e-4)
        assert (np.diff(levels) > 0).all() and (np.diff(tail.shares) < 0).all()
        assert tail.start == tail.levels[-1]
        assert tail.shares[-1] + 1e-6 >= TAIL_SHARE and (maxima > tail.start + 1e-5).mean() <= TAIL_SHARE
        assert tail.shares[0] > 0.9


@pytest.mark.parametrize(
    ("n_voices", "sizes", "fitted_size"),
    [
        (1, (1,), 1),
        (10, (1, 3, 10), 10),
        (12, (1, 3, 10, 12), 12),
        (100, (1, 3, 10, 30, 100), 100),
        (120, (1, 3, 10, 30, 100, 120), 100),
    ],
)
def test_galleries_are_as_large_as_there_are_voices_for(n_voices, sizes, fitted_size):
    """The largest is of all of them; the tail is fitted to the largest of up to a hundred."""
    tail = fit_tail(np.random.default_rng(4).normal(0, 1, (200, n_voices)), *alone(200))

    assert (tail.sizes, tail.n_voices, len(tail.galleries)) == (sizes, fitted_size, len(sizes))
    assert tail.galleries[sizes.index(fitted_size)] == 1.0 <= tail.galleries[-1]
    for budget in (0.1, 1e-3):
        threshold = threshold_for(tail, budget, 10 * fitted_size)
        assert share_above(tail, threshold, 10 * fitted_size) == pytest.approx(budget / tail.margin, rel=1e-6)


def test_the_voices_that_galleries_have_first_make_the_tail():
    """Strangers who sing are likest to singers: with the ten of them first, a gallery of ten is the worst one."""
    scores = np.random.default_rng(5).normal(0, 1, (300, 100))
    scores[:, :10] += 2.0
    singers = np.arange(100) < 10

    any_order, first = fit_tail(scores, *alone(300)), fit_tail(scores, *alone(300), first=singers)

    assert first.galleries[2] > 0.9  # all that more voices add is of the others
    assert any_order.galleries[2] < 0.3
    assert threshold_for(first, 0.03, 10) > threshold_for(any_order, 0.03, 10) + 0.5
    assert threshold_for(first, 0.03, 100) == pytest.approx(threshold_for(any_order, 0.03, 100), abs=0.02)


def test_a_track_that_was_heard_again_counts_no_more():
    """Three tracks of everybody that score the same are one, and many tracks of one stranger are that stranger."""
    scores = np.random.default_rng(6).normal(0, 1, (211, 40))
    once = fit_tail(scores, *alone(211))
    rows = np.repeat(np.arange(211), 3)
    thrice = fit_tail(scores[rows], rows, np.zeros(633, int))
    of_one = np.concatenate([np.arange(211), np.full(50, 17)])
    again = fit_tail(scores[of_one], of_one, np.zeros(261, int))

    for tail in (thrice, again):
        assert (tail.n_strangers, tail.n_exceedances) == (211, once.n_exceedances)
        assert (tail.scale, tail.shape) == pytest.approx((once.scale, once.shape), rel=1e-6)
        assert tail.levels == pytest.approx(once.levels, abs=1e-4)
        assert tail.shares == pytest.approx(once.shares, abs=1e-4)
        assert tail.galleries == pytest.approx(once.galleries, rel=1e-3)


def test_strangers_and_what_exceeds_are_counted_by_person_and_condition():
    """Ten strangers in two conditions: the fitted part begins at the third of twenty tracks, and two exceed it."""
    scores = np.random.default_rng(7).normal(0, 0.1, (20, 5))
    stranger, condition = np.tile(np.arange(10), 2), np.repeat([0, 1], 10)
    for row, height in ((0, 9.0), (10, 8.0), (1, 5.0), (2, 4.0)):
        scores[row] += height  # the two highest are of one stranger

    tail = fit_tail(scores, stranger, condition)

    assert (tail.n_strangers, tail.n_exceedances) == (10, 2)
    assert tail.start == pytest.approx(scores[1].max(), abs=1e-4)


def test_tracks_that_abstained_are_never_flagged_and_count_all_the_same():
    scores = np.random.default_rng(8).normal(0, 1, (400, 30))
    scores[:100] = -INF

    tail = fit_tail(scores, *alone(400))
    judged = fit_tail(scores[100:], *alone(300))

    assert tail.shares[0] == pytest.approx(0.98 * 0.75, abs=0.005)
    assert tail.n_strangers == 400
    for budget in (0.1, 0.01):
        of_judged = threshold_for(replace(judged, margin=1.0), budget / 0.75, 30)
        assert threshold_for(replace(tail, margin=1.0), budget, 30) == pytest.approx(of_judged, abs=0.06)


def test_the_interval_of_the_shape_and_the_margin_narrow_with_more_strangers():
    scores = np.random.default_rng(9).normal(0, 1, (1600, 30))

    few, many = fit_tail(scores[:100], *alone(100)), fit_tail(scores, *alone(1600))

    for tail in (few, many):
        assert tail.shape_low <= tail.shape <= tail.shape_high
    assert many.shape_high - many.shape_low < 0.5 * (few.shape_high - few.shape_low)
    assert 1.0 < many.margin < few.margin
    # At one in a hundred, of 1600 tracks 16 are counted over the galleries: one and a quarter deviations of that more.
    assert many.margin == pytest.approx(1 + 1.28 / 4, abs=0.15)


def test_strangers_of_few_sources_may_be_drawn_otherwise_and_have_a_larger_margin():
    """All who score high are from one of ten sources, which may as well have been drawn twice."""
    scores = np.random.default_rng(11).normal(0, 1, (300, 30))
    scores[:20] += 4.0
    of_ten = np.arange(300) // 30

    alike, by_source = fit_tail(scores, *alone(300)), fit_tail(scores, *alone(300), source=of_ten)

    # At one in a hundred three high ones count: of three as many as five are drawn, and the one source twice.
    assert (alike.margin, by_source.margin) == (pytest.approx(5 / 3), pytest.approx(2.0))
    assert replace(by_source, margin=alike.margin) == alike
    assert fit_tail(scores, *alone(300), source=np.arange(300)).margin >= alike.margin
    # Drawn from everywhere alike, sources tell nothing that strangers do not: never a smaller margin.
    scattered = fit_tail(scores, *alone(300), source=np.arange(300) % 150)
    assert scattered.margin >= alike.margin


def test_the_tail_is_of_scores_with_the_voices_of_each_gallery_enrolled_together():
    scores = np.random.default_rng(12).normal(0, 1, (200, 40))
    own = np.arange(200) % 50  # ten of fifty strangers' voices are not among the forty
    own[own >= 40] = -1
    sizes = set()

    def lower(columns: np.ndarray, voices: np.ndarray, place: np.ndarray) -> np.ndarray:
        sizes.add(len(voices))
        for track, at in enumerate(place):
            assert at == -1 or voices[at] == own[track]
        assert (np.isin(own, voices) == (place >= 0)).all()
        return columns - 2.0

    plain, together = fit_tail(scores, *alone(200)), fit_tail(scores, *alone(200), together=lower, own=own)

    assert sizes == set(plain.sizes) == {1, 3, 10, 30, 40}
    assert together.levels == pytest.approx([level - 2 for level in plain.levels], abs=2e-5)
    assert together.shares == plain.shares
    assert (together.scale, together.shape) == pytest.approx((plain.scale, plain.shape), rel=1e-6)
    assert together.margin == plain.margin


def test_what_has_no_tail_is_refused():
    scores = np.random.default_rng(10).normal(0, 1, (100, 10))
    abstaining = scores.copy()
    abstaining[:86] = -INF

    with pytest.raises(ValueError, match="too few strangers' tracks were judged to count how high they score"):
        fit_tail(abstaining, *alone(100))
    with pytest.raises(ValueError, match="too few strangers' tracks were judged to count how high they score"):
        fit_tail(np.full((100, 10), -INF), *alone(100))
    with pytest.raises(ValueError, match="strangers' scores are nearly all the same: there is no tail to fit"):
        fit_tail(np.ones((100, 10)), *alone(100))
    almost = np.zeros((100, 10))
    almost[:50] = 1.0
    with pytest.raises(ValueError, match="strangers' scores are nearly all the same: there is no tail to fit"):
        fit_tail(almost, *alone(100))


# --- as JSON ---


def test_a_tail_comes_back_from_json():
    for tail in (TAIL, independent(0)):
        assert Tail.from_dict(json.loads(json.dumps(tail.as_dict()))) == tail


def test_a_tail_without_a_margin_has_none():
    values = TAIL.as_dict()
    del values["margin"]

    assert Tail.from_dict(values) == TAIL
    assert TAIL.margin == 1.0


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"scale": 0.0}, "scale not above 0"),
        ({"scale": -1.0}, "scale not above 0"),
        ({"shape": math.nan}, "a number of the tail is not finite"),
        ({"start": INF}, "a number of the tail is not finite"),
        ({"start": "2"}, "a number of the tail is not finite"),
        ({"levels": [-1.0, 0.0, None, 2.0]}, "a number of the tail is not finite"),
        ({"margin": math.nan}, "a number of the tail is not finite"),
        ({"margin": 0.9}, "the margin of the tail is 0.9, it must be at least 1"),
        ({"levels": [0.0, 1.0, 2.0]}, "levels and shares of the tail do not fit together"),
        ({"levels": [2.0], "shares": [0.15]}, "levels and shares of the tail do not fit together"),
        ({"shares": [0.98, 0.6, 0.3, 0.0]}, "levels and shares of the tail do not fit together"),
        ({"sizes": [1, 10, 100]}, "sizes and galleries of the tail do not fit together"),
        ({"sizes": [], "galleries": []}, "sizes and galleries of the tail do not fit together"),
        ({"galleries": [0.0, 0.3, 1.0, 2.5]}, "sizes and galleries of the tail do not fit together"),
    ],
)
def test_a_tail_that_is_broken_is_refused(change, match):
    with pytest.raises(ValueError, match=match):
        Tail.from_dict({**TAIL.as_dict(), **change})


def test_what_is_no_tail_is_refused():
    lacking: dict[str, Any] = TAIL.as_dict()
    del lacking["scale"]

    with pytest.raises(TypeError, match="scale"):
        Tail.from_dict(lacking)
    with pytest.raises(KeyError, match="levels"):
        Tail.from_dict({"start": 1.0})
    with pytest.raises(TypeError, match="colour"):
        Tail.from_dict({**TAIL.as_dict(), "colour": 1})
    with pytest.raises(TypeError, match="not iterable"):
        Tail.from_dict({**TAIL.as_dict(), "levels": 3.0})
