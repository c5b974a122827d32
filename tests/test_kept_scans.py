from __future__ import annotations

from typing import Any

import pytest

from registry.kept_scans import latest_scans, matched_artists, run_scans, tracks_of_others
from registry.records import KeptMatch, KeptScan
from registry.store import Store

OWN, OTHER = "c" * 64, "d" * 64


def add(store: Store, track: str, calibration_id: str | None = OWN, *, day: int = 1, run_id: int | None = None) -> int:
    """A scan of a track, made on that day, with two matches."""
    with store.writing():
        store.db.execute(
            "INSERT OR IGNORE INTO tracks (content_id, duration_s, first_seen_at) VALUES (?, 200.5, '')", [track]
        )
        (row,) = store.rows("SELECT track_id FROM tracks WHERE content_id = ?", [track])
        scan: dict[str, Any] = {
            **{"track_id": row["track_id"], "run_id": run_id, "path": f"in/{track}", "verdict": "clear"},
            **{"scanned_at": f"2026-11-{day:02d}T12:00:00Z", "reason": "why", "voiced_s": 90.0, "n_windows": 40},
            **{"n_artists": 2, "threshold": 2.0, "threshold_source": "s", "store_revision": 1, "encoder_id": "e"},
            "calibration_id": calibration_id,
        }
        scan_id = store.insert("scans", scan)
        for rank, artist_id in ((1, 2), (2, 1)):
            match = {"scan_id": scan_id, "rank": rank, "artist_id": artist_id, "score": 0.5, "norm_score": 1.0}
            store.insert("matches", {**match, "llr": 2.5 - rank, "flagged": rank == 1, "evidence": "[]"})
    return scan_id


@pytest.fixture(autouse=True)
def artists(store) -> None:
    with store.writing():
        for name in ("Ada", "Bo"):
            store.add_artist(name)


def ids(scans) -> list[int]:
    return [scan.scan_id for scan in scans]


def add_run(store: Store) -> int:
    run = {"inputs_key": "k", "started_at": "", "store_revision": 1, "encoder_id": "e", "threshold": 2.0}
    with store.writing():
        return store.insert("runs", {**run, "threshold_source": "s", "version": "0"})


def test_a_scan_comes_with_what_it_takes_to_decide_again(store):
    run_id = add_run(store)
    add(store, "a", run_id=run_id)

    matches = KeptMatch(1, 2, 1.5, True), KeptMatch(2, 1, 0.5, False)
    assert list(run_scans(store, run_id, without=[])) == [
        KeptScan(1, run_id, "in/a", "a", 200.5, 90.0, 2, 2.0, "clear", "why", OWN, matches)
    ]
    assert [scan.matches for scan in run_scans(store, run_id, without=[2, 9])] == [matches[1:]]
    assert [scan.matches for scan in run_scans(store, run_id, without=[1, 2])] == [()]


def test_each_track_counts_once_by_its_newest_scan_of_the_calibration(store):
    add(store, "a"), add(store, "b")
    newest = [add(store, "a", day=2), add(store, "c")]
    add(store, "b", OTHER, day=3)

    assert ids(latest_scans(store, OWN, without=[])) == [2, *newest]


def test_only_tracks_examined_since_or_in_a_run_count(store):
    run_id, other_id = add_run(store), add_run(store)
    first, second = add(store, "a", run_id=run_id), add(store, "a", day=3, run_id=other_id)
    alone = add(store, "b", day=3)

    assert ids(latest_scans(store, OWN, run_id=run_id, without=[])) == [first]
    assert ids(latest_scans(store, OWN, since="2026-11-03T12:00:00Z", without=[])) == [second, alone]
    assert ids(latest_scans(store, OWN, since="2026-11-03T12:00:01Z", without=[])) == []
    assert ids(latest_scans(store, OWN, since="2026-11-02", run_id=run_id, without=[])) == []


def test_tracks_that_only_other_calibrations_know_are_counted_by_these(store):
    run_id = add_run(store)
    for track, calibration_id in [("a", None), ("b", None), ("b", OTHER), ("c", OTHER), ("c", OWN), ("d", None)]:
        add(store, track, calibration_id, run_id=run_id if track == "d" else None)

    assert tracks_of_others(store, OWN) == {OTHER: 1, None: 2}
    assert tracks_of_others(store, OWN, run_id=run_id) == {None: 1}
    assert tracks_of_others(store, OWN, since="2026-12") == {}
    assert tracks_of_others(store, OTHER) == {None: 2}


def test_the_artists_whom_scans_name(store):
    run_id = add_run(store)
    add(store, "a")

    assert (matched_artists(store), matched_artists(store, run_id)) == ({1, 2}, set())
