"""What was examined and decided: the SQL of tracks, scans and matches, as functions on an open `Store`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from registry import audit
from registry.errors import UnknownTrack
from registry.lookalikes import with_lookalikes
from registry.records import Evidence, Match, Scan
from registry.store import Store
from registry.verdict import likeness_in_words

#: Columns of table `scans`, but for its id and the track's.
SCAN_COLUMNS = (
    *("run_id", "path", "scanned_at", "verdict", "reason", "voiced_s", "n_windows", "n_artists"),
    "n_not_matched",
    *("threshold", "threshold_source", "store_revision", "encoder_id", "cohort_id", "budget", "calibration_id"),
)
_SCANS = f"""
    SELECT s.scan_id, t.content_id, t.duration_s, {", ".join(f"s.{name}" for name in SCAN_COLUMNS)}
    FROM scans s JOIN tracks t USING (track_id)"""


def add_scan(store: Store, scan: Scan) -> int:
    """Store a scan and its matches and return its scan_id; call inside `store.writing`."""
    track = {"content_id": scan.content_id, "duration_s": scan.duration_s, "first_seen_at": scan.scanned_at}
    store.db.table("tracks").insert(track, ignore=True)
    track_id = store.rows("SELECT track_id FROM tracks WHERE content_id = ?", [scan.content_id])[0]["track_id"]
    row = {"track_id": track_id, **{name: getattr(scan, name) for name in SCAN_COLUMNS}}
    scan_id = store.insert("scans", row)
    present = store.present(match.artist_id for match in scan.matches)
    store.db.table("matches").insert_all(
        {
            "scan_id": scan_id,
            "rank": match.rank,
            "artist_id": match.artist_id,
            "score": match.score,
            "norm_score": match.norm_score,
            "llr": match.llr,
            "flagged": match.flagged,
            "taken_off": match.taken_off,
            "evidence": json.dumps([_without_path(item) for item in match.evidence]),
        }
        for match in scan.matches
        if match.artist_id in present  # an artist removed since the match was made leaves no trace
    )
    return scan_id


def save_query(store: Store, scan: Scan) -> Scan:
    """Store the scan of a track that somebody asked about, with an entry in the audit; returns it with its scan_id."""
    with store.writing():
        scan_id = add_scan(store, scan)
        (row,) = store.rows("SELECT track_id FROM scans WHERE scan_id = ?", [scan_id])
        told = {"scan_id": scan_id, "verdict": scan.verdict, "threshold": scan.threshold}
        audit.append(store, "track.query", told, track_id=row["track_id"])
    return replace(scan, scan_id=scan_id)


def _without_path(evidence: Evidence) -> dict[str, Any]:
    """Evidence as it is stored: the reference by its number, for its path is sealed in an encrypted registry."""
    return {name: value for name, value in asdict(evidence).items() if name != "reference"}


def find_scans(
    store: Store, *, track: str | None = None, run_id: int | None = None, artist_id: int | None = None
) -> Iterator[Scan]:
    """Scans, oldest first: of one track (its path, or the beginning of its content_id), of one run, or all.

    With `artist_id` only those that have this artist among their matches.

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
    if artist_id is not None:
        matched = "s.scan_id IN (SELECT scan_id FROM matches WHERE artist_id = ?)"
        condition, parameters = f"{condition} AND {matched}", [*parameters, artist_id]
    rows = store.rows(f"{_SCANS} WHERE {condition} ORDER BY s.scan_id", parameters)
    if track is not None and not rows:
        raise UnknownTrack(f"{track}: no track with this path or content_id has been scanned here")
    return (_scan(store, row) for row in rows)


def get_scan(store: Store, scan_id: int) -> Scan:
    """One scan by its id."""
    return _scan(store, store.rows(f"{_SCANS} WHERE s.scan_id = ?", [scan_id])[0])


def _scan(store: Store, row: dict[str, Any]) -> Scan:
    matches = [
        {**match, "evidence": json.loads(match["evidence"])}
        for match in store.rows("SELECT * FROM matches WHERE scan_id = ? ORDER BY rank", [row["scan_id"]])
    ]
    paths = store.reference_paths(item["reference_id"] for match in matches for item in match["evidence"])
    return Scan(
        **row,
        matches=with_lookalikes(
            store,
            [
                Match(
                    rank=match["rank"],
                    artist_id=match["artist_id"],
                    artist=store.name_of(match["artist_id"]),
                    score=match["score"],
                    norm_score=match["norm_score"],
                    llr=match["llr"],
                    likeness=likeness_in_words(match["llr"]),
                    flagged=bool(match["flagged"]),
                    evidence=tuple(
                        Evidence(**item, reference=paths.get(item["reference_id"], "(removed)"))
                        for item in match["evidence"]
                    ),
                    taken_off=match["taken_off"],
                )
                for match in matches
            ],
        ),
    )
