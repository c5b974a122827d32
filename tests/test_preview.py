from __future__ import annotations

import pytest

from registry.calibration import Calibration, Rule
from registry.errors import RegistryError
from registry.match import Matcher
from registry.preview import Change, Preview, preview_budgets
from registry.records import Consent
from registry.redecide import decide_run
from registry.rights import count_matched, withdraw_consent
from registry.scans import find_scans
from registry.store import Store
from registry.tail import share_above
from tests.fakes import COHORT_ID, enroll_vectors, fake_calibration, make_voiceprint, singer
from tests.kept_runs import CALIBRATION, TRACKS, examine

BUDGETS = (0.001, 0.03, 0.3)


def say_nothing(line: str) -> None:
    raise AssertionError(f"nothing is to be said, and not: {line}")


@pytest.fixture
def artists(store, encoder) -> Store:
    for axis, name in enumerate(["Ada", "Bo", "Cy"]):
        enroll_vectors(store, encoder, name, singer(axis, 12, seed=axis))
    return store


@pytest.fixture
def run(artists, encoder):
    return examine(artists, encoder)


def test_counts_are_what_deciding_again_gives(artists, run):
    """Tracks count once, whatever a manifest names twice: by the newest scan."""
    found = preview_budgets(artists, CALIBRATION, BUDGETS, say_nothing)

    assert [preview.n_scans for preview in found] == [len(TRACKS)] * 3
    for preview in found:
        decided = decide_run(artists, run.run_id, CALIBRATION, preview.budget, say_nothing)
        flagged = {scan.path for scan in find_scans(artists, run_id=decided.run_id) if scan.verdict == "flagged"}
        assert len(flagged) == preview.n_flagged
        assert preview.threshold == decided.threshold
    assert [(preview.n_flagged, preview.n_come, preview.n_go) for preview in found] == [(0, 0, 1), (1, 0, 0), (3, 2, 0)]


def test_a_budget_has_its_threshold_over_the_artists_of_now_and_what_the_calibration_says_of_it(artists, run, encoder):
    found = {"clean": [None, 1.0, 2.0, 3.0], "clones": [1.0, 4.0]}
    calibration = Calibration.from_dict({**fake_calibration(COHORT_ID), "found": found})
    enroll_vectors(artists, encoder, "Di", singer(3, 12, seed=3))

    (preview,) = preview_budgets(artists, calibration, [0.03], lambda _: None)

    threshold = Rule(calibration, 0.03, 4).threshold(1)
    assert preview == Preview(
        budget=0.03,
        threshold=threshold.llr,
        threshold_source="false-flag budget 3 % over 4 artists; made up for tests",
        n_artists=4,
        n_scans=0,  # of another calibration, all
        n_flagged=0,
        n_come=0,
        n_go=0,
        fpir=round(share_above(calibration.tail, threshold.llr, 4), 6),
        fnir={"clean": 0.5, "clones": 0.5},
        decades_beyond=0.0,
        is_extrapolated=False,
        is_refused=False,
        changes=(),
    )


def test_each_change_says_whose_flag_it_is(artists, run):
    strict, large = preview_budgets(artists, CALIBRATION, [0.001, 0.3], say_nothing)

    scans = {scan.path: scan for scan in find_scans(artists)}
    ada = scans["ada.wav"]
    assert strict.changes == (
        Change(
            flag="goes",
            path="ada.wav",
            artist="Ada",
            llr=ada.matches[0].llr,
            threshold=strict.threshold,
            threshold_before=2.0,
            content_id=TRACKS["ada.wav"].content_id,
            scan_id=ada.scan_id,
            run_id=run.run_id,
        ),
    )
    assert [(change.flag, change.path, change.artist) for change in large.changes] == [
        ("comes", "mix.wav", "Ada"),
        ("comes", "nobody.wav", scans["nobody.wav"].matches[0].artist),
    ]
    mix = scans["mix.wav"]
    assert large.changes[0].threshold == Rule(CALIBRATION, 0.3, 3).threshold(3).llr > large.threshold
    assert large.changes[0].threshold_before == mix.threshold


def test_it_goes_by_the_newest_decision(artists, run):
    decide_run(artists, run.run_id, CALIBRATION, 0.001, say_nothing)

    (preview,) = preview_budgets(artists, CALIBRATION, [0.03], say_nothing)
    (of_run,) = preview_budgets(artists, CALIBRATION, [0.03], say_nothing, run_id=run.run_id)

    assert (preview.n_come, preview.n_go) == (1, 0)
    assert (of_run.n_come, of_run.n_go) == (0, 0)


def test_tracks_of_other_calibrations_are_not_counted_and_named(artists, run):
    with artists.writing():
        artists.db.execute("UPDATE scans SET calibration_id = ? WHERE path = 'mix.wav'", ["d" * 64])
        artists.db.execute("UPDATE scans SET calibration_id = NULL WHERE path IN ('nobody.wav', 'short.wav')")
    said: list[str] = []

    (preview,) = preview_budgets(artists, CALIBRATION, [0.03], said.append)

    own = CALIBRATION.calibration_id[:12]
    assert (preview.n_scans, preview.n_flagged) == (1, 1)
    assert said == [
        f"not counted: 1 tracks, examined with calibration dddddddddddd only, and not with the one in force ({own})",
        f"not counted: 2 tracks, examined before there were calibrations only, and not with the one in force ({own})",
    ]


def test_only_tracks_since_then_and_of_the_run_count(artists, run, encoder):
    matcher = Matcher(artists, encoder, say_nothing)
    with artists.writing():
        artists.db.execute("UPDATE scans SET scanned_at = '2020-01-01T00:00:00Z'")
    from registry.scans import save_query

    save_query(artists, matcher.scan("new.wav", make_voiceprint(singer(1, 10, seed=9), "new")))

    def n_scans(**only) -> int:
        return preview_budgets(artists, CALIBRATION, [0.03], say_nothing, **only)[0].n_scans

    assert n_scans() == len(TRACKS) + 1
    assert n_scans(since="2021-01-01T00:00:00Z") == 1
    assert n_scans(run_id=run.run_id) == len(TRACKS)
    assert n_scans(run_id=run.run_id, since="2021-01-01T00:00:00Z") == 0


def test_a_run_that_is_not_there_is_refused(artists):
    with pytest.raises(RegistryError, match="run 3: there is no such run here"):
        preview_budgets(artists, CALIBRATION, [0.03], say_nothing, run_id=3)


@pytest.mark.parametrize(("budget", "extrapolated", "refused"), [(0.001, False, False), (5e-5, True, False)])
def test_how_far_a_threshold_is_extrapolated_is_said(artists, budget, extrapolated, refused):
    """Nothing is refused here: this is where one looks before."""
    found, beyond = preview_budgets(artists, CALIBRATION, [budget, 1e-6], say_nothing)

    assert (found.is_extrapolated, found.is_refused) == (extrapolated, refused)
    assert (beyond.is_extrapolated, beyond.is_refused, beyond.decades_beyond) == (True, True, 3.0)


def test_a_registry_with_nobody_in_it_has_thresholds_too(store):
    (preview,) = preview_budgets(store, CALIBRATION, [0.03], say_nothing)

    assert (preview.n_artists, preview.n_scans, preview.threshold) == (0, 0, 2.0)


def test_an_artist_without_consent_has_no_flag_and_that_is_said(artists, run):
    withdraw_consent(artists, "Ada")
    said: list[str] = []

    (preview,) = preview_budgets(artists, CALIBRATION, [0.03], said.append)

    assert (preview.n_artists, preview.n_flagged, preview.n_go) == (2, 0, 1)
    assert [(change.path, change.artist, change.llr) for change in preview.changes] == [("ada.wav", None, None)]
    line, crowding = said
    assert line.startswith("Ada: left out, the consent on record was withdrawn on ")
    assert crowding.startswith("what crowding took off the scores of others is kept")


def test_nothing_is_written(artists, run):
    before = "\n".join(artists.db.conn.iterdump())

    preview_budgets(artists, CALIBRATION, BUDGETS, say_nothing)

    assert "\n".join(artists.db.conn.iterdump()) == before


def test_as_many_artists_are_counted_as_are_matched(artists, encoder):
    """Also beside one whose consent is over, and one whose references wait for an approval."""
    enroll_vectors(artists, encoder, "Di", singer(3), consent=Consent("release-9", "2999-01-01T00:00:00Z"))
    with artists.writing():
        artists.db.execute("UPDATE consents SET expires_at = '2020-01-01T00:00:00Z' WHERE ref = 'release-9'")
        artists.add_artist("Ed")

    assert count_matched(artists) == Matcher(artists, encoder, lambda _: None).n_artists == 3
