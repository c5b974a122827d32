"""What `scripts/bench_budgets.py` computes, on populations whose rates are known."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from bench_budgets import (
    ALIKE,
    N_GALLERIES,
    TWIN,
    false_flags,
    group_of,
    heard_strangers,
    moved,
    plain_threshold,
    simulate,
    simulated_rows,
    single_comparisons,
)
from populations import Population

from registry import crowding, scoring
from registry.calibration import Calibration
from registry.crowding import Between, artist_crowding
from tests.fakes import DIM, crowded, fake_cohort, singer, unit
from tests.trial_fakes import calibration


def population(n_strangers: int, n_tracks: int, scores: np.ndarray) -> Population:
    """Strangers with the same number of tracks each, all heard in one way; no voice comes near another."""
    shape = n_strangers * n_tracks, scores.shape[1]
    n_voices = shape[1]
    return Population(
        voices=[f"voice-{i}" for i in range(n_voices)],
        sings=np.zeros(n_voices, bool),
        norm=scores,
        compared=np.ones(shape, bool),
        accompaniment=np.zeros(shape[0]),
        between=Between(np.where(np.eye(n_voices, dtype=bool), -np.inf, 0.0), np.zeros((20, n_voices))),
        abstains=np.zeros(shape[0], bool),
        person=np.repeat([f"stranger-{i:03d}" for i in range(n_strangers)], n_tracks),
        condition=np.full(shape[0], "sung alone 10 s"),
    )


def test_false_flags_are_counted_over_all_voices_of_a_gallery():
    scores = np.zeros((100, 4))
    scores[:10, 3] = 5.0  # both tracks of five strangers of fifty, with one voice

    rate = false_flags(calibration(), population(50, 2, scores), 5.0, 4)

    assert (rate.value, rate.n_strangers, rate.n_tracks) == (pytest.approx(0.1), 50, 100)
    assert 0.0 < rate.low < 0.1 < rate.high < 0.25
    # Two tracks of one stranger stand or fall together: over tracks the interval is narrower than is true.
    assert rate.binomial_high - rate.binomial_low < rate.high - rate.low


def test_false_flags_of_half_the_voices_are_half_as_many_where_voices_have_nothing_to_do_with_one_another():
    scores = np.zeros((1000, 4))
    for voice in range(4):
        scores[voice * 20 : voice * 20 + 20, voice] = 5.0
    heard = population(1000, 1, scores)

    assert false_flags(calibration(), heard, 5.0, 4).value == pytest.approx(0.08)
    assert false_flags(calibration(), heard, 5.0, 2).value == pytest.approx(0.04, abs=0.002)


def test_a_voice_that_others_of_the_gallery_come_near_is_flagged_at_a_higher_score():
    """All of the other three are near the first voice, in a gallery of two one of them is; near the others nobody."""
    scores = np.zeros((100, 4))
    scores[:10, 0], scores[10:20, 3] = 5.0, 5.0
    heard = population(100, 1, scores)
    others = heard.between.others.copy()
    others[1:, 0] = 9.0
    heard = replace(heard, between=replace(heard.between, others=others))
    near = Calibration.from_dict(crowded(calibration().content, artist=9.0))

    # The cohort of 20 stands in for the 27 or 29 others that are missing to 30.
    with_three = np.log10(5 / (2 + 0.01 * (3 + 20 * 27 / 30)))
    with_one = np.log10(3 / (2 + 0.01 * (1 + 20 * 29 / 30)))

    assert false_flags(near, heard, 5.0, 4).value == pytest.approx(0.1)
    assert false_flags(near, heard, 5.0 - with_three - 0.01, 4).value == pytest.approx(0.2)
    assert false_flags(near, heard, 5.0 - with_three + 0.01, 4).value == pytest.approx(0.1)
    assert false_flags(near, heard, 5.0 - with_one - 0.01, 2).value > false_flags(near, heard, 5.0, 2).value
    assert false_flags(near, heard, 5.0 - with_one + 0.01, 2).value == false_flags(near, heard, 5.0, 2).value
    assert false_flags(near, heard, 5.0, 1).value == pytest.approx(false_flags(calibration(), heard, 5.0, 1).value)


def test_plain_threshold_is_reached_by_the_budget_divided_by_the_artists():
    scores = np.arange(1000.0).reshape(100, 10)

    assert plain_threshold([scores], population(100, 1, scores), 0.1, 10) == 990.0  # 1 % of 1,000 comparisons: ten


def test_single_comparisons_are_of_artists_as_they_crowd_in_galleries_of_a_size():
    """Of a cohort of twenty all are near the first voice: alone it has more taken off than beside three others."""
    heard = population(10, 1, np.zeros((10, 4)))
    cohort = np.zeros((20, 4))
    cohort[:, 0] = 9.0
    heard = replace(heard, between=replace(heard.between, cohort=cohort))
    near = Calibration.from_dict(crowded(calibration().content, cohort=9.0))

    alone, together = (single_comparisons(near, heard, size) for size in (1, 4))

    assert [table.shape for table in alone] == [(10, 1)] * N_GALLERIES
    with_cohort, beside_three = (np.log10((2 + 20 * s) / (2 + 0.01 * (n + 20 * s))) for n, s in ((0, 1), (3, 0.9)))
    assert {float(llr) for table in alone for llr in table.ravel()} == {0.0, -round(float(with_cohort), 2)}
    (table,) = together
    assert table.min(axis=0).tolist() == table.max(axis=0).tolist()
    assert sorted(table[0].tolist()) == [-round(float(beside_three), 2), 0.0, 0.0, 0.0]


def test_simulated_artists_are_compared_with_as_many_voices_as_the_registry_takes(monkeypatch):
    """At most ten here, and with fewer artists with all of them; never with their own, and with the cohort."""
    compared, own = [], []

    def spy(between, near, without=None):
        compared.append(between.others.shape)
        own.append(np.argwhere(np.isneginf(between.others)).tolist())
        assert between.cohort.shape == (24, between.others.shape[1])
        return artist_crowding(between, near, without)

    monkeypatch.setattr(crowding, "MOST_VOICES", 10)
    monkeypatch.setattr(crowding, "artist_crowding", spy)
    cohort = scoring.prepare_cohort(fake_cohort().vectors, fake_cohort().person)
    means = unit(np.random.default_rng(3).standard_normal((8, DIM)))
    heard = heard_strangers([singer(axis, 3, seed=axis) for axis in range(4)], cohort)

    rows = simulated_rows(calibration(), cohort, means, ["x"] * 8, heard, [5, 12, 20])

    assert compared == [(5, 5)] + [(5, 5), (10, 10), (10, 2), (10, 8)] * 3  # the real ones are eight
    assert own == [[[i, i] for i in range(n) if n == m] for n, m in compared]
    assert [row.trials for row in rows if row.system == "gaussian"] == [f"simulated-{n}@1e-2" for n in (5, 12, 20)]


def test_moved_vectors_have_the_cosine_asked_for():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((5, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    away = moved(vectors, 0.7, rng)

    np.testing.assert_allclose((vectors * away).sum(axis=1), 0.7)
    np.testing.assert_allclose(np.linalg.norm(away, axis=1), 1.0)


@pytest.mark.parametrize("way", ["gaussian", "mixture", "resampled"])
def test_simulated_artists_are_unit_vectors_round_the_real_ones(way):
    rng = np.random.default_rng(1)
    means = np.eye(6)[[0, 0, 0, 1, 1, 1]] + 0.1 * rng.standard_normal((6, 6))
    means /= np.linalg.norm(means, axis=1, keepdims=True)

    voices = simulate(means, ["a"] * 3 + ["b"] * 3, way, 2000, rng)

    assert voices.shape == (2000, 6)
    np.testing.assert_allclose(np.linalg.norm(voices, axis=1), 1.0, rtol=1e-5)
    towards = voices.mean(axis=0) / np.linalg.norm(voices.mean(axis=0))
    assert towards @ (means.mean(axis=0) / np.linalg.norm(means.mean(axis=0))) > 0.95


def test_resampled_artists_have_near_twins():
    rng = np.random.default_rng(2)
    means = np.eye(40)

    voices = simulate(means, ["x"] * 40, "resampled", 4000, rng)
    nearest = np.sort((voices @ voices.T - 2 * np.eye(4000)).max(axis=1))

    assert np.sum(nearest > TWIN - 0.01) >= 2  # 0.3 % of 4,000, and those whom they are twins of
    assert np.median(nearest) < ALIKE + 0.05


@pytest.mark.parametrize(
    ("person", "group"),
    [
        ("gtsinger-ja-soprano-1", "gtsinger ja high"),
        ("gtsinger-ko-tenor-2", "gtsinger ko low"),
        ("ravdess-12", "ravdess 0"),
        ("mir1k-ariel", "mir1k"),
    ],
)
def test_groups_are_corpora_and_where_it_is_known_sexes(person, group):
    assert group_of(person) == group
