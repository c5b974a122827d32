from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from registry import audit, runs, verdict
from registry.calibration import Calibration, Rule, Threshold
from registry.config import FALSE_FLAG_BUDGET, value_of
from registry.erasure import erase_artist
from registry.errors import NoThreshold, RegistryError, UndecidableRun
from registry.kept_scans import run_scans
from registry.match import Matcher
from registry.records import KeptMatch, KeptScan, Run, Scan
from registry.redecide import DecidedRun, Redecision, decide_run
from registry.rights import withdraw_consent
from registry.scans import find_scans
from registry.store import Store
from tests.fakes import COHORT_ID, crowded, enroll_vectors, fake_calibration, singer
from tests.kept_runs import CALIBRATION, TRACKS, examine

#: Budgets whose thresholds lie below and above the llr of Ada's song, 2.2 to 2.6, which the default flags at 2.0.
LARGE, SMALL = 0.3, 0.001
OWNER = "elsewhere 7 1"


def kept(llr: float | None = None, **values: Any) -> KeptScan:
    """A scan on record of a track with one match, or none."""
    matches = () if llr is None else (KeptMatch(1, 1, llr, False),)
    known = {"scan_id": 1, "run_id": None, "path": "in/a.wav", "content_id": "a" * 64, "duration_s": 200.0}
    known |= {"voiced_s": 100.0, "n_artists": 3, "threshold": 2.0, "verdict": "clear", "reason": "was clear"}
    return KeptScan(**{**known, "calibration_id": CALIBRATION.calibration_id, "matches": matches, **values})


def say_nothing(line: str) -> None:
    raise AssertionError(f"nothing is to be said, and not: {line}")


# -- one scan ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beyond", [0.0, -0.001])
def test_what_reaches_the_new_threshold_is_flagged(beyond):
    redecision = Redecision(CALIBRATION, SMALL)
    threshold = redecision.threshold(3)

    decision = redecision.decide(kept(threshold.llr + beyond))

    assert (decision.verdict, decision.flagged) == (("flagged", {1}) if beyond == 0 else ("clear", set()))
    assert (decision.threshold, decision.threshold_source) == (threshold.llr, threshold.source)
    assert (decision.scan_id, decision.budget) == (1, SMALL)


def test_the_threshold_is_that_of_as_many_artists_and_sections_as_the_scan_had():
    tail = {**fake_calibration(COHORT_ID)["tail"], "sizes": [1, 20], "galleries": [1.0, 20.0]}
    calibration = Calibration.from_dict({**fake_calibration(COHORT_ID), "tail": tail})

    found = Redecision(calibration, 0.01).decide(kept(9.0, duration_s=700.0, n_artists=20))

    assert found.threshold == Rule(calibration, 0.01, 20).threshold(3).llr
    assert found.threshold > Rule(calibration, 0.01, 20).threshold(1).llr > Rule(calibration, 0.01, 1).threshold(1).llr


def test_every_match_has_its_own_flag():
    matches = tuple(KeptMatch(rank, rank, llr, False) for rank, llr in enumerate([5.0, 4.0, 1.0], start=1))

    assert Redecision(CALIBRATION, SMALL).decide(kept(matches=matches)).flagged == {1, 2}


def test_one_that_abstained_stays_so_though_its_seconds_were_rounded():
    scan = kept(verdict="abstained", reason="1.4 s of voice found", voiced_s=verdict.MIN_VOICE_S)

    decision = Redecision(CALIBRATION, LARGE).decide(scan)

    assert (decision.verdict, decision.reason, decision.flagged) == ("abstained", "1.4 s of voice found", frozenset())


def test_a_threshold_too_far_beyond_the_strangers_is_refused_unless_accepted():
    with pytest.raises(NoThreshold, match="--accept-extrapolation"):
        Redecision(CALIBRATION, 1e-6).decide(kept(2.0))

    found = Redecision(CALIBRATION, 1e-6, accept_extrapolation=True).decide(kept(2.0))
    assert "(threshold extrapolated)" in found.reason


# -- a run -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def artists(any_store, encoder) -> Store:
    for axis, name in enumerate(["Ada", "Bo", "Cy"]):
        enroll_vectors(any_store, encoder, name, singer(axis, 12, seed=axis))
    return any_store


@pytest.fixture
def run(artists, encoder) -> Run:
    return examine(artists, encoder)


def of_run(store: Store, run_id: int) -> dict[str, list[dict[str, Any]]]:
    """All rows of a run."""
    of_scans = "scan_id IN (SELECT scan_id FROM scans WHERE run_id = ?) ORDER BY scan_id"
    return {
        "runs": store.rows("SELECT * FROM runs WHERE run_id = ?", [run_id]),
        "run_tracks": store.rows("SELECT * FROM run_tracks WHERE run_id = ? ORDER BY position", [run_id]),
        "scans": store.rows("SELECT * FROM scans WHERE run_id = ? ORDER BY scan_id", [run_id]),
        "matches": store.rows(f"SELECT * FROM matches WHERE {of_scans}, rank", [run_id]),
    }


def without(rows: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in names} for row in rows]


def all_rows(store: Store) -> dict[str, list[dict[str, Any]]]:
    tables = ("runs", "run_tracks", "tracks", "scans", "matches", "audit", "settings")
    return {table: store.rows(f"SELECT * FROM {table}") for table in tables}


def plain(scan: Scan) -> Scan:
    """A scan without what says when it was made and kept."""
    return replace(scan, scan_id=None, run_id=None, scanned_at="")


def test_a_run_is_decided_again_as_a_new_one(artists, run):
    store, before = artists, of_run(artists, run.run_id)

    found = decide_run(store, run.run_id, CALIBRATION, SMALL, say_nothing)

    threshold = Rule(CALIBRATION, SMALL, 3).threshold(1)
    assert found == DecidedRun(
        run_id=2,
        decided_from=1,
        budget=SMALL,
        threshold=threshold.llr,
        threshold_source=threshold.source,
        n_tracks=6,
        outcomes={"abstained": 1, "clear": 4, "failed": 1},
        outcomes_before={"abstained": 1, "clear": 2, "failed": 1, "flagged": 2},
        came=0,
        went=2,
    )
    assert of_run(store, run.run_id) == before
    after = of_run(store, 2)
    own = ("run_id", "inputs_key", "started_at", "finished_at", "threshold", "threshold_source", "budget")
    assert without(after["runs"], *own, "decided_from", "version") == without(
        before["runs"], *own, "decided_from", "version"
    )
    new = runs.get_run(store, 2)
    assert (new.decided_from, new.budget, new.threshold) == (1, SMALL, threshold.llr)
    assert new.finished_at is not None
    assert new.inputs_key not in (run.inputs_key, "")

    decided = ("run_id", "scan_id", "outcome", "reason")
    assert without(after["run_tracks"], *decided) == without(before["run_tracks"], *decided)
    assert [row["outcome"] for row in after["run_tracks"]] == [
        *("clear", "clear", "clear", "abstained", "clear", "failed"),
    ]
    assert after["run_tracks"][5]["reason"] == "not audio"
    decided = ("scan_id", "run_id", "verdict", "reason", "threshold", "threshold_source", "budget")
    assert without(after["scans"], *decided) == without(before["scans"], *decided)
    assert without(after["matches"], "scan_id", "flagged") == without(before["matches"], "scan_id", "flagged")
    assert [row["scan_id"] for row in after["run_tracks"]] == [*[row["scan_id"] for row in after["scans"]], None]


@pytest.mark.parametrize("budget", [LARGE, SMALL, 0.03])
def test_the_outcome_is_that_of_a_batch_with_that_budget(artists, encoder, run, budget):
    """Every scan is what `Matcher` would have made of the track: verdict, reason, threshold, flags, evidence."""
    matcher = Matcher(artists, encoder, lambda _: None, budget=budget)

    found = decide_run(artists, run.run_id, CALIBRATION, budget, say_nothing)

    scans = list(find_scans(artists, run_id=found.run_id))
    assert [plain(scan) for scan in scans] == [plain(matcher.scan(scan.path, TRACKS[scan.path])) for scan in scans]
    assert [scan.path for scan in scans] == [*TRACKS, "ada.wav"]
    assert found.threshold == matcher.threshold.llr


def test_what_crowding_took_off_is_that_of_the_run_before(artists, encoder):
    """Also where a calibration takes off what others do, and of each artist another amount."""
    encoder.calibration = crowded(encoder.calibration, artist=0.0, track=1.0)
    calibration = Calibration.from_dict(encoder.calibration)
    run = examine(artists, encoder, calibration)
    taken_off = [row["taken_off"] for row in of_run(artists, run.run_id)["matches"]]

    found = decide_run(artists, run.run_id, calibration, LARGE, say_nothing)

    after = of_run(artists, found.run_id)["matches"]
    assert [row["taken_off"] for row in after] == taken_off
    assert len(set(taken_off)) > 1
    before = [match for scan in find_scans(artists, run_id=run.run_id) for match in scan.matches]
    again = [match for scan in find_scans(artists, run_id=found.run_id) for match in scan.matches]
    assert [match.taken_off for match in again] == [match.taken_off for match in before] == taken_off


def test_what_was_decided_again_can_be_decided_again(artists, run):
    strict = decide_run(artists, run.run_id, CALIBRATION, SMALL, say_nothing)

    found = decide_run(artists, strict.run_id, CALIBRATION, 0.03, say_nothing)

    assert (found.run_id, found.decided_from, found.came, found.went) == (3, 2, 2, 0)
    assert found.outcomes == strict.outcomes_before
    assert without(of_run(artists, 3)["matches"], "scan_id") == without(of_run(artists, 1)["matches"], "scan_id")


def test_it_is_in_the_audit_and_changes_no_setting(artists, run):
    artists.actor = "ida"

    found = decide_run(artists, run.run_id, CALIBRATION, SMALL, say_nothing)

    decided, finished = audit.entries(artists, last=2)
    assert (decided.action, decided.payload) == (
        "run.decide",
        {
            **{"run_id": 2, "decided_from": 1, "budget": SMALL, "threshold": found.threshold},
            **{"came": 0, "went": 2, "by": "ida"},
        },
    )
    assert (finished.action, finished.payload) == (
        "run.finish",
        {
            **{"run_id": 2, "outcomes": found.outcomes, "by": "ida"},
            "sha256": runs.outcomes_sha256(artists, 2),
        },
    )
    assert audit.verify(artists).problems == ()
    assert value_of(artists, FALSE_FLAG_BUDGET) == 0.03
    assert runs.finished_run(artists, run.inputs_key) == run


def test_a_scan_is_of_the_moment_when_its_track_was_heard_so_that_nothing_is_kept_for_longer(artists, run):
    with artists.writing():
        artists.db.execute("UPDATE scans SET scanned_at = '2020-01-01T00:00:00Z'")

    decide_run(artists, run.run_id, CALIBRATION, SMALL, say_nothing)

    assert {scan.scanned_at for scan in find_scans(artists, run_id=2)} == {"2020-01-01T00:00:00Z"}


def test_an_artist_without_consent_is_left_out_and_that_is_said(artists, run):
    withdraw_consent(artists, "Ada")
    withdraw_consent(artists, "Cy")
    said: list[str] = []

    found = decide_run(artists, run.run_id, CALIBRATION, 0.03, said.append)

    assert [line.partition(" was withdrawn")[0] for line in said] == [
        "Ada: left out, the consent on record",
        "Cy: left out, the consent on record",
        "what crowding took off the scores of others is kept as it was with those who are left out now; `likeness "
        "batch` examines the tracks without them",
    ]
    # Bo is first now wherever he was before.
    matches = [[(match.rank, match.artist) for match in scan.matches] for scan in find_scans(artists, run_id=2)]
    assert [(1, "Bo")] in matches and all(each in ([], [(1, "Bo")]) for each in matches)
    ranks = {match.rank for scan in find_scans(artists, run_id=1) for match in scan.matches if match.artist == "Bo"}
    assert ranks - {1}
    assert (found.outcomes["clear"], found.went) == (4, 2)


def test_an_artist_removed_since_is_not_decided_about(artists, run):
    erase_artist(artists, "Ada", lambda _: None)

    found = decide_run(artists, run.run_id, CALIBRATION, 0.03, say_nothing)

    assert (found.outcomes.get("flagged"), found.went) == (None, 2)
    assert "Ada" not in "\n".join(artists.db.conn.iterdump())


# -- what is refused ---------------------------------------------------------------------------------------------------


def refused(store: Store, run_id: int, match: str, error: type[RegistryError] = UndecidableRun, **options: Any) -> None:
    """Decide and be refused, and nothing is changed."""
    before = all_rows(store)
    options = {"calibration": CALIBRATION, "budget": SMALL, **options}

    with pytest.raises(error, match=match):
        decide_run(store, run_id, options["calibration"], options["budget"], say_nothing)

    assert all_rows(store) == before


def test_a_run_that_is_not_there_is_refused(artists, run):
    refused(artists, 7, "run 7: there is no such run here", RegistryError)


def test_a_run_that_is_not_finished_is_refused(artists, encoder):
    run = examine(artists, encoder, is_finished=False)

    refused(artists, run.run_id, r"run 1: is not finished, 1 tracks are left; start the same `likeness batch` again")


def test_a_run_of_another_calibration_is_refused(artists, run):
    other = Calibration.from_dict({**fake_calibration(COHORT_ID), "source": "other strangers"})

    refused(
        artists,
        run.run_id,
        rf"run 1: its likelihood ratios are of calibration {CALIBRATION.calibration_id[:12]}, in force is "
        f"{other.calibration_id[:12]}; examine",
        calibration=other,
    )


def test_one_scan_of_another_calibration_is_enough(artists, run):
    with artists.writing():
        artists.db.execute("UPDATE scans SET calibration_id = 'another one' WHERE path = 'mix.wav'")

    refused(artists, run.run_id, "are of calibration another one, in force is")


def test_a_run_from_before_calibrations_is_refused(artists, run):
    with artists.writing():
        artists.db.execute("UPDATE runs SET calibration_id = NULL")

    refused(artists, run.run_id, "from before there were calibrations")


def test_a_budget_that_asks_for_too_much_is_refused(artists, run):
    refused(artists, run.run_id, "--accept-extrapolation", NoThreshold, budget=1e-7)

    found = decide_run(artists, run.run_id, CALIBRATION, 1e-7, say_nothing, accept_extrapolation=True)
    assert "threshold extrapolated" in found.threshold_source


def test_one_that_is_cut_short_leaves_nothing(artists, run, monkeypatch):
    before = all_rows(artists)

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt("at the end")

    with monkeypatch.context() as patch:
        patch.setattr(runs.audit, "append", fail)
        with pytest.raises(KeyboardInterrupt, match="at the end"):
            decide_run(artists, run.run_id, CALIBRATION, SMALL, say_nothing)

    assert all_rows(artists) == before
    assert decide_run(artists, run.run_id, CALIBRATION, SMALL, say_nothing).run_id == 2


def test_kept_scans_of_a_run_are_without_evidence_and_whom_they_are_to_be_without(artists, run):
    scans = list(run_scans(artists, run.run_id, without=[2]))

    assert [scan.path for scan in scans] == [*TRACKS, "ada.wav"]
    assert [match.artist_id for match in scans[0].matches] == [1, 3]
    assert scans[3].matches == ()
    assert isinstance(Redecision(CALIBRATION, SMALL).threshold(3), Threshold)
