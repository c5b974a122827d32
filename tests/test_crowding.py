"""How many others come near an artist or a track: counted by hand, and by plain loops over the registry's scoring."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from registry import crowding, scoring
from registry.crowding import (
    CREDIT,
    ENOUGH_OTHERS,
    MOST_VOICES,
    NEAR_SHARE,
    Between,
    Crowd,
    NearLevels,
    artist_crowding,
    chosen_voices,
    level_of,
    score_between,
    track_crowding,
    voice_scores,
)
from registry.llr import LlrModel, llr_of, measures
from registry.records import Gallery
from tests.fakes import DIM, fake_cohort, singer, unit

INF = math.inf
COHORT = scoring.prepare_cohort(
    fake_cohort().vectors, fake_cohort().person, np.where(np.arange(48) % 3 == 0, "sung+music", "sung")
)
#: Of what crowding it takes off nothing may depend: what is near is asked before.
MODEL = LlrModel((0.8, 3.0, -1.0, -0.5), -0.25)


def times(n_near: float, n_compared: float) -> float:
    """log10 of how many times as many are near as are expected, both with the credit; not below 0."""
    return max(0.0, math.log10((n_near + CREDIT) / (NEAR_SHARE * n_compared + CREDIT)))


def around(between: np.ndarray, level: float, without: np.ndarray | None = None) -> np.ndarray:
    """`artist_crowding` with other voices only: a cohort of nobody."""
    return artist_crowding(Between(between, np.empty((0, between.shape[1]))), NearLevels(artist=level), without)


def gallery(artists: dict[int, np.ndarray]) -> Gallery:
    """Templates of artists by artist_id, which must rise."""
    owner = np.repeat([*artists], [len(templates) for templates in artists.values()]).astype(np.int64)
    n = len(owner)
    vectors = np.concatenate([*artists.values(), np.empty((0, DIM), np.float32)])
    return Gallery(vectors, owner, np.arange(n), owner, np.zeros(n), np.full(n, 4.0))


def random_artists(artist_ids: list[int], seed: int = 0) -> dict[int, np.ndarray]:
    """One to four templates each, in all directions."""
    rng = np.random.default_rng(seed)
    return {i: unit(rng.standard_normal((1 + k % 4, DIM))) for k, i in enumerate(artist_ids)}


def test_a_calibration_is_of_all_that_decides_how_much_is_taken_off():
    assert crowding.CONSTANTS == {"near_share": 0.01, "credit": 2.0, "most_voices": 300, "enough_others": 30}


# --- the level ---


def test_the_level_is_what_one_in_a_hundred_of_what_is_compared_reaches():
    assert NEAR_SHARE == 0.01
    scores = np.random.default_rng(0).permutation(1000.0 + np.arange(1000)).reshape(20, 50)

    assert level_of(scores) == 1989.5  # ten of a thousand
    half = np.where(scores % 2 == 0, scores, -INF)
    assert level_of(half) == 1989.0  # five of five hundred
    assert level_of(scores[:1, :3]) == np.sort(scores[0, :3])[1:].mean()  # no fewer than one
    assert level_of(np.full((4, 5), 7.0)) == 7.0


def test_who_is_near_is_the_same_on_another_scale():
    """The level lies between scores, not on one of them, where the last bit would decide."""
    rng = np.random.default_rng(1)
    scores = rng.normal(0, 1, (30, 40))
    level = level_of(scores)

    for slope, offset in rng.uniform(0.5, 2, (200, 2)):
        np.testing.assert_array_equal(slope * scores + offset >= slope * level + offset, scores >= level)
    assert (scores >= level).sum() == 12


def test_rows_count_for_the_level_as_much_as_they_weigh():
    """The second of three rows has the high scores; of the other two one is not compared with everybody."""
    scores = np.stack([np.arange(100.0), 1000.0 + np.arange(100), np.arange(100.0)])
    scores[2, :50] = -INF

    assert level_of(scores, np.ones(3)) == level_of(scores) == 1096.5  # three of 250 reach it, two are too few
    # Of a weight of 100 + 10 + 50 in all, 1.6 is asked for: sixteen of the second row.
    assert level_of(scores, np.array([1.0, 0.1, 1.0])) == 1083.5
    assert level_of(scores, np.array([1.0, 0.0, 1.0])) == 98.5
    assert level_of(scores, np.array([10.0, 1.0, 10.0])) == 1083.5


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (3, 0), (3, 5)])
def test_where_nothing_is_compared_nothing_is_near(shape):
    nothing = np.full(shape, -INF)

    assert level_of(nothing) == level_of(nothing, np.ones(shape[0])) == INF


def test_levels_come_back_from_json():
    for near in (NearLevels(2.5, -0.75, 1.25), NearLevels(0.0, INF), NearLevels(INF, 1.0, 0.0), NearLevels()):
        text = json.dumps(near.as_dict(), allow_nan=False)
        assert NearLevels.from_dict(json.loads(text)) == near
    assert NearLevels(2.5, -0.75, 1.25).as_dict() == {"artist": 2.5, "track": -0.75, "cohort": 1.25}
    assert NearLevels().as_dict() == {"artist": None, "track": None, "cohort": None}  # JSON has no infinity
    assert NearLevels.from_dict({"track": 1, "cohort": 0, "artist": 2}) == NearLevels(artist=2.0, track=1.0, cohort=0.0)
    assert NearLevels.from_dict({"track": 1, "artist": 2}) == NearLevels(
        artist=2.0, track=1.0
    )  # from before the cohort


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"artist": 2.0},
        {"track": 2.0, "cohort": 1.0},
        {"artist": 2.0, "track": 1.0, "voice": 3.0},
        {"artist": 2.0, "track": 1.0, "cohort": 1.0, "voice": 3.0},
        {"artist": "2", "track": 1.0, "cohort": 1.0},
        {"artist": 2.0, "track": [1.0], "cohort": 1.0},
        {"artist": math.nan, "track": 1.0, "cohort": 1.0},
        {"artist": 2.0, "track": math.nan, "cohort": 1.0},
        {"artist": -INF, "track": 1.0, "cohort": 1.0},
        {"artist": 2.0, "track": 1.0, "cohort": -INF},
    ],
)
def test_what_are_no_levels_is_refused(values):
    """At or above NaN nothing is; at or above minus infinity is also what is not compared."""
    with pytest.raises(ValueError, match=r"near is \{.*\}, not the levels of artist, track and cohort"):
        NearLevels.from_dict(values)


def test_levels_are_those_of_what_is_compared():
    rng = np.random.default_rng(2)
    between = Between(rng.normal(0, 1, (30, 30)), rng.normal(0, 1, (50, 30)))
    llrs, weights = rng.normal(0, 1, (40, 30)), rng.random(40)

    near = NearLevels.of(between, llrs, weights)

    assert near.artist == level_of(between.others) and near.cohort == level_of(between.cohort)
    assert near.track == level_of(llrs, weights) != level_of(llrs) == NearLevels.of(between, llrs).track


# --- voices with artists ---


@pytest.mark.parametrize("given_centres", [False, True])
def test_voices_score_as_tracks_do_whose_stretches_are_their_templates(given_centres, monkeypatch):
    monkeypatch.setattr(scoring, "STRETCH_WINDOWS", 1)  # of a track each window, as of a voice each template
    voices, artists = random_artists([1, 2, 3, 4, 5], seed=1), random_artists([1, 2, 3], seed=2)
    rows, templates = np.concatenate([*voices.values()]), np.concatenate([*artists.values()])
    voice_starts, starts = np.array([0, 1, 3, 6, 10]), np.array([0, 1, 3])
    centres = scoring.artist_centres(templates, starts, COHORT) if given_centres else None

    found = voice_scores(rows, voice_starts, templates, starts, COHORT, centres=centres)

    assert (found.shape, found.dtype) == ((5, 3), np.float32)
    for row, voice in zip(found, voices.values(), strict=True):
        scores = scoring.pool_scores(voice, templates, starts)
        assert row == pytest.approx(scoring.normalise(scores, voice, templates, starts, COHORT), abs=1e-5)


def test_voices_score_template_by_template():
    """Cosine by cosine: the best of all pairs, less the average of what the cohort scores with both."""
    voice, artist = singer(0, 3, spread=0.5, seed=3), singer(1, 2, spread=0.5, seed=4)
    persons = [COHORT.vectors[first : first + 2] for first in COHORT.starts]

    ((found,),) = voice_scores(voice, np.zeros(1, int), artist, np.zeros(1, int), COHORT)

    best = max(float(mine @ theirs) for mine in voice for theirs in artist)
    with_voice = np.mean([max(float(mine @ row) for mine in voice for row in person) for person in persons])
    mean = artist.sum(axis=0) / np.linalg.norm(artist.sum(axis=0))
    with_artist = np.mean([max(float(mean @ row) for row in person) for person in persons])
    assert found == pytest.approx((best - (with_voice + with_artist) / 2) / COHORT.spread, abs=1e-4)


def test_no_voices_or_no_artists_have_no_scores():
    some, nobody = singer(0, 2), np.empty((0, DIM), np.float32)
    one, none = np.zeros(1, np.int64), np.empty(0, np.int64)

    assert voice_scores(nobody, none, some, one, COHORT).shape == (0, 1)
    assert voice_scores(some, one, nobody, none, COHORT).shape == (1, 0)
    assert voice_scores(nobody, none, nobody, none, COHORT).shape == (0, 0)


def test_artists_are_scored_with_voices_and_with_the_cohort():
    artists = random_artists([1, 2, 3], seed=2)
    templates, starts = np.concatenate([*artists.values()]), np.array([0, 1, 3])
    voice, one = singer(0, 2, spread=0.5, seed=3), np.zeros(1, np.int64)

    found = score_between(voice, one, templates, starts, COHORT)

    others = voice_scores(voice, one, templates, starts, COHORT)
    of_cohort = voice_scores(COHORT.vectors, COHORT.starts, templates, starts, COHORT)
    assert (found.others.shape, found.cohort.shape) == ((1, 3), (24, 3))
    np.testing.assert_allclose(found.others, others, atol=1e-5)
    np.testing.assert_allclose(found.cohort, of_cohort, atol=1e-5)
    nobody, none = np.empty((0, DIM), np.float32), np.empty(0, np.int64)
    for between, shapes in (
        (score_between(nobody, none, templates, starts, COHORT), ((0, 3), (24, 3))),
        (score_between(voice, one, nobody, none, COHORT), ((1, 0), (24, 0))),
    ):
        assert (between.others.shape, between.cohort.shape) == shapes


def test_given_centres_of_artists_are_taken_for_voices_and_for_the_cohort():
    """A centre that is higher by two spreads makes all norm_scores of that artist lower by one."""
    templates, starts = np.concatenate([*random_artists([1, 2, 3], seed=2).values()]), np.array([0, 1, 3])
    parts = singer(0, 2, spread=0.5, seed=3), np.zeros(1, np.int64), templates, starts, COHORT
    raised = scoring.artist_centres(templates, starts, COHORT) + 2 * COHORT.spread * np.array([0.0, 1.0, 3.0])

    found, plain = score_between(*parts, centres=raised), score_between(*parts)

    np.testing.assert_allclose(found.others, plain.others - [0.0, 1.0, 3.0], atol=1e-4)
    np.testing.assert_allclose(found.cohort, plain.cohort - [0.0, 1.0, 3.0], atol=1e-4)


def test_some_artists_with_some_voices_keep_the_whole_cohort():
    between = Between(np.arange(12.0).reshape(3, 4), 100 + np.arange(8.0).reshape(2, 4))

    for voices, artists in (
        (np.array([2, 0]), np.array([3, 1])),
        (np.array([True, False, True]), np.array([False, True, False, True])),
    ):
        found = between.select(voices, artists)

        assert sorted(found.others.ravel().tolist()) == [1.0, 3.0, 9.0, 11.0]
        assert sorted(found.cohort.ravel().tolist()) == [101.0, 103.0, 105.0, 107.0]
    by_place = between.select(np.array([2, 0]), np.array([3, 1]))
    assert by_place.others.tolist() == [[11.0, 9.0], [3.0, 1.0]]
    assert by_place.cohort.tolist() == [[103.0, 101.0], [107.0, 105.0]]


# --- around artists ---

#: norm_scores of a voice in a row with the artist in a column, at a level of 2: three, two, one and nobody are near.
BETWEEN = np.array(
    [
        [-INF, 2.0, 1.9, 0.0],
        [2.0, -INF, 2.5, 0.0],
        [9.0, 1.0, -INF, 1.99],
        [3.0, 4.0, 1.0, -INF],
    ]
)


def test_around_an_artist_voices_are_counted_and_some_are_credited():
    """Beside those counted and those expected two are credited, so that a single one of few says little."""
    found = around(BETWEEN, 2.0)

    assert found.tolist() == pytest.approx([times(3, 3), times(2, 3), times(1, 3), 0.0])
    assert found.tolist() == pytest.approx([math.log10(5 / 2.03), math.log10(4 / 2.03), math.log10(3 / 2.03), 0.0])


def test_beside_thirty_others_one_voice_takes_off_little():
    between = np.where(np.eye(31, dtype=bool), -INF, 0.0)
    between[1, 0] = between[2, 3] = between[4, 3] = 5.0

    found = around(between, 5.0)

    assert found[[0, 3]].tolist() == pytest.approx([0.1, 0.2], abs=0.05)  # as CREDIT says
    assert np.flatnonzero(found).tolist() == [0, 3]


def test_nothing_is_added_where_fewer_are_near_than_are_expected():
    """Ten thousand voices of which a hundred are expected: 99 and 100 take off nothing, 1,000 nearly a tenth part."""
    between = np.zeros((10_000, 4))
    for column, n_near in enumerate((0, 99, 100, 1000)):
        between[:n_near, column] = 3.0

    found = around(between, 3.0)

    assert found[:3].tolist() == [0.0, 0.0, 0.0]
    assert found[3] == pytest.approx(math.log10(1002 / 102))


def test_what_is_not_compared_is_neither_counted_nor_expected():
    """A voice that is somebody's own, also under another name."""
    between = np.full((401, 2), 0.0)
    between[:10] = 3.0
    between[1:201, 1] = -INF

    assert around(between, 3.0).tolist() == pytest.approx([times(10, 401), times(1, 201)])


def test_without_a_voice_only_that_voice_is_not_counted():
    without = np.array([-1, 0, 2, -1, 3])

    found = around(BETWEEN, 2.0, without)

    everybody = around(BETWEEN, 2.0).tolist()
    assert found.shape == (5, 4)
    assert found[0].tolist() == found[3].tolist() == pytest.approx(everybody)
    # The first is near the second only, and is compared with all but itself.
    assert found[1].tolist() == pytest.approx([times(3, 3), times(1, 2), times(1, 2), 0.0])
    assert found[2].tolist() == pytest.approx([times(2, 2), times(2, 2), times(1, 3), 0.0])
    for row, voice in ((1, 0), (2, 2), (4, 3)):
        rest = np.arange(4) != voice
        assert found[row].tolist() == pytest.approx(around(BETWEEN[rest], 2.0).tolist())


def test_without_is_nothing_where_nobody_is_enrolled():
    nobody = np.empty((0, 0))

    assert around(nobody, 2.0).shape == (0,)
    assert around(nobody, 2.0, np.array([-1, -1])).shape == (2, 0)
    assert around(np.empty((0, 3)), 2.0).tolist() == [0.0] * 3
    assert around(np.empty((0, 3)), 2.0, np.array([-1, -1])).tolist() == [[0.0] * 3] * 2


def test_where_no_voice_is_near_nothing_is_crowded():
    llrs = np.full((5, 4), 99.0)

    assert not around(BETWEEN, INF).any()
    assert not around(BETWEEN, INF, np.array([-1, 0])).any()
    assert not track_crowding(llrs, INF).any()
    assert not track_crowding(llrs, INF, np.array([0, -1]), np.array([-1, 0, 1, 2, 3])).any()


# --- the cohort in the place of others ---


def of_cohort(n_persons: int, *n_near: int) -> np.ndarray:
    """norm_scores of a cohort of so many with artists: 4 of so many each, of the others 0."""
    return np.where(np.arange(n_persons)[:, None] < np.array(n_near)[None, :], 4.0, 0.0)


def test_where_nobody_else_is_enrolled_the_cohort_is_counted():
    between = Between(np.full((1, 3), -INF), of_cohort(150, 0, 2, 21))
    near = NearLevels(artist=9.0, track=9.0, cohort=3.0)

    found = artist_crowding(between, near)

    assert found.tolist() == pytest.approx([0.0, math.log10(4 / 3.5), math.log10(23 / 3.5)])
    assert artist_crowding(Between(np.empty((0, 3)), between.cohort), near).tolist() == found.tolist()


@pytest.mark.parametrize(("n_others", "share"), [(1, 29 / 30), (6, 0.8), (15, 0.5), (29, 1 / 30)])
def test_the_more_others_are_enrolled_the_less_the_cohort_counts(n_others, share):
    """Both its near voices and its expected ones."""
    others = np.zeros((n_others, 2))
    others[:1, 1] = 5.0
    near = NearLevels(artist=5.0, cohort=4.0)

    found = artist_crowding(Between(others, of_cohort(150, 40, 20)), near)

    n_compared = n_others + share * 150
    assert found.tolist() == pytest.approx([times(share * 40, n_compared), times(1 + share * 20, n_compared)])


@pytest.mark.parametrize("n_others", [30, 31, 300])
def test_with_enough_others_the_cohort_does_not_count(n_others):
    assert ENOUGH_OTHERS == 30
    others = np.where(np.arange(n_others)[:, None] < [0, 9], 5.0, 0.0)

    found = artist_crowding(Between(others, of_cohort(150, 150, 0)), NearLevels(artist=5.0, cohort=1.0))

    assert found.tolist() == pytest.approx([0.0, times(9, n_others)])


def test_the_cohort_counts_by_artist_and_by_who_is_not_counted():
    """An artist with fewer others has more of the cohort; so has a row without the voice of somebody enrolled."""
    others = np.zeros((30, 2))
    others[:15, 1] = -INF
    between, near = Between(others, of_cohort(100, 60, 60)), NearLevels(artist=5.0, cohort=4.0)

    assert artist_crowding(between, near).tolist() == pytest.approx([0.0, times(30, 15 + 50)])
    by_row = artist_crowding(between, near, np.array([-1, 0, 20]))
    assert by_row[0].tolist() == artist_crowding(between, near).tolist()
    assert by_row[1].tolist() == pytest.approx([times(60 / 30, 29 + 100 / 30), times(30, 15 + 50)])
    assert by_row[2].tolist() == pytest.approx([times(60 / 30, 29 + 100 / 30), times(60 * 16 / 30, 14 + 160 / 3)])


# --- around tracks ---


def test_around_a_track_other_artists_are_counted_and_never_the_artists_own_voice():
    llrs = np.array([[1.0, 0.5, 2.0, -3.0], [0.9, 0.9, 0.9, 0.9], [5.0, -INF, -INF, 1.0]])

    found = track_crowding(llrs, 1.0)

    assert found.shape == (3, 4)
    assert found[0].tolist() == pytest.approx([times(1, 3), times(2, 3), times(1, 3), times(2, 3)])
    assert found[1].tolist() == [0.0] * 4
    # The second and third are not compared, and their artists have two others.
    assert found[2].tolist() == pytest.approx([times(1, 1), times(2, 2), times(2, 2), times(1, 1)])


def test_an_artists_own_voice_may_be_another_column_or_none():
    """Three artists of whom one is not among the voices, the others in another order."""
    llrs = np.array([[1.0, 0.5, 2.0, 1.5], [0.0, 3.0, 0.0, 0.0]])

    found = track_crowding(llrs, 1.0, own=np.array([3, -1, 1]))

    assert found[0].tolist() == pytest.approx([times(2, 3), times(3, 4), times(3, 3)])
    assert found[1].tolist() == pytest.approx([times(1, 3), times(1, 4), 0.0])


def test_without_the_voice_of_who_is_heard_it_is_not_counted_for_anybody():
    llrs = np.tile([1.0, 0.5, 2.0, 1.5], (4, 1))
    before = llrs.copy()

    found = track_crowding(llrs, 1.0, without=np.array([-1, 0, 1, 3]))

    every = track_crowding(llrs[:1], 1.0)[0].tolist()
    assert found[0].tolist() == pytest.approx(every)
    assert found[1].tolist() == pytest.approx([times(2, 3), times(2, 2), times(1, 2), times(1, 2)])
    assert found[2].tolist() == pytest.approx([times(2, 2), times(3, 3), times(2, 2), times(2, 2)])
    assert found[3].tolist() == pytest.approx([times(1, 2), times(2, 2), times(1, 2), times(2, 3)])
    for row, voice in ((1, 0), (2, 1), (3, 3)):
        apart = llrs[:1].copy()
        apart[0, voice] = -INF
        assert found[row].tolist() == pytest.approx(track_crowding(apart, 1.0)[0].tolist())
    np.testing.assert_array_equal(llrs, before)  # what is not counted is left as it is


def test_without_and_own_together():
    """With the voices in another order than the artists, of whom the last has none."""
    llrs = np.array([[1.0, 2.0, 3.0]])

    found = track_crowding(llrs, 1.0, own=np.array([2, 0, -1]), without=np.array([0]))

    assert found[0].tolist() == pytest.approx([times(1, 1), times(2, 2), times(2, 2)])


def test_a_track_with_nobody_to_compare_with_is_not_crowded():
    assert track_crowding(np.empty((2, 0)), 1.0, own=np.array([-1, -1, -1])).tolist() == [[0.0] * 3] * 2
    assert track_crowding(np.empty((2, 0)), 1.0).shape == (2, 0)
    assert track_crowding(np.empty((0, 3)), 1.0).shape == (0, 3)
    assert track_crowding(np.full((1, 3), -INF), 1.0).tolist() == [[0.0] * 3]
    assert track_crowding(np.empty((2, 0)), 1.0, without=np.array([-1, -1])).shape == (2, 0)


# --- the crowd of those enrolled ---


def scored(gallery: Gallery, windows: np.ndarray) -> np.ndarray:
    """llrs before crowding is taken off, of a track with the artists of a gallery."""
    starts, _ = scoring.group_starts(gallery.artist_id)
    scores = scoring.pool_scores(windows, gallery.vectors, starts)
    norm_scores = scoring.normalise(scores, windows, gallery.vectors, starts, COHORT)
    return llr_of(measures(norm_scores, scoring.accompaniment(windows, COHORT)), MODEL)


def test_a_crowd_gives_what_the_plain_functions_give():
    enrolled = gallery(random_artists([3, 4, 9, 10, 27, 31], seed=5))
    near = NearLevels(artist=0.8, track=0.0, cohort=1.2)
    starts, artist_ids = scoring.group_starts(enrolled.artist_id)
    between = score_between(enrolled.vectors, starts, enrolled.vectors, starts, COHORT)
    np.fill_diagonal(between.others, -INF)
    windows = singer(2, 20, spread=0.6, seed=6)
    llrs = scored(enrolled, windows)

    crowd = Crowd(enrolled, COHORT, MODEL, near)

    of_artists = crowd.around_artists(enrolled)
    assert of_artists.tolist() == pytest.approx(artist_crowding(between, near).tolist())
    of_track = crowd.around_track(windows, scoring.accompaniment(windows, COHORT), artist_ids)
    assert of_track.tolist() == pytest.approx(track_crowding(llrs[None], 0.0)[0].tolist())
    assert len(set(np.round(of_artists, 3).tolist())) > 2 and len(set(of_track.tolist())) > 1 and of_track.all()


def test_a_crowd_has_no_opinion_of_the_rest_for_some_of_its_artists():
    """Candidates are some of those enrolled: what comes near them is counted among all."""
    enrolled = gallery(random_artists([3, 4, 9, 10, 27, 31], seed=5))
    crowd = Crowd(enrolled, COHORT, MODEL, NearLevels(artist=0.8, track=0.0))
    windows, artist_ids = singer(2, 20, spread=0.6, seed=6), np.unique(enrolled.artist_id)
    some = np.array([4, 27, 31])
    at = np.searchsorted(artist_ids, some)

    of_some = crowd.around_artists(enrolled.select(np.isin(enrolled.artist_id, some)))

    assert of_some.tolist() == pytest.approx(crowd.around_artists(enrolled)[at].tolist())
    assert crowd.around_track(windows, 0.0, some).tolist() == pytest.approx(
        crowd.around_track(windows, 0.0, artist_ids)[at].tolist()
    )


def test_an_artist_who_is_not_among_the_voices_is_compared_with_all_of_them():
    enrolled, other = random_artists([3, 4, 9], seed=5), random_artists([8], seed=8)[8]
    near = NearLevels(artist=-1.0, track=-1.0)
    crowd = Crowd(gallery(enrolled), COHORT, MODEL, near)
    windows = singer(2, 20, spread=0.6, seed=6)
    voices = gallery(enrolled)
    starts, _ = scoring.group_starts(voices.artist_id)
    between = voice_scores(voices.vectors, starts, other, np.zeros(1, np.int64), COHORT)
    llrs = scored(voices, windows)

    found = crowd.around_artists(gallery({8: other}))
    of_track = crowd.around_track(windows, scoring.accompaniment(windows, COHORT), np.array([8, 9]))

    # The cohort stands in for 27 of the 30 others that would be enough; of it nobody is near.
    assert found.tolist() == pytest.approx([times(int((between >= -1).sum()), 3 + 24 * 27 / 30)])
    assert of_track.tolist() == pytest.approx(
        [times(int((llrs >= -1).sum()), 3), times(int((llrs[:2] >= -1).sum()), 2)]
    )
    assert (between >= -1).any() and (llrs >= -1).any()


def test_where_nobody_is_enrolled_nothing_is_crowded():
    crowd = Crowd(gallery({}), COHORT, MODEL, NearLevels(-9.0, -9.0))

    assert crowd.around_artists(gallery({5: singer(0, 2), 6: singer(1, 1)})).tolist() == [0.0, 0.0]
    assert crowd.around_track(singer(0), 0.0, np.array([5, 6])).tolist() == [0.0, 0.0]
    assert crowd.around_artists(gallery({})).shape == (0,)
    assert crowd.around_track(singer(0), 0.0, np.empty(0, np.int64)).shape == (0,)


def test_a_single_artist_is_crowded_by_the_cohort_only():
    alone = gallery({5: singer(0, 2)})
    crowd = Crowd(alone, COHORT, MODEL, NearLevels(-9.0, -9.0))

    assert crowd.around_artists(alone).tolist() == [0.0]
    with_cohort = Crowd(alone, COHORT, MODEL, NearLevels(-9.0, -9.0, -9.0))
    assert with_cohort.around_artists(alone).tolist() == pytest.approx([times(24, 24)])
    assert crowd.around_track(singer(0), 0.0, np.array([5])).tolist() == [0.0]


# --- at most so many voices ---


def test_of_many_voices_the_same_ones_are_taken_whoever_else_is_there():
    assert MOST_VOICES == 300
    many = np.arange(1, 1201)

    chosen = chosen_voices(many)

    assert len(chosen) == 300 and (np.diff(chosen) > 0).all() and set(chosen.tolist()) <= set(many.tolist())
    for other_id in (5000, 77_777, 1_234_567):
        again = chosen_voices(np.append(many, other_id))
        left = set(chosen.tolist()) - set(again.tolist())
        assert len(again) == 300 and len(left) == (other_id in again)  # the new one takes one place, or none
    rest = many[~np.isin(many, chosen[:10])]
    assert set(chosen[10:].tolist()) <= set(chosen_voices(rest).tolist())  # who stays enrolled stays chosen
    # Nothing of the order in which they were enrolled: of each quarter about a quarter.
    assert np.histogram(chosen, bins=4, range=(1, 1201))[0].tolist() == pytest.approx([75] * 4, abs=25)


def test_of_few_voices_all_are_taken():
    assert chosen_voices(np.array([3, 9, 4000])).tolist() == [3, 9, 4000]
    assert chosen_voices(np.empty(0, np.int64)).tolist() == []


def test_a_crowd_is_of_the_chosen_voices_only(monkeypatch):
    monkeypatch.setattr(crowding, "MOST_VOICES", 4)
    artists = random_artists([3, 4, 9, 10, 27, 31, 40], seed=5)
    everybody = gallery(artists)
    chosen = chosen_voices(np.array([*artists])).tolist()
    near, windows = NearLevels(0.3, -0.5), singer(2, 20, spread=0.6, seed=6)
    artist_ids = np.array([*artists])

    crowd = Crowd(everybody, COHORT, MODEL, near)

    few = Crowd(gallery({i: artists[i] for i in chosen}), COHORT, MODEL, near)
    assert len(chosen) == 4
    assert crowd.around_artists(everybody).tolist() == few.around_artists(everybody).tolist()
    around = crowd.around_track(windows, 0.1, artist_ids)
    assert around.tolist() == few.around_track(windows, 0.1, artist_ids).tolist()
    monkeypatch.setattr(crowding, "MOST_VOICES", 300)
    of_all = Crowd(everybody, COHORT, MODEL, near)
    assert crowd.around_artists(everybody).tolist() != of_all.around_artists(everybody).tolist()
    assert around.tolist() != of_all.around_track(windows, 0.1, artist_ids).tolist()
