from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from registry import audit, config
from registry.errors import RegistryError
from registry.records import Scan
from registry.retention import purge
from registry.scans import add_scan, find_scans
from registry.store import Store
from tests.fakes import enroll_vectors, files_holding, make_matcher, make_voiceprint, singer, table_counts

RUN = {"inputs_key": "k", "store_revision": 1, "encoder_id": "e", "cohort_id": "c", "threshold": 2.0}
NOTHING = {"tracks": 0, "scans": 0, "run_tracks": 0}


def days_ago(days: float) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture
def scans(store, encoder) -> dict[str, Scan]:
    """A scan of each verdict, not stored."""
    enroll_vectors(store, encoder, "Ada", singer(0))
    matcher, _ = make_matcher(store, encoder)
    found = {
        "flagged": matcher.scan("flagged.wav", make_voiceprint(singer(0, seed=5), "flagged")),
        "clear": matcher.scan("clear.wav", make_voiceprint(singer(6), "clear")),
        "abstained": matcher.scan("abstained.wav", make_voiceprint(singer(6), "abstained", voiced_s=1.0)),
    }
    assert {name: scan.verdict for name, scan in found.items()} == {name: name for name in found}
    return found


def save(store: Store, scan: Scan, days: float) -> int:
    """Store a scan that was made so many days ago."""
    with store.writing():
        scan_id = add_scan(store, scan)
        store.db.execute("UPDATE scans SET scanned_at = ? WHERE scan_id = ?", [days_ago(days), scan_id])
    return scan_id


def save_run(store: Store, days: float, rows: list[dict[str, Any]], *, is_finished: bool = True) -> int:
    """Store a run that was started a day before so many days ago, and finished then."""
    with store.writing():
        finished_at = days_ago(days) if is_finished else None
        times = {"started_at": days_ago(days + 1), "finished_at": finished_at}
        run_id = store.insert("runs", {**RUN, **times, "threshold_source": "s", "version": "0"})
        for position, row in enumerate(rows):
            store.insert("run_tracks", {"run_id": run_id, "position": position, "path": "x", "extra": "{}", **row})
    return run_id


def failed(path: str) -> dict[str, Any]:
    return {"path": path, "outcome": "failed", "kind": "invalid", "reason": "not audio"}


def left(store: Store) -> list[str]:
    return [scan.path for scan in find_scans(store)]


@pytest.mark.parametrize(
    ("days", "flagged_days", "gone"),
    [
        (30, None, ["clear.wav", "abstained.wav"]),
        (None, 30, ["flagged.wav"]),
        (30, 30, ["flagged.wav", "clear.wav", "abstained.wav"]),
        (50, 30, ["flagged.wav"]),
        (50, 50, []),
        (10**9, 10**9, []),
    ],
)
def test_tracks_go_by_their_age_and_whether_they_were_flagged(store, scans, days, flagged_days, gone):
    for scan in scans.values():
        save(store, scan, 40)
    before = left(store)

    counts = purge(store, days=days, flagged_days=flagged_days)

    assert counts == {**NOTHING, "tracks": len(gone), "scans": len(gone)}
    assert left(store) == [path for path in before if path not in gone]
    assert table_counts(store).get("tracks", 0) == 3 - len(gone)
    assert store.rows("SELECT COUNT(*) AS n FROM matches WHERE scan_id NOT IN (SELECT scan_id FROM scans)") == [
        {"n": 0}
    ]


def test_a_track_is_as_old_as_its_last_scan(store, scans):
    save(store, scans["clear"], 400)
    save(store, scans["clear"], 10)

    assert purge(store, days=30) == NOTHING
    assert len(left(store)) == 2


def test_a_track_that_was_ever_flagged_counts_as_flagged(store, scans):
    save(store, scans["flagged"], 400)
    with store.writing():  # and was clear since, for instance against another threshold
        store.db.execute("UPDATE scans SET verdict = 'clear' WHERE scan_id = ?", [save_clear_again(store, scans)])

    assert purge(store, days=30) == NOTHING
    assert purge(store, flagged_days=30) == {**NOTHING, "tracks": 1, "scans": 2}


def save_clear_again(store: Store, scans: dict[str, Scan]) -> int:
    track_id = store.rows("SELECT track_id FROM tracks")[0]["track_id"]
    columns = "run_id, path, verdict, reason, voiced_s, n_windows, n_artists, threshold, threshold_source"
    rest = "store_revision, encoder_id, cohort_id"
    store.db.execute(
        f"INSERT INTO scans (track_id, scanned_at, {columns}, {rest}) SELECT track_id, ?, {columns}, {rest} FROM scans "
        "WHERE track_id = ?",
        [days_ago(300), track_id],
    )
    return int(store.rows("SELECT MAX(scan_id) AS n FROM scans")[0]["n"])


def test_the_settings_are_what_goes_unless_it_is_said(store, scans):
    for scan in scans.values():
        save(store, scan, 40)
    config.change_setting(store, config.RETENTION_DAYS, 90)
    config.change_setting(store, config.FLAGGED_RETENTION_DAYS, 30)

    assert purge(store, dry_run=True) == {**NOTHING, "tracks": 1, "scans": 1}
    assert purge(store, days=30, dry_run=True) == {**NOTHING, "tracks": 3, "scans": 3}
    assert purge(store, flagged_days=60, dry_run=True) == NOTHING


@pytest.mark.parametrize("dry_run", [True, False])
def test_without_a_retention_nothing_is_deleted(store, scans, dry_run):
    save(store, scans["clear"], 4000)

    with pytest.raises(RegistryError, match=r"no retention is set, so nothing is deleted; `likeness config set"):
        purge(store, dry_run=dry_run)

    assert left(store) == ["clear.wav"]


def test_a_dry_run_counts_what_would_go_and_deletes_nothing(store, scans):
    scan_id = save(store, scans["clear"], 40)
    save_run(store, 40, [{"outcome": "clear", "scan_id": scan_id}, failed("text.wav")])
    before = {table: store.rows(f"SELECT * FROM {table}") for table in table_counts(store)}

    counts = purge(store, days=30, dry_run=True)

    assert counts == {"tracks": 1, "scans": 1, "run_tracks": 2}
    assert {table: store.rows(f"SELECT * FROM {table}") for table in table_counts(store)} == before
    assert purge(store, days=30) == counts


def test_rows_of_batches_go_with_their_tracks_and_runs_with_their_last_row(store, scans):
    clear, flagged = save(store, scans["clear"], 40), save(store, scans["flagged"], 40)
    all_gone = save_run(store, 40, [{"outcome": "clear", "scan_id": clear}, failed("text.wav")])
    some_left = save_run(store, 40, [{"outcome": "flagged", "scan_id": flagged}, failed("noise.wav")])

    counts = purge(store, days=30)

    assert counts == {"tracks": 1, "scans": 1, "run_tracks": 3}
    assert store.rows("SELECT run_id FROM runs") == [{"run_id": some_left}] != [{"run_id": all_gone}]
    assert store.rows("SELECT scan_id, outcome FROM run_tracks") == [{"scan_id": flagged, "outcome": "flagged"}]


def test_tracks_that_failed_go_when_their_run_is_old_and_finished(store, scans):
    old = save_run(store, 40, [failed("old.wav")])
    new = save_run(store, 20, [failed("new.wav")])

    assert purge(store, flagged_days=1) == NOTHING  # says nothing of failed ones
    assert purge(store, days=30) == {**NOTHING, "run_tracks": 1}
    assert [row["run_id"] for row in store.rows("SELECT run_id FROM runs")] == [new] != [old]


def test_tracks_that_failed_are_as_old_as_the_run_that_theirs_was_decided_from(store, scans):
    """Deciding a run again, and again, keeps nothing of strangers' tracks for longer."""
    old = save_run(store, 40, [failed("old.wav")])
    decided = save_run(store, 20, [failed("old.wav")])
    again = save_run(store, 1, [failed("old.wav")])
    save_run(store, 20, [failed("new.wav")])
    with store.writing():
        for run_id, origin in ((decided, old), (again, decided)):
            store.db.execute("UPDATE runs SET decided_from = ? WHERE run_id = ?", [origin, run_id])

    assert purge(store, days=30) == {**NOTHING, "run_tracks": 3}

    assert [row["path"] for row in store.rows("SELECT path FROM run_tracks")] == ["new.wav"]


def test_a_run_that_is_not_finished_keeps_what_it_needs_to_go_on(store, scans):
    run_id = save_run(store, 400, [failed("text.wav"), {"path": "open.wav"}], is_finished=False)

    assert purge(store, days=30, flagged_days=30) == {**NOTHING, "run_tracks": 1}

    assert [row["path"] for row in store.rows("SELECT path FROM run_tracks")] == ["open.wav"]
    assert [row["run_id"] for row in store.rows("SELECT run_id FROM runs")] == [run_id]


def test_nothing_that_is_enrolled_is_touched(store, scans):
    save(store, scans["clear"], 40)
    before = store.references(), store.gallery().vectors.tobytes(), store.revision

    purge(store, days=0, flagged_days=0)

    assert (store.references(), store.gallery().vectors.tobytes(), store.revision) == before


def test_what_was_purged_is_in_no_byte_of_the_home(store, scans):
    save(store, scans["clear"], 40)
    save_run(store, 40, [failed("/secret/Zaubernuss.wav")])
    needles = [scans["clear"].content_id.encode(), b"clear.wav", b"Zaubernuss"]
    assert all(files_holding(store.home, needle) for needle in needles)

    purge(store, days=30)

    assert [found for needle in needles for found in files_holding(store.home, needle)] == []


def test_a_purge_is_in_the_audit_and_one_of_nothing_is_not(store, scans):
    save(store, scans["clear"], 40)
    store.actor = "ida"

    purge(store, days=30)
    purge(store, days=30)

    (entry,) = [entry for entry in audit.entries(store) if entry.action == "purge"]
    assert entry.payload == {
        **{"tracks": 1, "scans": 1, "run_tracks": 0, "days": 30, "flagged_days": None, "by": "ida"},
    }
    assert audit.verify(store).problems == ()


def test_a_purge_that_is_cut_short_deletes_nothing_and_can_be_done_again(store, scans, monkeypatch):
    save(store, scans["clear"], 40)

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt("at the end")

    with monkeypatch.context() as patch:
        patch.setattr(audit, "append", fail)
        with pytest.raises(KeyboardInterrupt, match="at the end"):
            purge(store, days=30)
    assert left(store) == ["clear.wav"]

    assert purge(store, days=30) == {**NOTHING, "tracks": 1, "scans": 1}
