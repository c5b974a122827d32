from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from registry import scoring
from registry.scoring import (
    COHORT_TOP,
    SECTION_S,
    STRETCH_WINDOWS,
    CohortModel,
    accompaniment,
    artist_centres,
    group_starts,
    n_sections,
    normalise,
    pool_scores,
    prepare_cohort,
    section_edges,
    section_times,
    stretch_edges,
    stretch_scores,
    stretch_vectors,
    track_centre,
)
from tests.fakes import DIM, fake_cohort, singer, unit

ONE = np.array([0])
NO_MUSIC = np.zeros(3, np.float32)


def plain_pool(windows: np.ndarray, templates: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """What `pool_scores` says it does, one stretch and one group at a time."""
    n_stretches = -(-len(windows) // STRETCH_WINDOWS)
    edges = [int(i * len(windows) / n_stretches) for i in range(n_stretches + 1)]
    scores = []
    for first, last in zip(starts, [*starts[1:], len(templates)], strict=True):
        by_stretch = []
        for start, end in pairwise(edges):
            stretch = windows[start:end].sum(axis=0)
            stretch = stretch / np.linalg.norm(stretch)
            by_stretch.append(max(float(stretch @ template) for template in templates[first:last]))
        scores.append(max(by_stretch))
    return np.array(scores)


def random_groups(sizes: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    templates = unit(np.random.default_rng(seed).standard_normal((sum(sizes), DIM)))
    return templates, np.cumsum([0, *sizes[:-1]])


# --- groups ---


def test_groups_begin_where_the_value_changes():
    starts, values = group_starts(np.array([3, 3, 7, 9, 9, 9]))

    assert (starts.tolist(), values.tolist()) == ([0, 2, 3], [3, 7, 9])


# --- sections ---


@pytest.mark.parametrize(
    ("duration_s", "n"),
    [(0.0, 1), (3.0, 1), (SECTION_S, 1), (SECTION_S + 0.0004, 1), (SECTION_S + 0.001, 2), (720.0, 3), (36_000.0, 120)],
)
def test_a_track_has_as_many_sections_of_at_most_five_minutes_as_it_needs(duration_s, n):
    """To the millisecond, in which lengths are kept: a scan on record has as many as its track had."""
    assert SECTION_S == 300.0
    assert n_sections(duration_s) == n


def test_sections_are_of_one_length_and_take_the_windows_that_begin_in_them():
    start_s = np.array([0.0, 100.0, 239.9, 240.0, 400.0, 600.0, 716.0])

    edges = section_edges(start_s, 720.0)

    assert edges.tolist() == [0, 3, 5, 7]  # up to 240 s, to 480 s, to the end


def test_a_section_without_voice_has_no_windows_and_no_window_is_left_out():
    """Nor one that begins where the track ends, by rounding."""
    start_s = np.array([1.0, 2.0, 720.0])

    assert section_edges(start_s, 720.0).tolist() == [0, 2, 2, 3]
    assert section_edges(start_s[:2], 720.0).tolist() == [0, 2, 2, 2]
    assert section_edges(np.empty(0), 720.0).tolist() == [0, 0, 0, 0]
    assert section_edges(start_s, 4.0).tolist() == [0, 3]


def test_sections_say_where_they_are():
    assert section_times(720.0).tolist() == [0.0, 240.0, 480.0, 720.0]
    assert section_times(0.0).tolist() == [0.0, 0.0]


# --- pooling ---


def test_a_short_track_scores_with_the_nearest_template_to_its_mean():
    windows = unit(np.array([[1.0, 0, 0], [0, 1.0, 0]]))
    templates = unit(np.array([[0, 0, 1.0], [1.0, 1.0, 0], [1.0, 0, 0]]))

    scores = pool_scores(windows, templates, np.array([0, 2]))

    assert scores == pytest.approx([1.0, 0.7071], abs=1e-4)  # the mean lies at 45 degrees


@pytest.mark.parametrize("n_windows", [1, 7, 8, 9, 16, 17, 89, 200])
def test_pooling_equals_the_plain_way(n_windows):
    windows = unit(np.random.default_rng(1).standard_normal((n_windows, DIM)) + 1)
    templates, starts = random_groups([1, 8, 3, 2])

    scores = pool_scores(windows, templates, starts)

    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, plain_pool(windows, templates, starts), atol=1e-6)


@pytest.mark.parametrize(("n_windows", "lengths"), [(1, [1]), (8, [8]), (9, [4, 5]), (16, [8, 8]), (20, [6, 7, 7])])
def test_stretches_are_of_up_to_eight_neighbouring_windows_and_of_one_length_as_far_as_that_goes(n_windows, lengths):
    windows = unit(np.random.default_rng(2).standard_normal((n_windows, DIM)))

    stretches = stretch_vectors(windows)

    assert STRETCH_WINDOWS == 8
    parts = np.split(windows, np.cumsum(lengths)[:-1])
    np.testing.assert_allclose(stretches, unit(np.stack([part.sum(axis=0) for part in parts])), atol=1e-6)


def test_a_voice_in_one_stretch_of_a_long_track_is_found():
    """Where a mean over all of it, or over its better half, would lie between the voices."""
    templates = unit(np.eye(DIM)[:1])
    voice, other = singer(0, STRETCH_WINDOWS), singer(1, STRETCH_WINDOWS)

    for position in (0, 5, 11):
        parts = [other] * 12
        parts[position] = voice
        assert pool_scores(np.concatenate(parts), templates, ONE)[0] == pytest.approx(1.0, abs=0.01)
    in_half_a_stretch = np.concatenate([singer(0, 4), singer(1, 4)])
    assert pool_scores(in_half_a_stretch, templates, ONE)[0] == pytest.approx(0.7071, abs=0.05)


def test_a_track_said_twice_scores_the_same():
    windows = singer(0, 2 * STRETCH_WINDOWS, spread=1.0)
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


def test_the_score_is_that_of_the_stretch_and_the_template_that_are_nearest():
    windows, templates = singer(1, 2 * STRETCH_WINDOWS + 3, spread=0.8, seed=5), singer(1, 4, spread=0.8, seed=6)

    scores = stretch_scores(windows, templates)

    assert stretch_edges(len(windows)).tolist() == [0, 6, 12, 19]
    assert scores.shape == (3, 4)
    assert scores.max() == pool_scores(windows, templates, ONE)[0]


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
    cohort = CohortModel(vectors=unit(np.eye(3)[:2]), starts=np.array([0, 1]), spread=0.5, towards_music=NO_MUSIC)
    track = unit(np.array([[0.6, 0, 0.8]]))  # with the two strangers: 0.6 and 0
    artist = unit(np.array([[0, 0.8, 0.6]]))  # with the two strangers: 0 and 0.8
    score = pool_scores(track, artist, ONE)
    assert score == pytest.approx([0.48])

    norm_score = normalise(score, track, artist, ONE, cohort)

    assert norm_score == pytest.approx([(0.48 - (0.3 + 0.4) / 2) / 0.5])


def test_only_the_nearest_strangers_count(monkeypatch):
    monkeypatch.setattr(scoring, "COHORT_TOP", 1)
    cohort = CohortModel(vectors=unit(np.eye(3)[:2]), starts=np.array([0, 1]), spread=0.5, towards_music=NO_MUSIC)
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


def test_centres_of_artists_can_be_given_where_many_tracks_are_scored_with_them():
    persons = fake_cohort()
    cohort = prepare_cohort(persons.vectors, persons.person)
    windows, (templates, starts) = singer(0, 50, spread=0.5), random_groups([3, 8, 1])
    scores = pool_scores(windows, templates, starts)

    centres = artist_centres(templates, starts, cohort)

    assert centres.shape == (3,)
    given = normalise(scores, windows, templates, starts, cohort, centres=centres)
    np.testing.assert_array_equal(given, normalise(scores, windows, templates, starts, cohort))
    higher = normalise(scores, windows, templates, starts, cohort, centres=centres + np.float32(2 * cohort.spread))
    np.testing.assert_allclose(given - higher, 1.0, atol=1e-5)  # half of it, in standard deviations


def test_normalising_takes_back_half_of_what_a_longer_track_of_nobody_gains():
    """The best of many stretches drifts upwards, and so does what the cohort reaches with it: one centre of two."""
    rng = np.random.default_rng(3)
    strangers = prepare_cohort(unit(rng.standard_normal((100, 32))), np.arange(100))
    templates = unit(rng.standard_normal((100, 32)))
    tracks = [unit(rng.standard_normal((80, 32))) for _ in range(50)]

    def mean_scores(n_windows: int) -> tuple[float, float]:
        pooled, norm = [], []
        for track in tracks:
            scores = pool_scores(track[:n_windows], templates, np.arange(100))
            pooled.append(scores.mean())
            norm.append(normalise(scores, track[:n_windows], templates, np.arange(100), strangers).mean())
        return float(np.mean(pooled)), float(np.mean(norm))

    (pooled_short, norm_short), (pooled_long, norm_long) = mean_scores(8), mean_scores(80)

    gained = (pooled_long - pooled_short) / strangers.spread
    assert gained > 1.0
    assert norm_long - norm_short == pytest.approx(gained / 2, rel=0.05)


def test_a_score_is_centred_on_what_strangers_reach_with_the_track_and_with_the_artist():
    """The terms that are shown of a score are those that it is made of."""
    cohort = prepare_cohort(fake_cohort().vectors, fake_cohort().person)
    windows, templates = singer(1, 20, spread=0.8, seed=5), singer(1, 4, spread=0.8, seed=6)
    scores = pool_scores(windows, templates, ONE)

    norm_scores = normalise(scores, windows, templates, ONE, cohort)

    centre = (track_centre(windows, cohort) + artist_centres(templates, ONE, cohort)) / 2
    assert norm_scores == pytest.approx((scores - centre) / cohort.spread, abs=1e-6)


# --- how much music there is ---


def test_the_direction_of_music_leads_from_voices_alone_to_voices_over_music():
    vectors = unit(np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [0.6, 0, 0.8]]))
    person, condition = np.array([3, 1, 2, 1]), np.array(["spoken", "sung", "spoken+music", "sung+music"])

    cohort = prepare_cohort(vectors, person, condition)

    over_music, alone = (vectors[2] + vectors[3]) / 2, (vectors[0] + vectors[1]) / 2
    np.testing.assert_allclose(cohort.towards_music, over_music - alone, atol=1e-6)


@pytest.mark.parametrize("condition", [None, ["spoken"] * 4, ["sung+music"] * 4])
def test_without_both_kinds_there_is_no_such_direction_and_no_music_is_heard(condition):
    cohort = prepare_cohort(unit(np.eye(4)), np.arange(4), None if condition is None else np.array(condition))

    assert cohort.towards_music.tolist() == [0.0] * 4
    assert accompaniment(unit(np.eye(4)), cohort) == 0.0


def test_accompaniment_is_how_much_nearer_the_mean_of_a_track_is_to_voices_over_music():
    vectors = unit(np.random.default_rng(5).standard_normal((40, DIM)))
    condition = np.where(np.arange(40) % 4 == 3, "sung+music", "sung")
    cohort = prepare_cohort(vectors, np.arange(40) // 2, condition)
    windows = unit(np.random.default_rng(6).standard_normal((20, DIM)))

    mean = unit(windows.mean(axis=0)[None])[0]
    with_music, without = (vectors[3::4] @ mean).mean(), np.delete(vectors, np.s_[3::4], axis=0) @ mean
    assert accompaniment(windows, cohort) == pytest.approx(float(with_music - without.mean()), abs=1e-6)
    assert accompaniment(vectors[3::4], cohort) > 0.1 > -0.1 > accompaniment(-vectors[3::4], cohort)
    assert accompaniment(windows[::-1], cohort) == pytest.approx(accompaniment(windows, cohort), abs=1e-6)
