"""What was examined and decided: the SQL of tracks, scans, matches and runs, as functions on an open `Store`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from registry.errors import RegistryError, UnknownTrack
from registry.records import BatchItem, Evidence, Match, Run, Scan
from registry.store import Store, now
from registry.verdict import likeness_in_words

_SCAN_COLUMNS = (
    *("run_id", "path", "scanned_at", "verdict", "reason", "voiced_s", "n_windows", "n_artists"),
    *("threshold", "threshold_source", "store_revision", "encoder_id", "cohort_id"),
)
_SCANS = f"""
    SELECT s.scan_id, t.content_id, t.duration_s, {", ".join(f"s.{name}" for name in _SCAN_COLUMNS)}
    FROM scans s JOIN tracks t USING (track_id)"""


def add_scan(store: Store, scan: Scan) -> int:
    """Store a scan and its matches and return its scan_id; call inside `store.writing`."""
    track = {"content_id": scan.content_id, "duration_s": scan.duration_s, "first_seen_at": scan.scanned_at}
    store.db.table("tracks").insert(track, ignore=True)
    track_id = store.rows("SELECT track_id FROM tracks WHERE content_id = ?", [scan.content_id])[0]["track_id"]
    row = {"track_id": track_id, **{name: getattr(scan, name) for name in _SCAN_COLUMNS}}
    scan_id = store.insert("scans", row)
    present = store.artist_names()
    store.db.table("matches").insert_all(
        {
            "scan_id": scan_id,
            "rank": match.rank,
            "artist_id": match.artist_id,
            "score": match.score,
            "norm_score": match.norm_score,
            "llr": match.llr,
            "evidence": json.dumps([asdict(item) for item in match.evidence]),
        }
        for match in scan.matches
        if match.artist_id in present  # an artist removed since the match was made leaves no trace
    )
    return scan_id


def find_scans(store: Store, *, track: str | None = None, run_id: int | None = None) -> Iterator[Scan]:
    """Scans, oldest first: of one track (its path, or the beginning of its content_id), of one run, or all.

    Raises
    ------
    UnknownTrack
        `track` names none.
    """
    condition, parameters = "1", list[Any]()
    if track is not None:
        # A prefix by comparison: LIKE would take a path's % and _ for wildcards.
        condition = "? != '' AND (s.path = ? OR substr(t.content_id, 1, length(?)) = ?)"
        parameters = [track] * 4
    if run_id is not None:
        condition, parameters = f"{condition} AND s.run_id = ?", [*parameters, run_id]
    rows = store.rows(f"{_SCANS} WHERE {condition} ORDER BY s.scan_id", parameters)
    if track is not None and not rows:
        raise UnknownTrack(f"{track}: no track with this path or content_id has been scanned here")
    return (_scan(store, row) for row in rows)


def get_scan(store: Store, scan_id: int) -> Scan:
    """One scan by its id."""
    return _scan(store, store.rows(f"{_SCANS} WHERE s.scan_id = ?", [scan_id])[0])


def _scan(store: Store, row: dict[str, Any]) -> Scan:
    matches = store.rows(
        "SELECT m.*, a.name AS artist FROM matches m JOIN artists a USING (artist_id) WHERE scan_id = ? ORDER BY rank",
        [row["scan_id"]],
    )
    return Scan(
        **row,
        matches=tuple(
            Match(
                rank=match["rank"],
                artist_id=match["artist_id"],
                artist=match["artist"],
                score=match["score"],
                norm_score=match["norm_score"],
                llr=match["llr"],
                likeness=likeness_in_words(match["llr"]),
                evidence=tuple(Evidence(**item) for item in json.loads(match["evidence"])),
            )
            for match in matches
        ),
    )


def open_run(store: Store, inputs_key: str) -> Run | None:
    """The unfinished run that was started with the same inputs, if there is one."""
    rows = store.rows(
        "SELECT * FROM runs WHERE inputs_key = ? AND finished_at IS NULL ORDER BY run_id DESC LIMIT 1", [inputs_key]
    )
    return Run(**rows[0]) if rows else None


def finished_run(store: Store, inputs_key: str) -> Run | None:
    """The latest finished run that was started with the same inputs, if there is one."""
    rows = store.rows(
        "SELECT * FROM runs WHERE inputs_key = ? AND finished_at IS NOT NULL ORDER BY run_id DESC LIMIT 1", [inputs_key]
    )
    return Run(**rows[0]) if rows else None


def get_run(store: Store, run_id: int) -> Run:
    """One run by its id."""
    rows = store.rows("SELECT * FROM runs WHERE run_id = ?", [run_id])
    if not rows:
        raise RegistryError(f"run {run_id}: there is no such run here")
    return Run(**rows[0])


def start_run(store: Store, run: dict[str, Any], items: Sequence[BatchItem]) -> Run:
    """Write down a new run and everything that it is to examine, in one transaction."""
    with store.writing():
        run_id = store.insert("runs", {**run, "started_at": now()})
        store.db.table("run_tracks").insert_all(
            {"run_id": run_id, "position": position, **asdict(item), "extra": json.dumps(item.extra or {})}
            for position, item in enumerate(items)
        )
    return get_run(store, run_id)


def pin_run(store: Store, run_id: int, pins: dict[str, Any]) -> None:
    """Pin an unfinished run to another state of the registry."""
    with store.writing():
        store.db.table("runs").update(run_id, pins)


def drop_run(store: Store, run_id: int) -> None:
    """Forget a run and what it decided."""
    with store.writing():
        store.db.execute("DELETE FROM runs WHERE run_id = ?", [run_id])


def finish_run(store: Store, run_id: int) -> None:
    """Mark a run as done."""
    with store.writing():
        store.db.table("runs").update(run_id, {"finished_at": now()})


def run_paths(store: Store, run_id: int) -> set[str]:
    """Paths of everything that a run is to examine."""
    return {row["path"] for row in store.rows("SELECT path FROM run_tracks WHERE run_id = ?", [run_id])}


def run_tracks(store: Store, run_id: int, *, done: bool) -> list[dict[str, Any]]:
    """What a run has examined (`done`), or has left to examine, in order."""
    condition = "IS NOT NULL" if done else "IS NULL"
    rows = store.rows(f"SELECT * FROM run_tracks WHERE run_id = ? AND outcome {condition} ORDER BY position", [run_id])
    return [{**row, "extra": json.loads(row["extra"])} for row in rows]


def finish_track(store: Store, run_id: int, position: int, *, scan: Scan) -> int:
    """Record what was decided of a run's track, once, in one transaction; returns the scan_id."""
    with store.writing():
        scan_id = add_scan(store, scan)
        _close_track(store, run_id, position, scan.verdict, scan.reason, kind=None, scan_id=scan_id)
    return scan_id


def fail_track(store: Store, run_id: int, position: int, *, kind: str, reason: str) -> None:
    """Record why a run's track could not be examined, once, in one transaction."""
    with store.writing():
        _close_track(store, run_id, position, "failed", reason, kind=kind, scan_id=None)


def _close_track(
    store: Store, run_id: int, position: int, outcome: str, reason: str, *, kind: str | None, scan_id: int | None
) -> None:
    n_changed = store.db.execute(
        "UPDATE run_tracks SET outcome = ?, reason = ?, kind = ?, scan_id = ? "
        "WHERE run_id = ? AND position = ? AND outcome IS NULL",
        [outcome, reason, kind, scan_id, run_id, position],
    ).rowcount
    if n_changed != 1:
        raise RegistryError(f"run {run_id}: track {position} has an outcome already; is the same run going on twice?")


def run_outcomes(store: Store, run_id: int) -> dict[str, int]:
    """How many tracks of a run ended how; those left are counted as ``open``."""
    rows = store.rows(
        "SELECT COALESCE(outcome, 'open') AS outcome, COUNT(*) AS n FROM run_tracks WHERE run_id = ? GROUP BY 1",
        [run_id],
    )
    return {row["outcome"]: row["n"] for row in rows}
