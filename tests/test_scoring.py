from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from registry import scoring
from registry.scoring import (
    COHORT_TOP,
    SECTION_WINDOWS,
    CohortModel,
    fit_llr,
    group_starts,
    llr_of,
    normalise,
    pool_scores,
    prepare_cohort,
)
from tests.fakes import DIM, fake_cohort, singer, unit

ONE = np.array([0])


def plain_pool(windows: np.ndarray, templates: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """What `pool_scores` says it does, one section and one group at a time."""
    n_sections = -(-len(windows) // SECTION_WINDOWS)
    edges = [int(i * len(windows) / n_sections) for i in range(n_sections + 1)]
    scores = []
    for first, last in zip(starts, [*starts[1:], len(templates)], strict=True):
        by_section = []
        for start, end in pairwise(edges):
            section = windows[start:end].sum(axis=0)
            section = section / np.linalg.norm(section)
            by_section.append(max(float(section @ template) for template in templates[first:last]))
        best = sorted(by_section, reverse=True)[: -(-n_sections // 2)]
        scores.append(sum(best) / len(best))
    return np.array(scores)


def random_groups(sizes: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    templates = unit(np.random.default_rng(seed).standard_normal((sum(sizes), DIM)))
    return templates, np.cumsum([0, *sizes[:-1]])


# --- groups ---


def test_groups_begin_where_the_value_changes():
    starts, values = group_starts(np.array([3, 3, 7, 9, 9, 9]))

    assert (starts.tolist(), values.tolist()) == ([0, 2, 3], [3, 7, 9])


# --- pooling ---


def test_a_short_track_scores_with_the_nearest_template_to_its_mean():
    windows = unit(np.array([[1.0, 0, 0], [0, 1.0, 0]]))
    templates = unit(np.array([[0, 0, 1.0], [1.0, 1.0, 0], [1.0, 0, 0]]))

    scores = pool_scores(windows, templates, np.array([0, 2]))

    assert scores == pytest.approx([1.0, 0.7071], abs=1e-4)  # the mean lies at 45 degrees


@pytest.mark.parametrize("n_windows", [1, 29, 30, 31, 60, 61, 89, 200])
def test_pooling_equals_the_plain_way(n_windows):
    windows = unit(np.random.default_rng(1).standard_normal((n_windows, DIM)) + 1)
    templates, starts = random_groups([1, 8, 3, 2])

    scores = pool_scores(windows, templates, starts)

    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, plain_pool(windows, templates, starts), atol=1e-6)


def test_a_voice_in_half_of_a_long_track_is_found():
    """The halves between which a mean over all of it would lie."""
    voice, other = singer(0, 2 * SECTION_WINDOWS), singer(1, 2 * SECTION_WINDOWS)
    templates = unit(np.eye(DIM)[:1])

    for track in (np.concatenate([voice, other]), np.concatenate([other, voice])):
        assert pool_scores(track, templates, ONE)[0] == pytest.approx(1.0, abs=0.01)
    in_a_quarter = np.concatenate([singer(0, SECTION_WINDOWS), singer(1, 3 * SECTION_WINDOWS)])
    assert pool_scores(in_a_quarter, templates, ONE)[0] == pytest.approx(0.5, abs=0.05)


def test_a_track_said_twice_scores_the_same():
    windows = singer(0, 2 * SECTION_WINDOWS, spread=1.0)
    templates, starts = random_groups([4, 4])

    np.testing.assert_allclose(
        pool_scores(np.concatenate([windows, windows]), templates, starts),
        pool_scores(windows, templates, starts),
        atol=1e-6,
    )


def test_the_order_of_groups_and_of_templates_in_them_changes_nothing():
    windows = singer(0, 50, spread=1.0)
    templates, _ = random_groups([3, 2])

    one_way = pool_scores(windows, templates, np.array([0, 3]))
    other_way = pool_scores(windows, templates[[4, 3, 2, 0, 1]], np.array([0, 2]))

    np.testing.assert_allclose(other_way, one_way[::-1], atol=1e-6)


def test_the_same_template_twice_changes_nothing():
    windows, (templates, starts) = singer(0, 50, spread=1.0), random_groups([3])

    np.testing.assert_allclose(
        pool_scores(windows, np.concatenate([templates, templates]), starts), pool_scores(windows, templates, starts)
    )


@pytest.mark.parametrize("rest", [0.0, 5e-7])
def test_windows_that_cancel_out_score_nothing_with_anybody(rest):
    """Nor does what rounding leaves of them."""
    windows = np.concatenate([np.eye(DIM)[:1], -np.eye(DIM)[:1]]).astype(np.float32)
    windows[1, 1] = rest
    templates, starts = random_groups([2, 2])

    assert pool_scores(windows, templates, starts).tolist() == [0.0, 0.0]


def test_without_groups_there_are_no_scores_and_without_windows_there_is_no_question():
    templates, starts = random_groups([2])

    assert pool_scores(singer(0), np.empty((0, DIM), np.float32), np.empty(0, int)).shape == (0,)
    with pytest.raises(ValueError, match="a track without windows has no score"):
        pool_scores(np.empty((0, DIM), np.float32), templates, starts)


# --- the cohort and normalising ---


def test_a_cohort_is_grouped_whatever_its_order():
    cohort = fake_cohort()
    order = np.random.default_rng(0).permutation(len(cohort.person))

    sorted_one = prepare_cohort(cohort.vectors, cohort.person)
    shuffled = prepare_cohort(cohort.vectors[order], cohort.person[order])

    assert shuffled.starts.tolist() == sorted_one.starts.tolist() == list(range(0, 48, 2))
    assert shuffled.spread == pytest.approx(sorted_one.spread, rel=1e-5)


def test_the_spread_is_that_of_persons_against_one_another():
    cohort = prepare_cohort(unit(np.array([[1.0, 0, 0], [0.6, 0.8, 0], [0, 0, 1.0]])), np.array([4, 5, 6]))

    # Cosines of each with each other: 0.6, 0, 0 and the same again.
    assert cohort.spread == pytest.approx(np.std([0.6, 0, 0.6, 0, 0, 0]))


@pytest.mark.parametrize("n_persons", [0, 1, 2])
def test_a_cohort_of_too_few_is_refused(n_persons):
    with pytest.raises(ValueError, match=f"at least 3 persons, this one has {n_persons}"):
        prepare_cohort(singer(0, n_persons), np.arange(n_persons))


def test_a_score_is_centred_on_what_strangers_score_and_divided_by_their_spread():
    cohort = CohortModel(vectors=unit(np.eye(3)[:2]), starts=np.array([0, 1]), spread=0.5)
    track = unit(np.array([[0.6, 0, 0.8]]))  # with the two strangers: 0.6 and 0
    artist = unit(np.array([[0, 0.8, 0.6]]))  # with the two strangers: 0 and 0.8
    score = pool_scores(track, artist, ONE)
    assert score == pytest.approx([0.48])

    norm_score = normalise(score, track, artist, ONE, cohort)

    assert norm_score == pytest.approx([(0.48 - (0.3 + 0.4) / 2) / 0.5])


def test_only_the_nearest_strangers_count(monkeypatch):
    monkeypatch.setattr(scoring, "COHORT_TOP", 1)
    cohort = CohortModel(vectors=unit(np.eye(3)[:2]), starts=np.array([0, 1]), spread=0.5)
    track, artist = unit(np.array([[0.6, 0, 0.8]])), unit(np.array([[0, 0.8, 0.6]]))

    norm_score = normalise(pool_scores(track, artist, ONE), track, artist, ONE, cohort)

    assert norm_score == pytest.approx([(0.48 - (0.6 + 0.8) / 2) / 0.5])


def test_a_stranger_that_is_the_artist_is_left_out_for_that_artist(monkeypatch):
    """Otherwise an artist who sings in the cohort could never be found."""
    monkeypatch.setattr(scoring, "COHORT_TOP", 5)
    rng = np.random.default_rng(0)
    strangers = unit(np.concatenate([np.zeros((40, 1)), rng.standard_normal((40, DIM - 1))], axis=1))
    twin = unit(np.eye(DIM)[:1])
    track, artist = singer(0, 4), unit(np.eye(DIM)[:1])
    score = pool_scores(track, artist, ONE)

    with_twin = prepare_cohort(np.concatenate([strangers, twin]), np.arange(41))
    without = prepare_cohort(strangers, np.arange(40))

    norm_score = normalise(score, track, artist, ONE, with_twin)
    assert norm_score == pytest.approx(normalise(score, track, artist, ONE, without), rel=0.1)


def test_normalising_treats_every_artist_alone():
    """Who else is enrolled changes nobody's score."""
    cohort_of_strangers = fake_cohort()
    cohort = prepare_cohort(cohort_of_strangers.vectors, cohort_of_strangers.person)
    windows, (templates, starts) = singer(0, 50, spread=0.5), random_groups([3, 8, 1])

    together = normalise(pool_scores(windows, templates, starts), windows, templates, starts, cohort)

    assert together.dtype == np.float32
    for k, group in enumerate(np.split(templates, starts[1:])):
        alone = normalise(pool_scores(windows, group, ONE), windows, group, ONE, cohort)
        assert together[k] == pytest.approx(alone[0], abs=1e-5)


def test_the_order_of_the_cohort_changes_nothing():
    persons = fake_cohort(n_persons=COHORT_TOP + 30)
    order = np.random.default_rng(0).permutation(len(persons.person))
    windows, (templates, starts) = singer(0, 50, spread=0.5), random_groups([3, 8])
    scores = pool_scores(windows, templates, starts)

    one_way, other_way = (
        normalise(scores, windows, templates, starts, prepare_cohort(vectors, person))
        for vectors, person in (
            (persons.vectors, persons.person),
            (persons.vectors[order], persons.person[order]),
        )
    )

    np.testing.assert_allclose(one_way, other_way, atol=1e-4)


def test_nobody_to_normalise_gives_nothing():
    persons = fake_cohort()
    cohort = prepare_cohort(persons.vectors, persons.person)
    nothing = np.empty(0, np.float32)

    assert normalise(nothing, singer(0), np.empty((0, DIM), np.float32), np.empty(0, int), cohort).shape == (0,)


# --- likelihood ratios ---


def test_an_llr_is_a_straight_line():
    llrs = llr_of(np.array([0.0, 2.0, 4.4]), {"llr": {"slope": 0.5, "intercept": -1.0}})

    assert llrs == pytest.approx([-1.0, 0.0, 1.2])


@pytest.mark.parametrize("n_target", [20_000, 400])
def test_the_fit_finds_the_likelihood_ratio_of_known_distributions(n_target):
    """Targets N(3, 1), nontargets N(0, 1): ln LR = 3 s - 4.5, however many there are of each."""
    rng = np.random.default_rng(0)
    nontarget = rng.normal(0, 1, 20_000)
    # Quantiles rather than draws, so that few targets are as good as many.
    target = 3 + np.sort(rng.normal(0, 1, 1_000_000))[500_000 // n_target :: 1_000_000 // n_target]

    slope, intercept = fit_llr(target, nontarget)

    assert slope == pytest.approx(3 / np.log(10), rel=0.05)
    assert intercept == pytest.approx(-4.5 / np.log(10), rel=0.05)


def test_the_fit_is_the_optimum():
    """Any step away from it costs more."""
    rng = np.random.default_rng(1)
    target, nontarget = rng.normal(1, 1, 300), rng.normal(-1, 2, 700)

    def cost(slope: float, intercept: float) -> float:
        miss = np.log1p(np.exp(-np.log(10) * (slope * target + intercept))).mean()
        false_alarm = np.log1p(np.exp(np.log(10) * (slope * nontarget + intercept))).mean()
        return float(miss + false_alarm)

    slope, intercept = fit_llr(target, nontarget)

    for step in ((0.02, 0), (-0.02, 0), (0, 0.02), (0, -0.02)):
        assert cost(slope + step[0], intercept + step[1]) > cost(slope, intercept)


@pytest.mark.parametrize("scale", [1.0, 100.0, 0.01])
def test_scores_that_are_told_apart_without_a_mistake_still_fit(scale):
    """No slope is best there; a finite one in the right direction is what is needed, without a warning."""
    slope, intercept = fit_llr(scale * np.linspace(5, 9, 50), scale * np.linspace(-3, 1, 80))

    assert np.isfinite([slope, intercept]).all()
    llrs = slope * scale * np.array([1.0, 5.0]) + intercept
    assert llrs[0] < -1 < 1 < llrs[1]
