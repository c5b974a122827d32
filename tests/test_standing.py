from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from embeddings.model_dir import CALIBRATION, COHORT
from registry.calibration import Calibration
from registry.config import ENCODER_SOURCE, REQUIRE_TWO_PERSONS, change_setting
from registry.crowding import CREDIT, NEAR_SHARE
from registry.identity import merge_artists
from registry.lookalikes import note_lookalike
from registry.rights import withdraw_consent
from registry.standing import (
    Standing,
    collision_warnings,
    expected_shares,
    expected_text,
    find_standing,
    read_encoder_files,
    standing_text,
    what_would_help,
)
from registry.store import Store
from tests.fakes import (
    COHORT_ID,
    ENCODER_ID,
    THRESHOLD,
    FakeEncoder,
    crowded,
    enroll_vectors,
    fake_calibration,
    make_matcher,
    make_voiceprint,
    singer,
    write_fake_model,
)

#: llrs of tracks of enrolled voices, where that was measured.
FOUND = {"clean": [1.0, 2.0, 3.0], "+0 dB": [None, 0.0, 1.0, 2.5], "clones": [0.5, 1.0], "a new kind": [4.0]}


@pytest.fixture
def encoder() -> FakeEncoder:
    encoder = FakeEncoder()
    encoder.calibration = {**fake_calibration(COHORT_ID), "found": FOUND}
    return encoder


@pytest.fixture
def three(any_store, encoder) -> Store:
    """Ada and Bo, whose voices are alike, and Cy, who sounds like neither."""
    any_store.actor = "ida"
    for seed, (axis, name) in enumerate(((0, "Ada"), (0, "Bo"), (4, "Cy"))):
        enroll_vectors(any_store, encoder, name, singer(axis, seed=seed))
    return any_store


def standing_of(store: Store, encoder: FakeEncoder | None, name: str) -> Standing:
    return find_standing(store, store.artist(name), encoder)


def neighbours(store: Store, encoder: FakeEncoder, name: str) -> dict[str, bool]:
    """Neighbours in order, and whether each reaches the threshold."""
    return {one.artist: one.reaches_threshold for one in standing_of(store, encoder, name).neighbours or ()}


# --- neighbours ---


def test_neighbours_are_the_others_as_a_track_is_matched_with_them(three, encoder):
    matcher, _ = make_matcher(three, encoder)
    matches = matcher.match(make_voiceprint(singer(0, seed=0)))

    found = standing_of(three, encoder, "Ada")

    assert [(one.artist, one.reaches_threshold) for one in found.neighbours] == [("Bo", True), ("Cy", False)]
    of_track = {match.artist: (match.score, match.norm_score, match.llr, match.likeness) for match in matches}
    assert {one.artist: (one.score, one.norm_score, one.llr, one.likeness) for one in found.neighbours} == {
        name: scores for name, scores in of_track.items() if name != "Ada"
    }
    assert found.missing is None
    assert found.collision_threshold == found.song_threshold == matcher.threshold


def test_crowding_hides_no_neighbour(three, encoder):
    """One voice under many names would take its own likeness off otherwise."""
    for number, name in enumerate(("Di", "Ed", "Fay")):
        enroll_vectors(three, encoder, name, singer(0, seed=5 + number))
    plain = {one.artist: one.llr for one in standing_of(three, encoder, "Ada").neighbours}

    encoder.calibration = crowded(encoder.calibration, artist=2.0, track=1.0)

    matcher, _ = make_matcher(three, encoder)
    of_track = {match.artist: match.llr for match in matcher.match(make_voiceprint(singer(0, seed=0)))}
    assert {one.artist: one.llr for one in standing_of(three, encoder, "Ada").neighbours} == plain
    assert of_track["Di"] < plain["Di"] - 0.15


def test_references_share_the_budget_as_sections_of_a_track_do(three, encoder):
    for number in range(3):
        enroll_vectors(three, encoder, "Ada", singer(0, seed=10 + number), content=f"more {number}")

    found = standing_of(three, encoder, "Ada")

    assert found.collision_threshold == make_matcher(three, encoder)[0].rule.threshold(4)
    assert "shared by 4 sections" in found.collision_threshold.source
    assert found.collision_threshold.llr > found.song_threshold.llr == THRESHOLD


def test_who_is_not_matched_is_no_neighbour_and_has_none(three, encoder):
    withdraw_consent(three, "Bo")

    assert neighbours(three, encoder, "Ada") == {"Cy": False}
    of_bo = standing_of(three, encoder, "Bo")
    assert (of_bo.neighbours, of_bo.expected, of_bo.collision_threshold) == (None, (), None)
    assert str(of_bo.missing).startswith("Bo: not matched, the consent on record was withdrawn on 20")


def test_references_that_wait_for_approval_are_looked_at_and_are_no_neighbours(three, encoder):
    change_setting(three, REQUIRE_TWO_PERSONS, True)
    enroll_vectors(three, encoder, "Di", singer(4, seed=20))

    assert neighbours(three, encoder, "Di") == {"Cy": True, "Ada": False, "Bo": False}
    assert "Di" not in neighbours(three, encoder, "Cy")


def test_a_merged_artist_is_no_neighbour_of_its_own(three, encoder):
    merge_artists(three, "Ada", "Bo")

    assert neighbours(three, encoder, "Ada") == {"Cy": False}
    assert neighbours(three, encoder, "Cy") == {"Ada": False}


def test_the_only_artist_has_no_neighbours(any_store, encoder):
    enroll_vectors(any_store, encoder, "Ada", singer(0))

    found = standing_of(any_store, encoder, "Ada")

    assert (found.neighbours, found.missing) == ((), None)
    assert standing_text(found).startswith("Nearest enrolled neighbours: there is nobody to compare with\n")


# --- warnings ---


def test_a_neighbour_beyond_the_threshold_is_warned_of(three, encoder):
    found = standing_of(three, encoder, "Ada")

    (warning,) = collision_warnings("Ada", found)

    llr = found.neighbours[0].llr
    assert warning == (
        f"Ada: what is on record sounds like Bo (log10 likelihood ratio {llr:.2f}, threshold {THRESHOLD:.2f}); "
        "the same person under two names, or two alike voices? The latter is noted with "
        '`likeness artists note-lookalike "Ada" "Bo"`'
    )
    assert collision_warnings("Ada", found, {"Bo"}) == []  # said already
    assert collision_warnings("Cy", standing_of(three, encoder, "Cy")) == []


def test_a_lookalike_is_shown_as_one_and_not_warned_of(three, encoder):
    note_lookalike(three, "Bo", "Ada", "sisters")

    found = standing_of(three, encoder, "Ada")

    assert [(one.artist, one.reaches_threshold, one.is_lookalike) for one in found.neighbours] == [
        ("Bo", True, True),
        ("Cy", False, False),
    ]
    assert collision_warnings("Ada", found) == []
    assert [(one.artist, one.note, one.noted_by) for one in found.lookalikes] == [("Bo", "sisters", "ida")]


# --- what may be found ---


def test_the_share_that_may_be_found_is_what_was_measured(three, encoder):
    found = standing_of(three, encoder, "Cy")

    assert [(share.probe, share.heard, share.found_percent) for share in found.expected] == [
        ("clean", "singing alone", 67),
        ("+0 dB", "singing over music as loud as it", 25),
        ("clones", "good imitations (clones)", 0),
        ("a new kind", "a new kind", 100),
    ]
    assert expected_text(found) == (
        "the present threshold 2.00 found 67 % of singing alone, 25 % of singing over music as loud as it, 0 % of good "
        "imitations (clones), 100 % of a new kind; measured on other voices (made up for tests), no promise for this "
        "one"
    )


def test_a_calibration_that_does_not_say_promises_nothing(three):
    found = standing_of(three, FakeEncoder(), "Ada")

    assert (found.expected, expected_text(found)) == ((), "")
    assert "Share of tracks" not in standing_text(found)


@pytest.mark.parametrize(("threshold", "percent"), [(0.0, 75), (0.001, 50), (2.5, 25), (9.0, 0)])
def test_a_track_at_the_threshold_is_found_and_one_that_abstained_is_not(threshold, percent):
    calibration = Calibration.from_dict({**fake_calibration(COHORT_ID), "found": {"+0 dB": FOUND["+0 dB"]}})

    (share,) = expected_shares(calibration, threshold)

    assert share.found_percent == percent


# --- what would help ---


def advice_for(store: Store, encoder: FakeEncoder, *lengths: tuple[int, float]) -> list[str]:
    """What is said to an artist of references of so many windows and seconds of voice."""
    for number, (n_windows, voiced_s) in enumerate(lengths):
        vectors = singer(number % 8, n_windows, seed=number)
        enroll_vectors(store, encoder, "Eve", vectors, content=f"{number}", force_reason="styles")
        with store.writing():
            store.db.execute("UPDATE artist_references SET voiced_s = ? WHERE reference_id = ?", [voiced_s, number + 1])
    return what_would_help(store.artist("Eve"), store.references("Eve"))


CHECKED = "whether they are all of one voice is checked from the third reference on, and there {}"
LITTLE = "{} s of voice are on record: 30 s are the least to aim at, 60 s and more a good start"
MORE = "{} s of voice are on record: 60 s and more are a good start"
ONE_TEMPLATE = "one template stands for all: recordings in another style or register than these would get their own"
SHORT = "every reference is short, of less than 6 windows: a longer one can be checked more strictly"


@pytest.mark.parametrize(
    ("lengths", "advice"),
    [
        ([(3, 8.0)], [CHECKED.format("is 1"), LITTLE.format(8), ONE_TEMPLATE, SHORT]),
        ([(6, 29.9), (6, 0.0)], [CHECKED.format("are 2"), LITTLE.format(30)]),
        ([(6, 30.0), (2, 0.0), (2, 0.0)], [MORE.format(30)]),
        ([(5, 20.0)] * 3, [SHORT]),
        ([(6, 20.0)] * 3, []),
    ],
)
def test_what_would_help_is_said_by_what_is_on_record(store, encoder, lengths, advice):
    assert advice_for(store, encoder, *lengths) == advice


def test_references_that_wait_for_their_audio_are_not_counted(store, encoder):
    advice_for(store, encoder, *[(6, 20.0)] * 3)
    waiting = [replace(reference, status="waiting") for reference in store.references("Eve")]

    assert what_would_help(store.artist("Eve"), waiting)[:2] == [CHECKED.format("are 0"), LITTLE.format(0)]


# --- without the encoder ---


def use_model(store: Store, directory: Path) -> None:
    with store.writing():
        store.set_setting(ENCODER_SOURCE, str(directory))


def test_what_lies_beside_the_encoder_is_enough(three, tmp_path):
    model = write_fake_model(tmp_path / "model")
    use_model(three, model)

    files = read_encoder_files(three)
    loaded = FakeEncoder(model)

    assert (files.source, files.encoder_id) == (str(model), ENCODER_ID)
    assert files.cohort is not None and loaded.cohort is not None
    assert (files.cohort.cohort_id, files.calibration) == (loaded.cohort.cohort_id, loaded.calibration)
    assert standing_of(three, None, "Ada") == standing_of(three, loaded, "Ada")
    assert standing_of(three, None, "Ada").missing is None


@pytest.mark.parametrize(
    ("gone", "message"), [(COHORT, "has no cohort to normalise scores with"), (CALIBRATION, "has no calibration")]
)
def test_without_cohort_or_calibration_the_rest_is_shown(three, tmp_path, gone, message):
    model = write_fake_model(tmp_path / "model")
    (model / gone).unlink()
    use_model(three, model)
    note_lookalike(three, "Ada", "Cy", "sisters")

    found = standing_of(three, None, "Ada")

    assert found.missing is not None and message in found.missing
    assert (found.neighbours, found.expected, found.measured_on) == (None, (), None)
    assert standing_text(found).startswith("Noted as sounding alike:\n  Cy: sisters (ida, 20")
    assert "What more references would help:\n  whether they are" in standing_text(found)


def test_an_encoder_that_is_not_here_is_said_and_not_fetched(three, tmp_path):
    use_model(three, tmp_path / "gone")

    found = standing_of(three, None, "Ada")

    assert found.missing == (
        f"{tmp_path / 'gone'}: neither a directory nor a hub id such as speechbrain/spkrec-ecapa-voxceleb"
    )
    assert found.neighbours is None


# --- as text and JSON ---


def test_as_text_all_of_it_can_be_read(three, encoder):
    note_lookalike(three, "Ada", "Bo", "sis\x1bters")
    found = standing_of(three, encoder, "Ada")
    bo, cy = found.neighbours

    lines = standing_text(found).splitlines()

    (alike,) = found.lookalikes
    assert lines == [
        "Nearest enrolled neighbours, nothing taken off; * reaches the threshold 2.00 (false-flag budget 3 % over 3 "
        "artists; made up for tests):",
        f" *1. Bo: log10 likelihood ratio +{bo.llr:.2f}, norm score {bo.norm_score:.2f}, cosine {bo.score:.3f}; noted "
        "as sounding alike",
        f"     {bo.likeness}",
        f"  2. Cy: log10 likelihood ratio {cy.llr:+.2f}, norm score {cy.norm_score:.2f}, cosine {cy.score:.3f}",
        "",
        "Noted as sounding alike:",
        f"  Bo: sis\\x1bters (ida, {alike.noted_at})",
        "",
        "Share of tracks that the present threshold 2.00 found, measured on other voices (made up for tests), no "
        "promise for this one:",
        "   67 %  singing alone",
        "   25 %  singing over music as loud as it",
        "    0 %  good imitations (clones)",
        "  100 %  a new kind",
        "",
        "What more references would help:",
        f"  {CHECKED.format('is 1')}",
        f"  {LITTLE.format(18)}",
    ]


def test_what_crowding_takes_off_is_told(three, encoder):
    """Bo's voice comes near Ada: one of the two others, and of the 24 of the cohort for the 28 missing to 30 nobody."""
    weights = {"norm_score": 1.0, "accompaniment": 0.0, "artist_crowding": -1.0, "track_crowding": -1.0}
    encoder.calibration = {
        **encoder.calibration,
        "llr": {"weights": weights, "intercept": 0.0},
        "near": {"artist": 2.0, "track": 1e9, "cohort": 1e9},
    }

    ada, cy = (standing_of(three, encoder, name) for name in ("Ada", "Cy"))

    expected = round(float(np.log10((1 + CREDIT) / ((2 + 24 * 28 / 30) * NEAR_SHARE + CREDIT))), 2)
    assert (ada.taken_off, cy.taken_off) == (expected, 0.0)
    assert f"more often than usual: {expected:.2f} is taken off" in standing_text(ada)
    assert "is taken off" not in standing_text(cy) and "taken off first" not in standing_text(cy)
    said = f"the present threshold 2.00, {expected:.2f} taken off first, found"
    assert said in standing_text(ada) and expected_text(ada).startswith(said)


def test_names_of_strangers_cannot_steer_a_terminal(three, encoder):
    bad = "\x1b[2J\u202e"
    found = standing_of(three, encoder, "Ada")
    found = replace(found, neighbours=tuple(replace(one, artist=bad) for one in found.neighbours), measured_on=bad)

    assert "\x1b" not in standing_text(found) and "\u202e" not in standing_text(found)
    assert standing_text(found).count("\\x1b[2J\\u202e") == 3


def test_as_json_it_has_the_fields_of_its_records(three, encoder):
    note_lookalike(three, "Ada", "Bo")
    found = standing_of(three, encoder, "Ada")

    assert found.as_dict() == {
        "neighbours": [asdict(one) for one in found.neighbours],
        "neighbours_threshold": {
            "llr": 2.0,
            "source": "false-flag budget 3 % over 3 artists; made up for tests",
        },
        "taken_off": 0.0,
        "lookalikes": [asdict(one) for one in found.lookalikes],
        "expected_found": {
            "threshold": {"llr": 2.0, "source": "false-flag budget 3 % over 3 artists; made up for tests"},
            "measured_on": "made up for tests",
            "shares": [asdict(share) for share in found.expected],
        },
        "what_would_help": list(found.what_would_help),
        "neighbours_missing": None,
    }
