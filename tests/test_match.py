from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from embeddings.extract import Voiceprint
from registry import match as match_module
from registry import scoring
from registry import store as store_module
from registry.calibration import DEFAULT_BUDGET, LEAST_LLR, Calibration, Threshold
from registry.calibrations import add_calibration, roll_back
from registry.config import FALSE_FLAG_BUDGET, REQUIRE_TWO_PERSONS, change_setting
from registry.crowding import NearLevels, artist_crowding, score_between, track_crowding
from registry.erasure import erase_artist, erase_reference
from registry.errors import EncoderMismatch, NoThreshold
from registry.identity import rename_artist, split_artist
from registry.match import (
    CANDIDATES,
    KEPT_EVIDENCE,
    KEPT_MATCHES,
    Matcher,
    encoder_calibration,
    find_calibration,
    index_path,
    write_store_index,
)
from registry.records import Consent, Evidence
from registry.references import approve_references
from registry.rights import add_consent, withdraw_consent
from registry.scoring import COHORT_TOP, SECTION_S, STRETCH_WINDOWS
from registry.store import Store
from registry.verdict import likeness_in_words
from tests.fakes import (
    COHORT_ID,
    DIM,
    ENCODER_ID,
    THRESHOLD,
    add_reference,
    crowded,
    enroll_vectors,
    fake_calibration,
    files_holding,
    make_matcher,
    make_voiceprint,
    matches_without,
    singer,
    unit,
    up,
)

PAST = "2020-01-01T00:00:00Z"


@pytest.fixture
def four_artists(store, encoder) -> None:
    for k, name in enumerate(["Ada", "Bo", "Cy", "Di"]):
        enroll_vectors(store, encoder, name, singer(k, 12, spread=0.4, seed=k))


def plain_matches(store, encoder, vectors: np.ndarray) -> list[tuple[str, float, float]]:
    """(artist, score, norm_score) of a track of one section, best first, by DESIGN's words and nothing else."""
    n_stretches = -(-len(vectors) // STRETCH_WINDOWS)
    edges = [i * len(vectors) // n_stretches for i in range(n_stretches + 1)]

    def mean(rows: np.ndarray) -> np.ndarray:
        return rows.sum(axis=0) / np.linalg.norm(rows.sum(axis=0))

    cohort = encoder.cohort
    persons = [cohort.vectors[cohort.person == person] for person in np.unique(cohort.person)]
    among_strangers = [max(mean(a) @ b.T) for i, a in enumerate(persons) for j, b in enumerate(persons) if i != j]
    spread = np.std(among_strangers)

    def best_stretch(rows: np.ndarray) -> float:
        return max(float(max(mean(vectors[a:b]) @ rows.T)) for a, b in pairwise(edges))

    track_centre = np.mean(sorted(best_stretch(person) for person in persons)[-COHORT_TOP:])

    gallery, names = store.gallery(), store.artist_names()
    found = []
    for artist_id, name in names.items():
        templates = gallery.vectors[gallery.artist_id == artist_id]
        score = best_stretch(templates)
        artist_centre = np.mean(sorted(max(mean(templates) @ person.T) for person in persons)[-COHORT_TOP:])
        norm_score = (score - (track_centre + artist_centre) / 2) / spread
        found.append((name, score, float(norm_score)))
    return sorted(found, key=lambda item: -item[2])


# --- scores ---


@pytest.mark.usefixtures("four_artists")
def test_matches_equal_a_plain_computation(store, encoder):
    track = singer(2, 20, spread=0.8, seed=77)

    matches = make_matcher(store, encoder)[0].match(make_voiceprint(track))

    expected = plain_matches(store, encoder, track)
    assert [(match.rank, match.artist) for match in matches] == [(k + 1, row[0]) for k, row in enumerate(expected)]
    assert [match.score for match in matches] == pytest.approx([row[1] for row in expected], abs=1e-4)
    assert [match.norm_score for match in matches] == pytest.approx([row[2] for row in expected], abs=2e-3)
    assert [match.llr for match in matches] == pytest.approx([row[2] for row in expected], abs=0.006)
    assert [match.likeness for match in matches] == [likeness_in_words(match.llr) for match in matches]
    assert [match.flagged for match in matches] == [match.llr >= THRESHOLD for match in matches]


@pytest.mark.usefixtures("four_artists")
def test_the_llr_weighs_the_music_with_the_score_by_the_calibration(store, encoder):
    """The same track is as much over music for every artist; who comes first stays so."""
    plain = make_matcher(store, encoder)[0].match(make_voiceprint(singer(2, seed=9)))
    encoder.cohort = replace(encoder.cohort, condition=np.where(np.arange(48) % 3 == 0, "sung+music", "sung"))
    weights = {"norm_score": 0.5, "accompaniment": 30.0}
    encoder.calibration = {**encoder.calibration, "llr": {"weights": weights, "intercept": -0.25}}

    matches = make_matcher(store, encoder)[0].match(make_voiceprint(singer(2, seed=9)))

    cohort = scoring.prepare_cohort(encoder.cohort.vectors, encoder.cohort.person, encoder.cohort.condition)
    music = scoring.accompaniment(singer(2, seed=9), cohort)
    assert abs(30 * music) > 0.1
    assert [match.norm_score for match in matches] == [match.norm_score for match in plain]
    expected = [0.5 * match.norm_score + 30 * music - 0.25 for match in matches]
    assert [match.llr for match in matches] == pytest.approx(expected, abs=0.006)


@pytest.mark.usefixtures("four_artists")
def test_every_artist_at_or_above_the_threshold_is_flagged(store, encoder):
    """Not only the best, and each by what is reported."""
    voice = make_voiceprint(unit(np.eye(DIM)[:1] + 0.9 * np.eye(DIM)[1:2]).repeat(8, axis=0))
    first, second, third, _ = make_matcher(store, encoder)[0].match(voice)
    assert first.llr > second.llr > third.llr

    matches = make_matcher(store, encoder, threshold=second.llr)[0].match(voice)

    assert [match.flagged for match in matches] == [True, True, False, False]


# --- crowding ---


@pytest.fixture
def crowd(store, encoder) -> None:
    """Ada, Bo and Cy, whose voices are alike, and Di and Ed, who sound like nobody."""
    for k, (name, axis) in enumerate([("Ada", 0), ("Bo", 0), ("Cy", 0), ("Di", 3), ("Ed", 5)]):
        enroll_vectors(store, encoder, name, singer(axis, 12, spread=0.3, seed=k))


def weighed(calibration: dict, *, of_artist: float, of_track: float) -> dict:
    """With other weights of crowding."""
    llr = calibration["llr"]
    weights = {**llr["weights"], "artist_crowding": of_artist, "track_crowding": of_track}
    return {**calibration, "llr": {**llr, "weights": weights}}


#: An artist of five is compared with four others, and for 26 that are missing to 30 with as much of the cohort of 24.
COMPARED = 4 + 24 * 26 / 30


@pytest.mark.usefixtures("crowd")
@pytest.mark.parametrize("weight", [-1.0, -0.25])
def test_whom_other_voices_come_near_has_an_llr_lower_by_its_crowding(store, encoder, weight):
    """By the weight times it and nothing else: the scores are as they were, and who has nobody near loses nothing."""
    track = make_voiceprint(singer(0, 10, spread=0.5, seed=70))
    plain, _ = make_matcher(store, encoder)
    encoder.calibration = crowded(encoder.calibration, artist=1.5)
    encoder.calibration = weighed(encoder.calibration, of_artist=weight, of_track=0.0)
    matcher, _ = make_matcher(store, encoder)

    before, after = (each.rank(track, each.candidates(track.vectors)) for each in (plain, matcher))

    gallery = store.gallery()
    starts, artist_ids = scoring.group_starts(gallery.artist_id)
    between = score_between(gallery.vectors, starts, gallery.vectors, starts, matcher.cohort)
    np.fill_diagonal(between.others, -np.inf)
    of_artists = artist_crowding(between, NearLevels(artist=1.5))
    two_near = np.log10(4 / (0.01 * COMPARED + 2))
    assert of_artists.tolist() == pytest.approx([two_near] * 3 + [0.0] * 2)  # two of four are near the first three
    np.testing.assert_array_equal(after.artist_id, artist_ids)
    np.testing.assert_array_equal(after.norm_scores, before.norm_scores)
    np.testing.assert_array_equal(after.scores, before.scores)
    assert after.measured[:, 2].tolist() == of_artists.tolist()
    np.testing.assert_array_equal(after.measured[:, :2], before.measured[:, :2])
    assert after.llrs == pytest.approx(before.llrs + weight * of_artists, abs=1e-12)
    assert [match.llr for match in matcher.match(track)] == np.round(after.llrs[after.order], 2).tolist()
    assert matcher.threshold.llr == plain.threshold.llr


@pytest.mark.usefixtures("crowd")
@pytest.mark.parametrize("weight", [-1.0, -0.25])
def test_a_track_that_other_artists_come_near_has_lower_llrs_and_an_artists_own_voice_is_no_other(
    store, encoder, weight
):
    """Three artists reach the level: of each of them two others take off, of the rest three."""
    track = make_voiceprint(singer(0, 10, spread=0.5, seed=70))
    plain, _ = make_matcher(store, encoder)
    before = plain.rank(track, plain.candidates(track.vectors))
    encoder.calibration = crowded(encoder.calibration, track=1.5)
    encoder.calibration = weighed(encoder.calibration, of_artist=0.0, of_track=weight)
    matcher, _ = make_matcher(store, encoder)

    after = matcher.rank(track, matcher.candidates(track.vectors))

    of_track = track_crowding(before.llrs[None], 1.5)[0]
    assert of_track.tolist() == [np.log10(4 / 2.04)] * 3 + [np.log10(5 / 2.04)] * 2
    assert after.measured[:, 3].tolist() == of_track.tolist()
    np.testing.assert_array_equal(after.norm_scores, before.norm_scores)
    assert after.llrs == pytest.approx(before.llrs + weight * of_track, abs=1e-12)


@pytest.mark.usefixtures("crowd")
def test_by_a_calibration_that_does_not_say_what_is_near_nothing_is_taken_off(store, encoder):
    track = make_voiceprint(singer(0, 10, spread=0.5, seed=70))
    plain = make_matcher(store, encoder)[0].match(track)
    encoder.calibration = crowded(encoder.calibration, artist=1.5, track=1.5)
    with_near = make_matcher(store, encoder)[0].match(track)
    del encoder.calibration["near"]

    matches = make_matcher(store, encoder)[0].match(track)

    assert matches == plain
    assert [match.llr for match in with_near] != [match.llr for match in plain]


@pytest.mark.usefixtures("crowd")
@pytest.mark.parametrize("weights", [(-1.0, -1.0), (-1.0, -0.25), (-0.25, 0.0), (0.0, -0.5), (0.0, 0.0)])
def test_a_match_says_what_crowding_took_off_its_llr(store, encoder, weights):
    """Both crowdings, each by its weight: with that the llr is what it is where nobody comes near."""
    track = make_voiceprint(singer(0, 10, spread=0.5, seed=70))
    encoder.calibration = weighed(encoder.calibration, of_artist=weights[0], of_track=weights[1])
    plain = {match.artist: match for match in make_matcher(store, encoder)[0].match(track)}
    encoder.calibration = {**encoder.calibration, "near": NearLevels(artist=1.5, track=1.5).as_dict()}

    matches = {match.artist: match for match in make_matcher(store, encoder)[0].match(track)}

    of_artist, of_track = np.log10(4 / (0.01 * COMPARED + 2)), np.log10([4 / 2.04] * 3 + [5 / 2.04] * 2)
    for name, by_track in zip(["Ada", "Bo", "Cy", "Di", "Ed"], of_track, strict=True):
        by_artist = of_artist if name in ("Ada", "Bo", "Cy") else 0.0
        found = matches[name]
        assert found.taken_off == round(float(-weights[0] * by_artist - weights[1] * by_track), 2)
        assert found.llr + found.taken_off == pytest.approx(plain[name].llr, abs=0.0101)  # two are rounded
        assert found.norm_score == plain[name].norm_score
    assert {str(match.taken_off) for match in plain.values()} == {"0.0"}
    if not any(weights):
        assert {str(match.taken_off) for match in matches.values()} == {"0.0"}


@pytest.mark.parametrize("n_enrolled", [1, 5])
def test_of_a_few_artists_the_cohort_takes_off_too(store, encoder, n_enrolled):
    """Whom many of its voices come near has a lower llr, also where nobody else is enrolled; nobody a higher one."""
    persons = encoder.cohort.vectors[encoder.cohort.person == 3]
    for k in range(n_enrolled):
        enroll_vectors(store, encoder, f"Artist {k}", np.tile(persons, (6, 1)) if k == 0 else singer(k, 12, seed=k))
    track = make_voiceprint(singer(0, 10, spread=0.5, seed=70))
    plain = {match.artist: match for match in make_matcher(store, encoder)[0].match(track)}
    gallery = store.gallery()
    starts, _ = scoring.group_starts(gallery.artist_id)
    cohort = make_matcher(store, encoder)[0].cohort
    with_cohort = score_between(gallery.vectors, starts, gallery.vectors, starts, cohort).cohort
    level = float(np.sort(with_cohort[:, 0])[-3]) - 0.001  # three persons reach it with the first artist
    encoder.calibration = crowded(encoder.calibration, artist=99.0, cohort=level)

    matches = {match.artist: match for match in make_matcher(store, encoder)[0].match(track)}

    share = (31 - n_enrolled) / 30
    for column, name in enumerate(f"Artist {k}" for k in range(n_enrolled)):
        n_near = share * int((with_cohort[:, column] >= level).sum())
        expected = max(0.0, np.log10((n_near + 2) / (0.01 * (n_enrolled - 1 + 24 * share) + 2)))
        assert matches[name].taken_off == round(float(expected), 2)
        assert matches[name].llr == pytest.approx(plain[name].llr - expected, abs=0.0101)  # two are rounded
    assert matches["Artist 0"].taken_off > 0.2


@pytest.mark.usefixtures("crowd")
def test_of_a_long_track_a_match_says_what_was_taken_off_in_its_best_section(store, encoder):
    encoder.calibration = crowded(encoder.calibration, track=1.5)
    song, other = singer(0, 10, spread=0.5, seed=70), singer(6, 100, spread=0.3, seed=1)
    matcher, _ = make_matcher(store, encoder)
    alone = {match.artist: match.taken_off for match in matcher.match(make_voiceprint(song))}

    matches = {match.artist: match.taken_off for match in matcher.match(long_voiceprint([other, song]))}

    assert alone["Ada"] == matches["Ada"] == round(float(np.log10(4 / 2.04)), 2)


@pytest.mark.usefixtures("crowd")
def test_who_has_withdrawn_crowds_nobody_any_more(store, encoder):
    """At once, in a batch that runs, as if that voice had never been enrolled; and again once there is consent."""
    encoder.calibration = crowded(encoder.calibration, artist=1.5, track=1.5)
    track = make_voiceprint(singer(0, 10, spread=0.5, seed=70))
    matcher, _ = make_matcher(store, encoder)
    before = {match.artist: match for match in matcher.match(track)}

    after = matches_without(store, matcher, "Bo", track)

    assert [*after] == [name for name in before if name != "Bo"]
    assert {name: match.norm_score for name, match in after.items()} == {
        name: match.norm_score for name, match in before.items() if name != "Bo"
    }
    back = {name: after[name].llr - before[name].llr for name in after}
    one_less = np.log10(4 / 2.04) - np.log10(3 / 2.03)  # of two others near one is left
    for name in ("Ada", "Cy"):
        assert back[name] == pytest.approx(2 * one_less, abs=0.011)  # near the artist, and near the track
    assert all(0.05 < back[name] < one_less for name in ("Di", "Ed"))  # near the track only, of three one
    assert {match.artist: match for match in matcher.match(track)} == before
    withdraw_consent(store, "Bo")
    erase_artist(store, "Bo", print)
    anew, _ = make_matcher(store, encoder)
    assert {match.artist: match.llr for match in anew.match(track)} == {name: after[name].llr for name in after}


@pytest.mark.usefixtures("crowd")
def test_who_expires_meanwhile_crowds_nobody_any_more(store, encoder):
    encoder.calibration = crowded(encoder.calibration, artist=1.5, track=1.5)
    track = make_voiceprint(singer(0, 10, spread=0.5, seed=70))
    matcher, _ = make_matcher(store, encoder)
    without = matches_without(store, matcher, "Cy", track)
    with store.writing():
        store.db.execute("UPDATE consents SET expires_at = ? WHERE artist_id = 3", [PAST])

    expired, _ = make_matcher(store, encoder)

    assert {match.artist: match.llr for match in expired.match(track)} == {
        name: match.llr for name, match in without.items()
    }


@pytest.mark.usefixtures("crowd")
def test_what_comes_near_is_counted_among_all_and_not_among_the_candidates(store, encoder, monkeypatch):
    encoder.calibration = crowded(encoder.calibration, artist=1.5, track=1.5)
    track = make_voiceprint(singer(0, 10, spread=0.5, seed=70))
    of_all = {match.artist: match.llr for match in make_matcher(store, encoder)[0].match(track)}
    monkeypatch.setattr(match_module, "CANDIDATES", 1)

    (match,) = make_matcher(store, encoder)[0].match(track)

    assert match.llr == of_all[match.artist] < match.norm_score - 0.4


# --- long tracks ---


def long_voiceprint(sections: list[np.ndarray], section_s: float = 240.0) -> Voiceprint:
    """Voices one after the other, each from the beginning of a section of its own, windows of 4 s every 2 s."""
    start_s = np.concatenate([k * section_s + 2.0 * np.arange(len(voice)) for k, voice in enumerate(sections)])
    voiceprint = make_voiceprint(np.concatenate(sections))
    return replace(voiceprint, start_s=start_s, end_s=start_s + 4, duration_s=section_s * len(sections))


@pytest.mark.usefixtures("four_artists")
@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_voice_in_one_section_of_a_long_track_is_found_at_a_stricter_threshold(store, encoder, position):
    """A mix of twelve minutes in which Bo sings for twenty seconds, and nobody enrolled for the rest."""
    others = [singer(6, 100, spread=0.3, seed=k) for k in range(2)]
    voice = singer(1, 10, seed=5)
    track = long_voiceprint([*others[:position], voice, *others[position:]])
    encoder.calibration = fake_calibration(COHORT_ID, threshold=1.5)
    matcher, _ = make_matcher(store, encoder)

    scan = matcher.scan("mix.wav", track)

    (alone,) = [match for match in matcher.match(make_voiceprint(voice)) if match.artist == "Bo"]
    bo = scan.matches[0]
    assert (scan.verdict, bo.artist, bo.flagged) == ("flagged", "Bo", True)
    assert (bo.score, bo.norm_score, bo.llr) == (alone.score, alone.norm_score, alone.llr)
    assert scan.threshold == up(1.5 + 0.5 * np.log(3)) > matcher.threshold.llr == 1.5
    assert [match.flagged for match in scan.matches] == [True, False, False, False]
    assert scan.threshold_source == ("false-flag budget 3 % over 4 artists, shared by 3 sections; made up for tests")
    assert 240 * position <= bo.evidence[0].track_start_s < 240 * position + 20


@pytest.mark.usefixtures("four_artists")
def test_what_is_flagged_in_a_short_track_need_not_be_in_a_long_one(store, encoder):
    """The best of more sections is higher by chance, so each has less of the budget."""
    voice, other = singer(1, 10, spread=0.4, seed=5), singer(6, 100, spread=0.3, seed=1)
    matcher, _ = make_matcher(store, encoder)
    llr = matcher.match(make_voiceprint(voice))[0].llr
    encoder.calibration = fake_calibration(COHORT_ID, threshold=llr - 0.1)
    matcher, _ = make_matcher(store, encoder)

    short, long = (matcher.scan("a.wav", track) for track in (make_voiceprint(voice), long_voiceprint([voice, other])))

    assert (short.verdict, long.verdict) == ("flagged", "clear")
    assert (short.matches[0].llr, long.matches[0].llr) == (llr, llr)
    assert (short.matches[0].flagged, long.matches[0].flagged) == (True, False)
    assert long.reason.endswith(f"below the threshold {up(llr - 0.1 + 0.5 * np.log(2)):.2f}")


@pytest.mark.usefixtures("four_artists")
@pytest.mark.parametrize("near", [{}, {"artist": -2.0, "track": -1.0}])
def test_each_artist_has_the_scores_of_the_section_that_speaks_most_for_that_artist(store, encoder, near):
    """Also where others come near some sections more than others."""
    ada, bo = singer(0, 12, seed=5), singer(1, 30, seed=6)
    encoder.calibration = crowded(encoder.calibration, **near)
    matcher, _ = make_matcher(store, encoder)
    ranking = matcher.rank(make_voiceprint(ada), matcher.candidates(ada))
    assert ranking.measured[:, 2:].any(axis=0).tolist() == [bool(near)] * 2

    matches = {match.artist: match for match in matcher.match(long_voiceprint([ada, bo]))}

    alone = {}
    for voice in (ada, bo):
        for match in matcher.match(make_voiceprint(voice)):
            alone[match.artist] = max(alone.get(match.artist, (-9.0,)), (match.llr, match.norm_score, match.score))
    assert {name: (match.llr, match.norm_score, match.score) for name, match in matches.items()} == alone
    assert [match.rank for match in sorted(matches.values(), key=lambda match: -match.llr)] == [1, 2, 3, 4]


@pytest.mark.usefixtures("four_artists")
def test_a_track_of_five_minutes_is_one_section(store, encoder):
    matcher, _ = make_matcher(store, encoder)
    voice = make_voiceprint(singer(1, 10, seed=5))

    thresholds = [
        matcher.scan("a.wav", replace(voice, duration_s=seconds)).threshold for seconds in (SECTION_S, SECTION_S + 1)
    ]

    assert thresholds == [THRESHOLD, up(THRESHOLD + 0.5 * np.log(2))]


def test_at_most_five_artists_are_kept(store, encoder):
    for k in range(KEPT_MATCHES + 2):
        enroll_vectors(store, encoder, f"artist {k}", singer(k, seed=k))

    matches = make_matcher(store, encoder)[0].match(make_voiceprint(singer(3, seed=50)))

    assert [match.rank for match in matches] == [1, 2, 3, 4, 5]
    assert matches[0].artist == "artist 3"
    assert [match.llr for match in matches] == sorted((match.llr for match in matches), reverse=True)


def enroll_crowd(store, n_artists: int) -> np.ndarray:
    """Artists with two templates each, written without the work of enrolling; returns (n_artists, DIM) voices."""
    voices = unit(np.random.default_rng(0).standard_normal((n_artists, DIM)))
    with store.writing():
        for k, voice in enumerate(voices):
            vectors = unit(voice + 0.05 * np.random.default_rng(k).standard_normal((2, DIM)))
            add_reference(store, f"artist {k}", vectors, content_id=f"{k:064d}", templates=vectors)
    return voices


@pytest.mark.parametrize("near", [{}, {"artist": 2.0, "track": 1.5}])
def test_with_many_artists_the_index_finds_the_same_as_all_scores_would(store, encoder, monkeypatch, near):
    """Also where the crowd of expired artists, who are still in the index, would push others out of its answer."""
    encoder.calibration = crowded(encoder.calibration, **near)
    n_artists = CANDIDATES + 60
    voices = enroll_crowd(store, n_artists)
    with store.writing():
        store.db.execute("UPDATE consents SET expires_at = ? WHERE artist_id % 10 = 0", [PAST])
    by_index, _ = make_matcher(store, encoder)
    monkeypatch.setattr(match_module, "CANDIDATES", n_artists)
    by_all, _ = make_matcher(store, encoder)
    assert by_index.n_artists == by_all.n_artists == n_artists - n_artists // 10
    searched = []
    search = by_index._index.search
    monkeypatch.setattr(by_index._index, "search", lambda *args: searched.append(args) or search(*args))

    for k in (0, 57, 200, n_artists - 2):
        track = make_voiceprint(unit(voices[k] + 0.1 * np.random.default_rng(k).standard_normal((6, DIM))))
        best = by_all.match(track)
        monkeypatch.setattr(match_module, "CANDIDATES", CANDIDATES)
        found = by_index.match(track)
        monkeypatch.setattr(match_module, "CANDIDATES", n_artists)

        assert found[0].artist == f"artist {k}"
        assert found == best
    assert len(searched) == 4


def test_an_expired_artist_in_the_index_is_not_taken_for_the_next_one(store, encoder, monkeypatch):
    """The index still names Ada's templates, which would crowd out or be taken for Bo's, who come next."""
    for name, axis in (("Ada", 0), ("Bo", 5), ("Cy", 1)):
        enroll_vectors(store, encoder, name, singer(axis, seed=axis))
    with store.writing():
        store.db.execute("UPDATE consents SET expires_at = ? WHERE artist_id = 1", [PAST])
    monkeypatch.setattr(match_module, "CANDIDATES", 1)

    (match,) = make_matcher(store, encoder)[0].match(make_voiceprint(unit(np.eye(DIM)[:1] + 0.5 * np.eye(DIM)[1:2])))

    assert match.artist == "Cy"


def test_only_candidates_are_scored(store, encoder, monkeypatch):
    voices = enroll_crowd(store, 30)
    monkeypatch.setattr(match_module, "CANDIDATES", 3)
    monkeypatch.setattr(match_module, "NEIGHBOURS", 20)
    n_groups = []
    pool_scores = scoring.pool_scores

    def counting(windows: np.ndarray, templates: np.ndarray, starts: np.ndarray) -> np.ndarray:
        n_groups.append(len(starts))
        return pool_scores(windows, templates, starts)

    matcher, _ = make_matcher(store, encoder)
    monkeypatch.setattr(scoring, "pool_scores", counting)
    matches = matcher.match(make_voiceprint(voices[7:8]))

    assert n_groups[0] == 3
    assert (len(matches), matches[0].artist) == (3, "artist 7")


# --- evidence ---


@pytest.mark.usefixtures("four_artists")
def test_evidence_points_at_the_seconds_that_are_alike(store, encoder):
    """Bo sings in windows 5 to 7 of a track of Cy's: those, and not their neighbours, are to be listened to."""
    track = singer(2, 12, seed=60)
    track[5:8] = singer(1, 3, spread=0.05, seed=61)

    bo = next(m for m in make_matcher(store, encoder)[0].match(make_voiceprint(track)) if m.artist == "Bo")

    gallery = store.gallery()
    rows = np.flatnonzero(gallery.artist_id == bo.artist_id)
    similarity = track @ gallery.vectors[rows].T
    best = int(similarity.max(axis=1).argmax())
    assert best in (5, 6, 7)
    row = rows[similarity[best].argmax()]
    assert bo.evidence[0] == Evidence(
        track_start_s=2.0 * best,
        track_end_s=2.0 * best + 4,
        reference_id=2,
        reference="/music/Bo.wav",
        reference_start_s=float(gallery.start_s[row]),
        reference_end_s=float(gallery.start_s[row]) + 4,
        score=round(float(similarity.max()), 4),
    )


@pytest.mark.usefixtures("four_artists")
def test_evidence_does_not_overlap_and_is_best_first(store, encoder):
    for match in make_matcher(store, encoder)[0].match(make_voiceprint(singer(0, 25, spread=0.5, seed=9))):
        stretches = sorted((item.track_start_s, item.track_end_s) for item in match.evidence)
        assert len(stretches) == KEPT_EVIDENCE
        assert all(end <= start for (_, end), (start, _) in pairwise(stretches))
        scores = [item.score for item in match.evidence]
        assert scores == sorted(scores, reverse=True)


@pytest.mark.usefixtures("four_artists")
def test_a_track_of_one_window_has_one_piece_of_evidence(store, encoder):
    matches = make_matcher(store, encoder)[0].match(make_voiceprint(singer(0, 1)))

    assert [len(match.evidence) for match in matches] == [1] * 4


# --- what is matched ---


def test_artists_whose_consent_is_over_are_left_out_and_said(store, encoder):
    enroll_vectors(store, encoder, "Ada", singer(0))
    enroll_vectors(store, encoder, "Bo", singer(1))
    with store.writing():
        store.db.execute("UPDATE consents SET expires_at = ? WHERE artist_id = 1", [PAST])

    matcher, said = make_matcher(store, encoder)

    assert (matcher.n_artists, matcher.n_not_matched) == (1, 1)
    assert [match.artist for match in matcher.match(make_voiceprint(singer(0)))] == ["Bo"]
    assert said[1:] == [
        f"Ada: not matched, the consent on record expired on {PAST}; `likeness consents add` records another"
    ]
    scan = matcher.scan("a.wav", make_voiceprint(singer(0)))
    assert (scan.n_artists, scan.n_not_matched) == (1, 1)


def test_a_registry_of_expired_artists_clears_and_says_that_there_was_nobody(store, encoder):
    enroll_vectors(store, encoder, "Ada", singer(0))
    with store.writing():
        store.db.execute("UPDATE consents SET expires_at = ?", [PAST])

    scan = make_matcher(store, encoder)[0].scan("a.wav", make_voiceprint(singer(0)))

    assert (scan.verdict, scan.reason) == ("clear", "there is no artist to match with")
    assert (scan.n_artists, scan.n_not_matched) == (0, 1)


def test_before_anybody_is_enrolled_a_track_is_clear_and_nothing_is_written(store, encoder):
    matcher, said = make_matcher(store, encoder)

    scan = matcher.scan("a.wav", make_voiceprint(singer(0)))

    assert (scan.verdict, scan.n_artists, scan.matches, said) == ("clear", 0, (), [])
    assert not index_path(store.home).exists()


def test_a_matcher_is_pinned_to_the_registry_as_it_was(store, encoder):
    enroll_vectors(store, encoder, "Ada", singer(0))
    matcher, _ = make_matcher(store, encoder)
    enroll_vectors(store, encoder, "Bo", singer(1))
    rename_artist(store, "Ada", "Ada Vale")

    scan = matcher.scan("a.wav", make_voiceprint(singer(1)))

    assert (scan.store_revision, scan.n_artists, [match.artist for match in scan.matches]) == (1, 1, ["Ada"])
    assert make_matcher(store, encoder)[0].match(make_voiceprint(singer(1)))[0].artist == "Bo"


def test_a_reference_that_was_removed_since_is_not_named(store, encoder):
    enroll_vectors(store, encoder, "Ada", singer(0))
    matcher, _ = make_matcher(store, encoder)
    erase_reference(store, "Ada", 1, print)

    (match,) = matcher.match(make_voiceprint(singer(0)))

    assert {(item.reference_id, item.reference) for item in match.evidence} == {(1, "(removed)")}


def test_pending_references_are_not_matched(store, encoder):
    change_setting(store, REQUIRE_TWO_PERSONS, True)
    enroll_vectors(store, encoder, "Ada", singer(0))
    pending, _ = make_matcher(store, encoder)
    store.actor = "ida"
    approve_references(store, "Ada")
    approved, _ = make_matcher(store, encoder)

    assert (pending.n_artists, pending.n_not_matched, approved.n_artists) == (0, 0, 1)


# --- what ends while a batch runs ---


def test_a_consent_that_is_withdrawn_meanwhile_ends_the_matching_at_once(store, encoder):
    enroll_vectors(store, encoder, "Ada", singer(0))
    enroll_vectors(store, encoder, "Bo", singer(1))
    matcher, said = make_matcher(store, encoder)
    with Store(store.home) as other:  # another process, while a batch runs
        withdraw_consent(other, "Ada")
    before = [match.artist for match in matcher.match(make_voiceprint(singer(0)))]

    matcher.refresh()
    matcher.refresh()

    assert before == ["Ada", "Bo"]
    assert [match.artist for match in matcher.match(make_voiceprint(singer(0)))] == ["Bo"]
    assert (matcher.n_artists, matcher.n_not_matched, matcher.store_revision) == (1, 1, 2)
    (line,) = [line for line in said if line.startswith("Ada")]  # said once
    assert re.fullmatch(
        r"Ada: not matched, the consent on record was withdrawn on 20\S+Z; `likeness consents add` records another",
        line,
    )


def test_a_consent_that_is_given_again_brings_the_artist_back(store, encoder):
    """Nothing of what is matched has changed, so the run's pin holds."""
    enroll_vectors(store, encoder, "Ada", singer(0))
    matcher, _ = make_matcher(store, encoder)
    before = matcher.match(make_voiceprint(singer(0)))
    withdraw_consent(store, "Ada")
    matcher.refresh()
    assert matcher.match(make_voiceprint(singer(0))) == ()
    with store.writing():
        add_consent(store, 1, Consent("release-2"))

    matcher.refresh()

    assert matcher.match(make_voiceprint(singer(0))) == before
    assert (matcher.n_artists, matcher.n_not_matched) == (1, 0)


def test_a_consent_that_expires_meanwhile_ends_the_matching(store, encoder, monkeypatch):
    """Nobody writes anything at that moment; the clock alone says so."""
    enroll_vectors(store, encoder, "Ada", singer(0), consent=Consent("r", "2999-06-01T00:00:00Z"))
    matcher, _ = make_matcher(store, encoder)
    for module in (match_module, store_module):
        monkeypatch.setattr(module, "now", lambda: "2999-06-01T00:00:00Z")

    matcher.refresh()

    assert matcher.match(make_voiceprint(singer(0))) == ()
    assert (matcher.n_artists, matcher.n_not_matched) == (0, 1)


def test_an_artist_who_is_removed_meanwhile_is_not_matched_and_not_spoken_of(store, encoder):
    enroll_vectors(store, encoder, "Ada", singer(0))
    enroll_vectors(store, encoder, "Bo", singer(1))
    matcher, said = make_matcher(store, encoder)
    erase_artist(store, "Ada", print)
    n_said = len(said)

    matcher.refresh()

    assert [match.artist for match in matcher.match(make_voiceprint(singer(0)))] == ["Bo"]
    assert (matcher.n_artists, matcher.n_not_matched, said[n_said:]) == (1, 0, [])


def test_artists_enrolled_meanwhile_stay_out(store, encoder):
    enroll_vectors(store, encoder, "Ada", singer(0))
    matcher, _ = make_matcher(store, encoder)
    enroll_vectors(store, encoder, "Bo", singer(1))

    matcher.refresh()

    assert [match.artist for match in matcher.match(make_voiceprint(singer(1)))] == ["Ada"]


# --- the index ---


@pytest.mark.usefixtures("four_artists")
def test_a_missing_index_is_made_and_said_and_a_present_one_is_used_in_silence(store, encoder):
    _, said_first = make_matcher(store, encoder)
    _, said_next = make_matcher(store, encoder)

    assert ["there is no index file yet" in line for line in said_first] == [True]
    assert said_next == []


@pytest.mark.usefixtures("four_artists")
def test_a_damaged_index_changes_no_answer(store, encoder, monkeypatch):
    monkeypatch.setattr(match_module, "CANDIDATES", 2)
    track = make_voiceprint(singer(1, seed=5))
    write_store_index(store, lambda _: None)
    sound = make_matcher(store, encoder)[0].match(track)
    content = bytearray(index_path(store.home).read_bytes())
    content[-40] ^= 1
    index_path(store.home).write_bytes(content)

    matcher, said = make_matcher(store, encoder)

    assert matcher.match(track) == sound
    assert ["rebuilding the index from the store" in line for line in said] == [True]


def test_an_encrypted_registry_matches_as_a_plain_one_with_a_sealed_index(
    encrypted_store, encoder, tmp_path, monkeypatch
):
    monkeypatch.setattr(match_module, "CANDIDATES", 2)
    track = make_voiceprint(singer(1, seed=5))
    found = []
    with Store(tmp_path / "plain", create=True) as plain:
        for store in (plain, encrypted_store):
            for k, name in enumerate(["Ada", "Bo", "Cy"]):
                enroll_vectors(store, encoder, name, singer(k, 12, spread=0.4, seed=k))
            write_store_index(store, print)
            matcher, said = make_matcher(store, encoder)
            found.append((matcher.match(track), said))
        needle = plain.gallery().vectors[0][2:6].tobytes()

        assert found[0] == found[1]
        assert files_holding(plain.home, needle) != []
        assert files_holding(encrypted_store.home, needle) == []


# --- verdicts ---


@pytest.mark.usefixtures("four_artists")
def test_a_scan_says_what_was_decided_on_what_grounds(store, encoder):
    matcher, _ = make_matcher(store, encoder)
    voiceprint = replace(make_voiceprint(singer(1, 10, seed=5)), duration_s=22.00049, voiced_s=21.5)

    scan = matcher.scan("in/a.wav", voiceprint, run_id=7)

    assert replace(scan, matches=(), scanned_at="", reason="") == replace(
        scan,
        path="in/a.wav",
        verdict="flagged",
        reason="",
        duration_s=22.0,
        voiced_s=21.5,
        n_windows=10,
        n_artists=4,
        threshold=THRESHOLD,
        threshold_source="false-flag budget 3 % over 4 artists; made up for tests",
        budget=DEFAULT_BUDGET,
        calibration_id=Calibration.from_dict(encoder.calibration).calibration_id,
        encoder_id=ENCODER_ID,
        cohort_id=COHORT_ID,
        store_revision=4,
        content_id=voiceprint.content_id,
        scanned_at="",
        matches=(),
        scan_id=None,
        run_id=7,
        n_not_matched=0,
    )
    assert scan.matches == matcher.match(voiceprint)
    json.dumps(scan.as_dict())


@pytest.mark.usefixtures("four_artists")
def test_strangers_are_clear_and_keep_their_best_artists(store, encoder):
    scan = make_matcher(store, encoder)[0].scan("a.wav", make_voiceprint(singer(6, 10)))

    assert (scan.verdict, len(scan.matches)) == ("clear", 4)
    assert scan.matches[0].llr < scan.threshold
    assert [match.flagged for match in scan.matches] == [False] * 4


@pytest.mark.usefixtures("four_artists")
@pytest.mark.parametrize("n_windows", [0, 1])
def test_too_little_voice_abstains_and_names_nobody(store, encoder, n_windows):
    voiceprint = make_voiceprint(singer(0, n_windows) if n_windows else np.empty((0, DIM)), voiced_s=1.2 * n_windows)

    scan = make_matcher(store, encoder)[0].scan("a.wav", voiceprint)

    assert (scan.verdict, scan.matches, scan.n_windows) == ("abstained", (), n_windows)
    assert scan.reason == f"{voiceprint.voiced_s:.1f} s of voice found, at least 1.5 s is needed"


@pytest.mark.usefixtures("four_artists")
def test_a_match_at_the_threshold_is_flagged(store, encoder):
    voiceprint = make_voiceprint(singer(1, 10, seed=5))
    best = make_matcher(store, encoder)[0].match(voiceprint)[0].llr

    scans = [
        make_matcher(store, encoder, threshold=threshold)[0].scan("a.wav", voiceprint)
        for threshold in (best, best + 0.001)
    ]

    assert [(scan.verdict, scan.matches[0].flagged) for scan in scans] == [("flagged", True), ("clear", False)]


# --- thresholds and encoders ---


@pytest.mark.usefixtures("four_artists")
def test_the_threshold_keeps_the_budget_of_the_registry_or_of_the_caller_or_is_the_callers(store, encoder):
    change_setting(store, FALSE_FLAG_BUDGET, 0.003)

    thresholds = [
        make_matcher(store, encoder, **choice)[0].threshold
        for choice in ({}, {"budget": 0.01}, {"budget": 0.01, "threshold": 0.5})
    ]

    assert thresholds == [
        Threshold(
            *(up(THRESHOLD + 0.5 * np.log(10)), "false-flag budget 0.3 % over 4 artists; made up for tests"),
            budget=0.003,
        ),
        Threshold(
            *(up(THRESHOLD + 0.5 * np.log(3)), "false-flag budget 1 % over 4 artists; made up for tests"),
            budget=0.01,
        ),
        Threshold(0.5, "set by the caller"),
    ]


def test_the_threshold_is_over_the_artists_who_are_matched(store, encoder):
    """Not over those whose consent is over; and it stays one threshold when another consent ends meanwhile."""
    tail = {**encoder.calibration["tail"], "sizes": [1, 1000], "galleries": [1.0, 1000.0]}
    encoder.calibration = {**encoder.calibration, "tail": tail}
    thresholds = [make_matcher(store, encoder)[0].threshold]
    for k, name in enumerate(["Ada", "Bo", "Cy"]):
        enroll_vectors(store, encoder, name, singer(k))
        thresholds.append(make_matcher(store, encoder)[0].threshold)
    with store.writing():
        store.db.execute("UPDATE consents SET expires_at = ? WHERE artist_id = 1", [PAST])
    matcher, _ = make_matcher(store, encoder)
    pinned = matcher.threshold
    withdraw_consent(store, "Bo")
    matcher.refresh()

    assert [threshold.source.split(";")[0] for threshold in [*thresholds, pinned]] == [
        f"false-flag budget 3 % over {n} artists" for n in (1, 1, 2, 3, 2)
    ]
    assert [threshold.llr for threshold in thresholds] == [2.0, 2.0, 2.35, 2.55]  # nearly half of ln 2, ln 3
    assert pinned == thresholds[2] == matcher.threshold
    assert matcher.n_artists == 1


@pytest.mark.usefixtures("four_artists")
def test_a_budget_too_small_for_the_calibration_is_refused_unless_accepted_and_then_said(store, encoder):
    """The made-up strangers are a thousand: at 1e-5 one in a hundred of one of them."""
    track = make_voiceprint(singer(1, 10, seed=5))

    with pytest.raises(NoThreshold, match=r"budget 5e-06 over 4 artists: .* 2\.3 powers of ten beyond what 1000 stran"):
        Matcher(store, encoder, print, budget=5e-6)
    accepted = Matcher(store, encoder, print, budget=5e-6, accept_extrapolation=True).scan("a.wav", track)
    said = Matcher(store, encoder, print, budget=5e-5).scan("a.wav", track)
    not_said = Matcher(store, encoder, print, budget=2e-4).scan("a.wav", track)

    assert accepted.reason.endswith(" (threshold extrapolated)")
    assert said.reason.endswith(" (threshold extrapolated)")
    assert "extrapolated" not in not_said.reason + not_said.threshold_source
    assert [scan.threshold_source.split("; ")[1] for scan in (accepted, said)] == [
        f"threshold extrapolated {beyond} powers of ten beyond 1000 strangers" for beyond in ("2.3", "1.3")
    ]


@pytest.mark.usefixtures("four_artists")
def test_however_large_the_budget_nothing_is_flagged_that_is_not_slightly_more_probable(store, encoder):
    calibration = fake_calibration(COHORT_ID, threshold=-1.0)
    encoder.calibration = {**calibration, "llr": {**calibration["llr"], "intercept": -1.2}}
    track = make_voiceprint(singer(6, 10))
    llr = make_matcher(store, encoder)[0].match(track)[0].llr
    assert -1.0 < llr < LEAST_LLR

    scan = make_matcher(store, encoder)[0].scan("a.wav", track)

    assert (scan.verdict, scan.threshold) == ("clear", up(LEAST_LLR))
    assert make_matcher(store, encoder, threshold=llr)[0].scan("a.wav", track).verdict == "flagged"


@pytest.mark.usefixtures("four_artists")
def test_the_registrys_own_calibration_is_used_until_it_is_rolled_back(store, encoder):
    stricter = {**fake_calibration(COHORT_ID, threshold=9.0), "source": "our own songs"}
    own, its_encoders = Calibration.from_dict(stricter), Calibration.from_dict(encoder.calibration)
    track = make_voiceprint(singer(1, 10, seed=5))

    def decided() -> tuple[str, float, str, str]:
        scan = make_matcher(store, encoder)[0].scan("a.wav", track)
        return scan.verdict, scan.threshold, scan.threshold_source.split("; ")[1], scan.calibration_id

    before = decided()
    add_calibration(store, own)
    with_own = decided()
    roll_back(store)

    assert before == ("flagged", THRESHOLD, "made up for tests", its_encoders.calibration_id)
    assert with_own == ("clear", 9.0, "our own songs", own.calibration_id)
    assert decided() == before


def test_the_registrys_own_calibration_does_where_the_encoder_has_none(store, encoder):
    own = Calibration.from_dict(encoder.calibration)
    encoder.calibration = None
    add_calibration(store, own)

    assert find_calibration(store, encoder) == own


def test_a_calibration_of_the_registrys_for_another_encoder_or_way_of_scoring_is_passed_over(store, encoder):
    for change in ({"encoder_id": "0" * 64}, {"cohort_id": "0" * 64}, {"scoring": {"cohort_top": 1}}):
        add_calibration(store, Calibration.from_dict({**encoder.calibration, **change}))

    assert find_calibration(store, encoder) == encoder_calibration(encoder)
    assert encoder_calibration(encoder) == Calibration.from_dict(encoder.calibration)
    assert make_matcher(store, encoder)[1] == [
        "calibration 3: fitted for another way of scoring, so the encoder's own counts; "
        "`likeness calibrate` fits another"
    ]


def test_without_a_cohort_there_is_no_threshold_even_if_one_is_given(store, encoder):
    encoder.cohort = None

    for choice in ({}, {"threshold": 3.0}, {"budget": 0.1}):
        with pytest.raises(NoThreshold, match=r"encoder fake: has no cohort .*make one with scripts/fit_builtin\.py"):
            Matcher(store, encoder, print, **choice)


def test_without_a_calibration_nothing_is_decided_even_if_a_threshold_is_given(store, encoder):
    """A threshold is one on llr, and there is none."""
    encoder.calibration = None

    for choice in ({}, {"threshold": 3.0}, {"budget": 0.1}):
        with pytest.raises(NoThreshold, match=r"encoder fake: has no calibration, .* no evidence yet; .*`likeness cal"):
            Matcher(store, encoder, print, **choice)


@pytest.mark.parametrize("key", ["encoder_id", "cohort_id"])
def test_a_calibration_of_another_encoder_or_cohort_is_refused(store, encoder, key):
    """Its llr would be of other scores; a threshold by hand makes that no better."""
    encoder.calibration = {**encoder.calibration, key: "0" * 64}

    for choice in ({}, {"threshold": 1.0}):
        with pytest.raises(
            NoThreshold, match=rf"fitted for another {key[:-3]} \(000000000000, this is (f|c){{12}}\); run scripts/fit"
        ):
            Matcher(store, encoder, print, **choice)


def test_a_calibration_of_another_way_of_scoring_is_refused(encoder):
    encoder.calibration = {**encoder.calibration, "scoring": {"cohort_top": 1, "section_windows": 2}}

    with pytest.raises(NoThreshold, match=r"fitted for another way of scoring \(\{'cohort_top': 1,"):
        encoder_calibration(encoder)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"tail": None}, "its calibration cannot be used, its tail is not one"),
        ({"llr": {"slope": 1.0, "intercept": -1.5}}, "its calibration cannot be used, llr needs an intercept"),
    ],
)
def test_a_calibration_that_cannot_be_read_is_refused_with_the_next_step(encoder, change, match):
    encoder.calibration = {**encoder.calibration, **change}

    with pytest.raises(NoThreshold, match=rf"encoder fake: {match}.*; make another with scripts/fit_builtin\.py"):
        encoder_calibration(encoder)


def test_a_calibration_of_the_release_before_is_refused(encoder):
    known = ("encoder_id", "cohort_id", "scoring")
    encoder.calibration = {**{key: encoder.calibration[key] for key in known}, "threshold": 4.4, "llr": {}}

    with pytest.raises(NoThreshold, match="its calibration cannot be used, it has no source, tail"):
        encoder_calibration(encoder)


def test_another_encoder_than_the_registrys_is_refused(store, encoder):
    enroll_vectors(store, encoder, "Ada", singer(0))
    encoder.encoder_id = "0" * 64

    with pytest.raises(EncoderMismatch, match="vectors of different encoders cannot be compared"):
        Matcher(store, encoder, print)


@pytest.mark.parametrize("threshold", [float("nan"), float("inf")])
def test_a_threshold_that_is_no_number_is_refused(store, encoder, threshold):
    """Nothing is at or above NaN: every track would be clear."""
    with pytest.raises(NoThreshold, match=f"threshold {threshold}: a finite number is needed"):
        Matcher(store, encoder, print, threshold=threshold)


# --- the index file ---


@pytest.mark.usefixtures("four_artists")
def test_write_store_index_counts_what_it_wrote_and_removes_what_it_could_not_replace(store, monkeypatch):
    n_templates = len(store.gallery().vectors)
    said: list[str] = []

    assert (write_store_index(store, said.append), said) == (n_templates, [])

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(match_module, "write_index", fail)
    assert write_store_index(store, said.append) == n_templates
    assert said == [f"{index_path(store.home)}: not written (No space left on device); the next command makes it"]
    assert not index_path(store.home).exists()


def test_a_registry_without_vectors_has_no_index(store):
    assert write_store_index(store, print) == 0
    assert not index_path(store.home).exists()


def test_a_reference_that_is_removed_meanwhile_is_not_matched_any_more(store, encoder):
    enroll_vectors(store, encoder, "Ada", singer(0), content="one.wav")
    second = enroll_vectors(store, encoder, "Ada", singer(3), content="two.wav").reference_id
    voice = make_voiceprint(singer(3, seed=5))
    matcher, _ = make_matcher(store, encoder)
    before = matcher.match(voice)[0].norm_score
    with Store(store.home) as other:
        erase_reference(other, "Ada", second, lambda _: None)

    matcher.refresh()

    assert matcher.match(voice)[0].norm_score < before - 1
    assert {item.reference_id for item in matcher.match(voice)[0].evidence} == {second - 1}


def test_a_reference_whose_new_artist_withdraws_meanwhile_is_not_matched_any_more(store, encoder):
    enroll_vectors(store, encoder, "Ada", singer(0), content="one.wav")
    second = enroll_vectors(store, encoder, "Ada", singer(3), content="two.wav").reference_id
    voice = make_voiceprint(singer(3, seed=5))
    matcher, _ = make_matcher(store, encoder)
    with Store(store.home) as other:
        split_artist(other, "Ada", [second], "Bo")
        withdraw_consent(other, "Bo")

    matcher.refresh()

    assert {item.reference_id for item in matcher.match(voice)[0].evidence} == {second - 1}
