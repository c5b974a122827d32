from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from registry import match as match_module
from registry import scoring
from registry.errors import ConsentMissing, RegistryError, UnknownArtist
from registry.explain import OtherArtist, Part, check_matched, explain, explanation_text
from registry.identity import rename_artist
from registry.match import Matcher
from registry.rights import withdraw_consent
from registry.store import Store
from tests.fakes import (
    COHORT_ID,
    THRESHOLD,
    FakeEncoder,
    crowded,
    enroll_vectors,
    fake_calibration,
    make_voiceprint,
    singer,
    table_counts,
)

#: In turn others and Ada, who lies along axis 0: her voice is in the second half.
SONG = np.concatenate([singer(5, 12, spread=0.3, seed=50), singer(0, 12, spread=0.5, seed=51)])


class MusicEncoder(FakeEncoder):
    """Has a cohort that knows which of its rows are over music, and a calibration that weighs it."""

    def __init__(self) -> None:
        super().__init__()
        cohort = self.cohort
        condition = np.where(np.arange(len(cohort.vectors)) % 3 == 0, "sung+music", "sung")
        self.cohort = replace(cohort, condition=condition)
        weights = {"norm_score": 0.9, "accompaniment": 7.0}
        self.calibration = {**fake_calibration(COHORT_ID), "llr": {"weights": weights, "intercept": -0.25}}


@pytest.fixture
def encoder() -> FakeEncoder:
    return MusicEncoder()


@pytest.fixture
def artists(any_store, encoder) -> Store:
    for axis, name in enumerate(["Ada", "Bo", "Cy"]):
        enroll_vectors(any_store, encoder, name, singer(axis, 12, spread=0.3, seed=axis))
    return any_store


@pytest.fixture
def matcher(artists, encoder) -> Matcher:
    return Matcher(artists, encoder, lambda _: None)


def explained(store: Store, matcher: Matcher, voiceprint, name: str = "Ada"):
    return explain(store, matcher, "in/a.wav", voiceprint, check_matched(store, name))


@pytest.mark.parametrize("name", ["Ada", "Bo", "Cy"])
@pytest.mark.parametrize("duration_s", [50.0, 700.0])
def test_the_numbers_are_those_of_a_query(artists, matcher, name, duration_s):
    voiceprint = replace(make_voiceprint(SONG), duration_s=duration_s)
    scan = matcher.scan("in/a.wav", voiceprint)

    found = explained(artists, matcher, voiceprint, name)

    (match,) = [match for match in scan.matches if match.artist == name]
    steps = found.steps
    assert (found.rank, steps.score, steps.norm_score, steps.llr, steps.likeness, found.flagged) == (
        *(match.rank, match.score, match.norm_score, match.llr, match.likeness, match.flagged),
    )
    for field in (
        *("path", "verdict", "reason", "duration_s", "voiced_s", "n_windows", "threshold", "threshold_source"),
        *("budget", "n_artists", "encoder_id", "cohort_id", "calibration_id", "store_revision", "content_id"),
    ):
        assert getattr(found, field) == getattr(scan, field), field
    assert found.llr_beyond == round(match.llr - scan.threshold, 3)
    other = next(match for match in scan.matches if match.artist != name)
    assert found.best_other == OtherArtist(other.artist, other.rank, other.llr, other.flagged)
    assert (found.artist, found.n_scored, found.is_enough_voice) == (name, 3, True)


@pytest.mark.parametrize("near", [{}, {"artist": -1.0, "track": -1.0}])
def test_each_step_leads_to_the_next(artists, encoder, near):
    """Also where others come near, the artist and the track."""
    encoder.calibration = crowded(encoder.calibration, **near)
    matcher = Matcher(artists, encoder, lambda _: None)
    steps = explained(artists, matcher, make_voiceprint(SONG)).steps

    centred = steps.score - (steps.track_centre + steps.artist_centre) / 2
    assert steps.norm_score == pytest.approx(centred / steps.spread, abs=2e-3)
    assert [part.measure for part in steps.parts] == [
        *("norm_score", "accompaniment", "artist_crowding", "track_crowding")
    ]
    assert [part.weight for part in steps.parts] == [0.9, 7.0, -1.0, -1.0]
    assert steps.parts[0].value == pytest.approx(steps.norm_score, abs=1e-3)
    assert abs(steps.parts[1].value) > 0.001
    assert [part.value > 0.1 for part in steps.parts[2:]] == [bool(near)] * 2
    for part in steps.parts:
        assert part.adds == pytest.approx(part.value * part.weight, abs=1e-3)
    assert sum(part.adds for part in steps.parts) + steps.intercept == pytest.approx(steps.llr, abs=0.006)


def test_what_others_near_take_off_is_said_as_they_are_counted(artists, encoder):
    """All three are near one another, and of the track: of Ada two others of two, and of the cohort nobody."""
    encoder.calibration = crowded(encoder.calibration, artist=-9.0, track=-9.0)
    matcher = Matcher(artists, encoder, lambda _: None)

    found = explained(artists, matcher, make_voiceprint(SONG))

    # Of the cohort of 24 so much is compared with an artist as stands in for the 28 others that are missing to 30.
    of_artist, of_track = (round(float(np.log10(4 / (2 + 0.01 * n))), 4) for n in (2 + 24 * 28 / 30, 2))
    assert found.steps.parts[2:] == (
        Part("artist_crowding", of_artist, -1.0, -of_artist),
        Part("track_crowding", of_track, -1.0, -of_track),
    )
    lines = explanation_text(found).splitlines()
    for whom, off, times in (("artist", of_artist, "1.8"), ("track", of_track, "2.0")):
        said = f"{-off:+.2f}  {whom}_crowding {off:.4g} times -1: {times} times as many other voices near the {whom} as"
        assert sum(f"{said} expected" in line for line in lines) == 1


def test_where_nobody_is_near_nothing_is_taken_off_without_a_sign(artists, encoder):
    encoder.calibration = crowded(encoder.calibration)

    found = explained(artists, Matcher(artists, encoder, lambda _: None), make_voiceprint(SONG))

    assert [str(part.adds) for part in found.steps.parts[2:]] == ["0.0", "0.0"]
    assert explanation_text(found).count("   +0.00  ") == 2
    assert "track_crowding 0: no more other voices near the track than expected" in explanation_text(found)


def test_the_centres_and_the_cosine_equal_a_plain_computation(artists, matcher, encoder):
    """By DESIGN's words: means of what the cohort's persons score with the stretches and with the artist."""
    steps = explained(artists, matcher, make_voiceprint(SONG)).steps

    def mean(rows: np.ndarray) -> np.ndarray:
        return rows.sum(axis=0) / np.linalg.norm(rows.sum(axis=0))

    persons = [encoder.cohort.vectors[encoder.cohort.person == person] for person in np.unique(encoder.cohort.person)]
    gallery = artists.gallery()
    templates = gallery.vectors[gallery.artist_id == 1]
    stretches = [mean(SONG[first : first + 8]) for first in (0, 8, 16)]
    assert steps.score == pytest.approx(max((stretch @ templates.T).max() for stretch in stretches), abs=1e-4)
    with_track = [max((stretch @ person.T).max() for stretch in stretches) for person in persons]
    assert steps.track_centre == pytest.approx(np.mean(with_track), abs=1e-4)
    with_artist = [(mean(templates) @ person.T).max() for person in persons]
    assert steps.artist_centre == pytest.approx(np.mean(with_artist), abs=1e-4)


def test_the_stretch_is_the_one_in_which_the_artist_sings_and_the_reference_is_named(artists, matcher):
    """24 windows are three stretches of eight, and Ada has the last to herself."""
    steps = explained(artists, matcher, make_voiceprint(SONG)).steps

    assert (steps.stretch_start_s, steps.stretch_end_s, steps.stretch_windows) == (32.0, 50.0, 8)
    assert (steps.section, steps.section_start_s, steps.section_end_s) == (1, 0.0, 50.0)
    assert (steps.reference_id, steps.reference) == (1, "/music/Ada.wav")
    assert steps.reference_end_s - steps.reference_start_s == 4.0


def test_of_a_long_track_the_best_section_is_said(artists, matcher):
    """The voice of Ada begins at 400 s of 900."""
    song = make_voiceprint(SONG)
    shift_s = np.where(np.arange(24) < 12, 0.0, 400.0 - 24.0)
    voiceprint = replace(song, start_s=song.start_s + shift_s, end_s=song.end_s + shift_s, duration_s=900.0)

    found = explained(artists, matcher, voiceprint)

    steps = found.steps
    assert (found.n_sections, steps.section, steps.section_start_s, steps.section_end_s) == (3, 2, 300.0, 600.0)
    assert steps.stretch_start_s >= 400.0
    assert "5:00.0 to 10:00.0, the best of 3 sections, which share the budget" in explanation_text(found)
    assert found.threshold == matcher.rule.threshold(3).llr > matcher.threshold.llr


def test_too_little_voice_is_the_whole_explanation(artists, matcher):
    found = explained(artists, matcher, make_voiceprint(SONG[:2], voiced_s=1.0))

    assert (found.verdict, found.is_enough_voice, found.steps, found.rank) == ("abstained", False, None, None)
    assert (found.best_other, found.llr_beyond, found.flagged, found.n_scored) == (None, None, False, 0)
    assert explanation_text(found).splitlines() == [
        "in/a.wav, and Ada: nothing is said, for 1.0 s of voice found, at least 1.5 s is needed",
        "",
        "voice      1.0 s in 6.0 s (17 %), 2 windows; at least 1.5 s is needed",
        "threshold  2.00: false-flag budget 3 % over 3 artists; made up for tests",
        "verdict    track abstained: 1.0 s of voice found, at least 1.5 s is needed",
    ]


def test_a_recording_without_a_window_is_explained_too(artists, matcher):
    empty = make_voiceprint(np.empty((0, 8), np.float32))

    found = explained(artists, matcher, replace(empty, voiced_s=3.0))

    assert (found.verdict, found.duration_s, found.voiced_percent, found.steps) == ("clear", 0.0, 0, None)
    assert "and Ada: no stretch of voice to score" in explanation_text(found)


def test_an_artist_whom_the_index_does_not_name_is_scored_and_has_no_rank(artists, matcher, monkeypatch):
    """What it would have scored tells whether the index, or the voice, is the reason."""
    voiceprint = make_voiceprint(SONG)
    by_all = {name: explained(artists, matcher, voiceprint, name) for name in ("Ada", "Bo", "Cy")}
    worst = max(by_all, key=lambda name: by_all[name].rank)
    monkeypatch.setattr(match_module, "CANDIDATES", 2)
    named = matcher.candidates(voiceprint.vectors).artist_id
    (left_out,) = {1, 2, 3} - set(named.tolist())
    assert left_out == by_all[worst].artist_id

    found = explained(artists, matcher, voiceprint, worst)

    assert (found.rank, found.n_scored, found.n_artists, found.flagged) == (None, 2, 3, False)
    assert found.steps == by_all[worst].steps
    assert found.best_other == by_all[worst].best_other
    text = explanation_text(found)
    assert "not scored, for the index names 2 artists for this track, nearer ones; log10 likelihood ratio" in text
    assert "ranking    not among the 2 artists scored, of 3 who are matched" in text


def test_with_one_artist_there_is_no_other(any_store, encoder):
    enroll_vectors(any_store, encoder, "Ada", singer(0))
    matcher = Matcher(any_store, encoder, lambda _: None)

    found = explained(any_store, matcher, make_voiceprint(SONG))

    assert (found.rank, found.n_scored, found.best_other) == (1, 1, None)
    assert "best other" not in explanation_text(found)


def test_what_is_missing_and_what_is_beyond_is_said(artists, encoder):
    voiceprint = make_voiceprint(SONG)
    llr = explained(artists, Matcher(artists, encoder, lambda _: None), voiceprint).steps.llr

    missing, beyond = (
        explained(artists, Matcher(artists, encoder, lambda _: None, threshold=threshold), voiceprint)
        for threshold in (llr + 0.5, llr - 0.25)
    )

    assert (missing.flagged, missing.llr_beyond, missing.verdict) == (False, -0.5, "clear")
    assert (beyond.flagged, beyond.llr_beyond, beyond.verdict) == (True, 0.25, "flagged")
    assert f"not flagged, log10 likelihood ratio {llr:.2f} is 0.50 below the threshold" in explanation_text(missing)
    assert f": flagged, log10 likelihood ratio {llr:.2f} is 0.25 beyond the threshold" in explanation_text(beyond)
    assert missing.threshold_source == "set by the caller"


def test_a_threshold_of_three_decimals_is_not_rounded_to_what_it_is_compared_with(artists, encoder):
    llr = explained(artists, Matcher(artists, encoder, lambda _: None), make_voiceprint(SONG)).steps.llr
    matcher = Matcher(artists, encoder, lambda _: None, threshold=llr + 0.004)

    text = explanation_text(explained(artists, matcher, make_voiceprint(SONG)))

    assert f"not flagged, log10 likelihood ratio {llr:.2f} is 0.004 below the threshold {llr + 0.004:.3f}\n" in text


def test_the_text_has_every_step(artists, matcher):
    found = explained(artists, matcher, make_voiceprint(SONG))

    lines = explanation_text(found).splitlines()

    steps = found.steps
    assert [line.split()[0] for line in lines if line and not line.startswith(" ")][1:] == [
        *("voice", "section", "stretch", "score", "evidence", "threshold", "ranking", "verdict"),
    ]
    for expected in (
        f"{steps.score:.4f}  cosine of the two",
        f"{steps.norm_score:.3f}  norm score",
        f"{steps.parts[1].adds:+.2f}  accompaniment {steps.parts[1].value:.4g} times 7",
        "-0.25  intercept",
        f"{steps.llr:+.2f}  log10 likelihood ratio",
        "0:32.0 to 0:50.0, 8 windows",
        "/music/Ada.wav",
        "rank 1 of 3 artists scored",
        f"best other: {found.best_other.artist}, rank 2, {found.best_other.llr:+.2f}",
    ):
        assert any(expected in line for line in lines), expected


def test_strangers_text_is_escaped(artists, matcher):
    rename_artist(artists, "Ada", "Ada\u202e")

    text = explanation_text(explain(artists, matcher, "in/\x1b[2J.wav", make_voiceprint(SONG), 1))

    assert text.startswith("in/\\x1b[2J.wav, and Ada\\u202e: ")
    assert "\x1b" not in text


def test_nothing_is_kept(artists, matcher):
    before = table_counts(artists)

    explained(artists, matcher, make_voiceprint(SONG))

    assert table_counts(artists) == before


# -- who is not matched ------------------------------------------------------------------------------------------------


def test_an_unknown_artist_is_refused(artists):
    with pytest.raises(UnknownArtist, match="Adda: not enrolled; did you mean Ada"):
        check_matched(artists, "Adda")


def test_an_artist_without_a_consent_in_force_is_refused(artists):
    withdraw_consent(artists, "Ada")

    with pytest.raises(
        ConsentMissing, match=r"Ada: not matched, the consent on record was withdrawn on .*`likeness con"
    ):
        check_matched(artists, "Ada")


def test_an_artist_whose_references_wait_is_refused(artists):
    with artists.writing():
        artists.db.execute("UPDATE artist_references SET status = 'pending' WHERE artist_id = 1")
        artists.db.execute("DELETE FROM templates WHERE artist_id = 1")

    with pytest.raises(RegistryError, match=r"Ada: not matched, none of its references is in use: they wait for some"):
        check_matched(artists, "Ada")


def test_an_artist_is_found_by_any_name(artists):
    assert check_matched(artists, "ADA") == 1


def test_the_threshold_is_the_one_of_the_fake(matcher):
    assert matcher.threshold.llr == THRESHOLD
    assert scoring.STRETCH_WINDOWS == 8  # what the stretches above are counted by
